"""The header of a derived DICOM object: what is kept, what is replaced, what says where it is from.

After PS3.3 C.7.6.1 (General Image), C.12.4 (Common Instance Reference), C.7.6.16.2.6 (Derivation
Image functional group) and C.7.5.2 (Contributing Equipment).
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medq_uni.io.dicom_pixels import is_uid
from medq_uni.io.dicom_scale import keep_private, keep_private_of_frame
from medq_uni.io.provenance import Derivation, derived_uid
from medq_uni.notice import SHORT_NOTICE
from medq_uni.wording import WORDING

SCHEME = "99MEDQ"
TASK_CODES = {
    "restored": {task.value: words.restored for task, words in WORDING.items()},
    "degraded": {task.value: words.degraded for task, words in WORDING.items()},
    "unchanged": {},
    "processed": {},
}
"""Private codes: the context group CID 7203 has none for restoration or simulation, and is extensible."""
ANY_TASK = {
    "restored": ("MEDQ-000", "AI image restoration"),
    "unchanged": ("MEDQ-001", "AI image assessment, image unchanged"),
    "degraded": ("MEDQ-100", "Simulation of image degradation"),
    "processed": ("MEDQ-200", "Image processing"),
}
STALE = (
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "IconImageSequence",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelDataProviderURL",
    "DataSetTrailingPadding",
    "ConcatenationUID",
    "SOPInstanceUIDOfConcatenationSource",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "InstanceCreatorUID",
)
"""Elements that described the old pixels or the old object."""
STALE_TYPES = ("MOSAIC", "ORIGINAL", "PRIMARY")
"""Values of ImageType that are not true of what is written, wherever they stand."""
FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")


@dataclass(frozen=True)
class Lineage:
    """What ties the derived objects of one series together.

    Attributes:
        derivation: How they were derived.
        series_number_offset: Derived SeriesNumber = original * 100 + this.
        is_lossy: Whether any ancestor was compressed with loss.
        extra: Enters the UIDs where the derivation alone does not tell results apart.
        part: Which part of a source object becomes this one, where several come of it; enters its own UID.
    """

    derivation: Derivation
    series_number_offset: int
    is_lossy: bool
    extra: str = ""
    part: str = ""

    def uid(self, header: Dataset, keyword: str) -> str:
        """Return the new UID in place of the one that ``header`` has under ``keyword``.

        That of the series depends on how it was made alone, not on what was found in a slice, so that slices which are
        restored one by one are one series again. A source without a usable UID is identified by the hash of its other
        identifiers.
        """
        value = str(header.get(keyword, "") or "")
        derivation = self.derivation.without_findings() if keyword == "SeriesInstanceUID" else self.derivation
        if not is_uid(value):
            keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "StudyDate")
            known = "|".join(str(header.get(key, "")) for key in keys)
            value = hashlib.sha256(f"{keyword}|{known}".encode()).hexdigest()
        part = f"|{self.part}" if self.part and keyword == "SOPInstanceUID" else ""
        return derived_uid(value, derivation, extra=f"{keyword}{self.extra}{part}")


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return one item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def derived_header(source: Dataset, lineage: Lineage) -> Dataset:
    """Return a copy of a header, without pixels, as that of an object derived from it.

    Study, patient, frame of reference, geometry, window and the scanner stay; the object and the
    series get new UIDs; thumbnails and signatures of the old pixels go, and private elements but those that give
    the pixels their meaning.
    """
    header = _without_old_pixels(source)
    header.SOPInstanceUID = lineage.uid(source, "SOPInstanceUID")
    header.SeriesInstanceUID = lineage.uid(source, "SeriesInstanceUID")
    if not is_uid(source.get("StudyInstanceUID")):
        header.StudyInstanceUID = lineage.uid(source, "StudyInstanceUID")
    header.ImageType = derived_type(source.get("ImageType"))
    _describe_series(header, lineage)
    header.DerivationDescription = _ascii(lineage.derivation.to_text())
    header.DerivationCodeSequence = derivation_codes(lineage.derivation)
    if is_uid(source.get("SOPInstanceUID")) and is_uid(source.get("SOPClassUID")):
        header.SourceImageSequence = [source_image(source)]
    elif "SourceImageSequence" in header:
        del header.SourceImageSequence
    equipment = list(header.get("ContributingEquipmentSequence") or [])
    header.ContributingEquipmentSequence = [*equipment, processing_equipment(lineage.derivation)]
    if lineage.is_lossy:
        header.LossyImageCompression = "01"
    if "ContentQualification" in header:
        header.ContentQualification = "RESEARCH"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    return header


def _without_old_pixels(source: Dataset) -> Dataset:
    """Return a copy of a header without what speaks of the pixels it came with, and with the private elements kept."""
    header = Dataset()  # a new one: a copy would insist on the byte order of the source
    is_swapped = source.original_encoding[1] is False
    for element in source:
        if not (is_swapped and element.VR in ("OW", "OB or OW", "US or SS or OW")):
            header.add(copy.deepcopy(element))
    header.remove_private_tags()
    keep_private(header, source)
    for keyword in STALE:
        if keyword in header:
            del header[keyword]
    for element in list(header):
        is_overlay = element.tag.group & 0xFF00 == 0x6000
        if is_overlay and (element.tag.group, 0x3000) not in header:  # it lay in the pixels' high bits
            del header[element.tag]
    return header


def derived_type(image_type: object) -> list[str]:
    """Return an ImageType whose first two values say that pixels were derived; the others stay."""
    values = [image_type] if isinstance(image_type, str) else list(image_type or [])  # type: ignore[call-overload]
    return ["DERIVED", "SECONDARY", *[str(value) for value in values[2:] if str(value) not in STALE_TYPES]]


def derivation_codes(derivation: Derivation) -> list[Dataset]:
    """Return one code per task, or the general one."""
    known = TASK_CODES[derivation.kind]
    found = [known[task] for task in derivation.tasks if task in known]
    return [code(value, SCHEME, meaning) for value, meaning in found or [ANY_TASK[derivation.kind]]]


def source_image(source: Dataset, frame: int | None = None) -> Dataset:
    """Return the reference to the source object, or to one frame (from 1) of it."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    return item


