"""What a DICOM header says an image shows: anatomy in the scanner's own values, or something else.

Phase, real and imaginary parts, computed maps, mosaics, localizers and screen captures look like images and are none
that the model was made for; their values mean something else. They are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom import Dataset

from medq_uni.errors import UnreadableImage
from medq_uni.io.dicom_pixels import uid_name
from medq_uni.io.mosaic import WHY_NOT, is_mosaic, mosaic_of
from medq_uni.taxonomy import Modality

MODALITIES = {"CT": Modality.CT, "MR": Modality.MR, "PT": Modality.PET}
FOREIGN_MODALITIES = {
    **{"CR": "computed radiography", "DX": "radiography", "DR": "radiography", "MG": "mammography"},
    **{"US": "ultrasound", "NM": "nuclear medicine", "XA": "angiography", "RF": "fluoroscopy", "OT": "other"},
    **{"SC": "secondary capture", "IVUS": "ultrasound", "OCT": "optical coherence tomography", "OP": "ophthalmology"},
    **{"IO": "intra-oral radiography", "PX": "panoramic radiography", "BI": "biomagnetic imaging", "ES": "endoscopy"},
    **{"XC": "photography", "GM": "microscopy", "SM": "slide microscopy", "RTIMAGE": "radiotherapy image"},
    **{"RTDOSE": "dose", "SEG": "segmentation", "DOC": "document", "HC": "hard copy", "FID": "fiducials"},
}
PARTS = {
    **{"P": "phase", "PHASE": "phase", "R": "real part", "REAL": "real part", "I": "imaginary part"},
    **{"IMAGINARY": "imaginary part", "MIXED": "mixture of complex components", "VELOCITY": "velocity"},
    **{"PHASE MAP": "phase", "VELOCITY MAP": "velocity", "P_FFE": "phase", "P_SE": "phase"},
}
"""Words for the parts of a complex MR image other than its magnitude."""
MAP = re.compile(
    r"(.*[ _])?MAP|(REL|R)?_?(CBF|CBV|MTT)([_ ].*)?|TTP|TMAX|E?ADC([_ ].*)?|FA([_ ].*)?|COLFA|DIFFUSION_ANISO|KTRANS|"
    r"PERMEABILITY|IAUC|SUB|SUBTRACT(ED|ION)?|DIVISION|MULTIPLICATION|STD_DEVIATION|TENSOR([_ ].*)?|T_?TEST|GBP|PBP|"
    r"EFF(ECTIVE)?_?(Z|ATOMIC_NUM(BER)?)|ELECTRON_DENSITY|(IODINE|CALCIUM|WATER)(_.*)?(DENSITY|CONCENTRATION)?"
)
"""Values of ImageType, from the third on, of images that were computed from others."""
MAP_CONTRASTS = ("T1", "T2", "T2_STAR")
"""Fourth values of ImageType that in an enhanced object name a computed map."""
GE_PARTS = {1: "phase", 2: "real part", 3: "imaginary part"}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def modality_of(header: Dataset) -> Modality | None:
    """Return the modality that a header states, None where it states none of ours."""
    return MODALITIES.get(str(header.get("Modality", "") or "").strip())


def is_localizer(header: Dataset) -> bool:
    """Return whether a header says that the image only served to plan others."""
    return any(words[2:3] == ["LOCALIZER"] or "SCOUT" in words[2:] for words in _image_types(header))


def check_kind(name: str, header: Dataset, *, stated: Modality | None = None) -> None:
    """Refuse what only looks like an image of ours.

    Args:
        name: What messages call it.
        header: Of a DICOM image.
        stated: Modality that the user states. With one, an object of another modality, a screen capture and an MR
            localizer are read; parts of complex images, maps, mosaics and CT localizers never are.

    Raises:
        UnreadableImage: With what the header says it is.
    """
    modality = modality_of(header)
    _check_parts(name, header, modality)
    if is_localizer(header) and (modality is Modality.CT or stated is None):
        hint = "" if modality is Modality.CT else ", or state the modality (--modality) to read it nevertheless"
        raise UnreadableImage(f"{name}: ImageType says that this is a localizer. Pass the images themselves{hint}.")
    if stated is not None:
        return
    code = str(header.get("Modality", "") or "").strip()
    if code and modality is None:
        words = f"{code} ({FOREIGN_MODALITIES[code]})" if code in FOREIGN_MODALITIES else "unknown"
        raise UnreadableImage(
            f"{name}: Modality is {words}; CT, MR and PT are read. If it is one of these, state it "
            "(modality=, --modality on the command line)."
        )
    if str(header.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE):
        raise UnreadableImage(
            f"{name}: {uid_name(header.get('SOPClassUID'))} is a picture of a screen or a computed image. Pass the "
            "images of the scanner, or state the modality (--modality) to read it nevertheless."
        )


def _check_parts(name: str, header: Dataset, modality: Modality | None) -> None:
    if is_mosaic(header) and mosaic_of(header) is None:
        raise UnreadableImage(f"{name}: {WHY_NOT}")
    for words in _image_types(header):
        found = words[2:]
        part = next((PARTS[word] for word in found if word in PARTS), None) if modality is Modality.MR else None
        if part is not None:
            raise _no_magnitude(name, f"ImageType says that this is the {part}")
        is_enhanced = bool(header.get("SharedFunctionalGroupsSequence"))
        is_contrast = is_enhanced and modality is Modality.MR and words[3:4] and words[3] in MAP_CONTRASTS
        if is_contrast or any(MAP.fullmatch(word) for word in found):
            raise UnreadableImage(
                f"{name}: ImageType says that this is a map or difference that was computed from images. Pass the "
                "images that it was computed from."
            )
    component = next((word for word in _components(header) if word in PARTS), None)
    if component is not None:
        raise _no_magnitude(name, f"ComplexImageComponent says that this is the {PARTS[component]}")
    raw = GE_PARTS.get(int(_number(header, 0x0043, "GEMS_PARM_01", 0x2F)))
    if modality is Modality.MR and raw is not None:
        raise _no_magnitude(name, f"the private element (0043,102F) says that this is the {raw}")


def _no_magnitude(name: str, what: str) -> UnreadableImage:
    return UnreadableImage(f"{name}: {what} of an MR image, not its magnitude. Pass the magnitude.")


def _groups(header: Dataset) -> Iterator[Dataset]:
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        yield from header.get(sequence) or []


def _frame_types(header: Dataset) -> Iterator[Dataset]:
    for group in _groups(header):
        for keyword in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
            yield from group.get(keyword) or []


def _image_types(header: Dataset) -> Iterator[list[str]]:
    """Yield ImageType, and FrameType of every frame, as lists of upper-case words."""
    seen = set()
    for value in (header.get("ImageType"), *(item.get("FrameType") for item in _frame_types(header))):
        words = [value] if isinstance(value, str) else list(value or [])
        found = tuple(str(word).strip().upper() for word in words)
        if found and found not in seen:
            seen.add(found)
            yield list(found)


def _components(header: Dataset) -> Iterator[str]:
    for item in (header, *_frame_types(header)):
        yield str(item.get("ComplexImageComponent", "") or "").strip().upper()


def _number(header: Dataset, group: int, creator: str, element: int) -> float:
    """Return the (first) number of a private element, 0 where there is none."""
    try:
        value = header.private_block(group, creator)[element].value
        return float(value if isinstance(value, (int, float, str)) else value[0])
    except (KeyError, IndexError, TypeError, ValueError):
        return 0.0