def processing_equipment(derivation: Derivation) -> Dataset:
    """Return the item that names this software beside, not instead of, the scanner."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "DCM", "Processing Equipment")]
    item.Manufacturer = "MedQ-UNI"
    item.ManufacturerModelName = _ascii(derivation.method)[:64]
    item.SoftwareVersions = _ascii(derivation.software_version)[:64] or "unknown"
    if derivation.created:
        item.ContributionDateTime = derivation.created
    weights = derivation.weights_sha256 or "none"
    item.ContributionDescription = _ascii(f"{SHORT_NOTICE} Weights sha256 {weights}.")[:1024]
    return item


def derive_frames(header: Dataset, source: Dataset, indices: list[int], lineage: Lineage) -> None:
    """Turn the functional groups of a multi-frame header into those of the derived frames.

    Each frame refers to the very frame that it came from.

    Args:
        header: From :func:`derived_header`; changed in place.
        source: Header of the source object.
        indices: Frames of the source, from 0, that are written, in stored order.
        lineage: How they were derived.
    """
    groups = [copy.deepcopy(header.PerFrameFunctionalGroupsSequence[index]) for index in indices]
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for item in [*shared, *groups]:
        if "DerivationImageSequence" in item:
            del item.DerivationImageSequence
        for keyword in FRAME_TYPES:
            for frame_type in item.get(keyword) or []:
                frame_type.FrameType = derived_type(frame_type.get("FrameType"))
    for index, group in zip(indices, groups, strict=True):
        keep_private_of_frame(group, source.PerFrameFunctionalGroupsSequence[index])
        item = Dataset()
        item.DerivationDescription = header.DerivationDescription
        item.DerivationCodeSequence = derivation_codes(lineage.derivation)
        if "SourceImageSequence" in header:
            item.SourceImageSequence = [source_image(source, index + 1)]
        group.DerivationImageSequence = [item]
    header.PerFrameFunctionalGroupsSequence = groups
    header.NumberOfFrames = len(groups)


def _describe_series(header: Dataset, lineage: Lineage) -> None:
    label = f" [MEDQ {lineage.derivation.kind}]"
    original = str(header.get("SeriesDescription", "") or "")
    header.SeriesDescription = (original[: 64 - len(label)] + label).strip()
    try:
        number = abs(int(header.get("SeriesNumber") or 0)) * 100 + lineage.series_number_offset
    except (TypeError, ValueError):
        number = lineage.series_number_offset
    # IS holds a signed 32-bit number
    header.SeriesNumber = number if number < 2**31 else lineage.series_number_offset


def _ascii(text: str) -> str:
    """Return the text in the characters that every SpecificCharacterSet has, without backslashes."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")
