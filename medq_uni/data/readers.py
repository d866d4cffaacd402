"""Public datasets as they are downloaded: AAPM-Mayo low-dose CT, IXI, UDPET, and any folder of images.

Every reader looks at names and headers only, and returns the volumes it understood with what is wrong about the rest.
Subjects are pseudonyms: the identifier of a public dataset, or a hash, never a patient's name or number.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medq_uni.data.sources import LowerDose, ManifestError, Volume, anatomy_of, read_manifest, split_of
from medq_uni.io.discover import ImageItem, find_images, identify
from medq_uni.taxonomy import Anatomy, Modality

MAYO_SUBJECTS = {
    "L": (Anatomy.ABDOMEN, 0.25),
    "N": (Anatomy.BRAIN, 0.25),
    "C": (Anatomy.CHEST, 0.10),
}
"""Anatomy and dose fraction of the lower dose by the first letter of the patient's number (Moen et al. 2021)."""
_MAYO_SUBJECT = re.compile(r"[LNC]\d{3}")
_MAYO_FULL = re.compile(r"full[ _]?(dose images|\d ?mm)|fd_\d ?mm", re.IGNORECASE)
_MAYO_LOW = re.compile(r"(low dose images|quarter[ _]?\d ?mm|qd_\d ?mm)", re.IGNORECASE)
_THICKNESS = re.compile(r"(\d) ?mm", re.IGNORECASE)
_KERNEL = re.compile(r"\d ?mm (B30|D45)", re.IGNORECASE)
_IXI_NAME = re.compile(r"(IXI\d{3})-(Guys|HH|IOP)-\d{4}-(T1|T2|PD)\.nii(\.gz)?")
_IXI_LOOSE = re.compile(r"IXI\d+.*(T1|T2|PD)\.nii(\.gz)?", re.IGNORECASE)
_PET_FULL = re.compile(r"(normal|full[ _]?dose)$", re.IGNORECASE)
_PET_LOW = re.compile(r"(?:\bd|drf[ _]?|1[-_])(\d{1,3})(?:[ _]?dose)?$", re.IGNORECASE)
UDPET_FACTORS = (2, 4, 10, 20, 50, 100)
"""Dose-reduction factors that the challenge provides."""


@dataclass(frozen=True)
class Found:
    """What a reader found.

    Attributes:
        volumes: Usable reference volumes.
        problems: One line for everything that was left out, with the file or folder and the reason.
    """

    volumes: list[Volume] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_source(source: str) -> Found:
    """Return the volumes of a source.

    Args:
        source: ``KIND:FOLDER`` with one of :data:`KINDS`, or a folder: with a manifest it is read by the manifest,
            else as a plain folder of images.

    Raises:
        ManifestError: If the folder does not exist, or holds nothing that can be used.
    """
    kind, _, rest = source.partition(":")
    if kind not in KINDS:
        if rest and not Path(source).expanduser().exists() and Path(rest).expanduser().is_dir():
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ManifestError(f"{source}: {kind!r} is none of the kinds of source: {', '.join(KINDS)}.{hint}")
        kind, rest = "", source
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        raise ManifestError(f"{source}: no such folder. Write KIND:FOLDER with one of {', '.join(KINDS)}.")
    kind = kind or ("manifest" if (folder / "MANIFEST.csv").is_file() else "folder")
    found = KINDS[kind](folder)
    if not found.volumes:
        reason = f" First problem: {found.problems[0]}" if found.problems else ""
        raise ManifestError(f"{source}: no usable volume of kind {kind!r} in this folder.{reason}")
    return found


def aapm_mayo(folder: Path) -> Found:
    """Read the AAPM-Mayo low-dose CT data: the 2016 Grand Challenge, or the TCIA collection LDCT-and-Projection-data.

    Challenge: ``L067/full_1mm/*.IMA`` and ``L067/quarter_1mm/*.IMA``, or the other way round below a folder such as
    ``1mm B30``. TCIA: ``C002/<study>/1.000000-Full Dose Images-73627/*.dcm`` beside ``...-Low Dose Images-...``.
    Projections are passed over. A full-dose series pairs with the lower dose of its patient, thickness and kernel.
    """
    found = Found()
    full: dict[tuple[str, str], list[Path]] = {}
    low: dict[tuple[str, str], list[Path]] = {}
    for series in _folders_with(folder, (".dcm", ".ima")):
        parts = series.relative_to(folder).parts
        subject = next((part for part in (*parts, folder.name) if _MAYO_SUBJECT.fullmatch(part)), None)
        names = " / ".join(parts)
        doses = [side for side, pattern in ((full, _MAYO_FULL), (low, _MAYO_LOW)) if pattern.search(parts[-1])]
        if "projection" in parts[-1].lower():
            continue
        if not doses:  # the dose stands in a folder above
            doses = [side for side, pattern in ((full, _MAYO_FULL), (low, _MAYO_LOW)) if pattern.search(names)]
        if subject is None or len(doses) != 1:
            found.problems.append(f"{names}: neither patient (L067) nor dose (full_1mm, Full Dose Images) can be told.")
            continue
        thickness, kernel = _THICKNESS.search(names), _KERNEL.search(names)
        variant = f"{thickness[1] if thickness else ''}{kernel[1].upper() if kernel else ''}"
        doses[0].setdefault((subject, variant), []).append(series)
    for key in sorted(full.keys() | low.keys()):
        _pair_mayo(folder, key, full.get(key, []), low.get(key, []), found)
    return found


def _pair_mayo(folder: Path, key: tuple[str, str], full: list[Path], low: list[Path], found: Found) -> None:
    subject, variant = key
    label = f"{subject} {variant}".strip()
    if len(full) != 1 or len(low) > 1:
        found.problems.append(f"{label}: {len(full)} full-dose and {len(low)} lower-dose series, expected one of each.")
        return
    items = [_only_series(series, folder, found) for series in (full[0], *low)]
    if items[0] is None:
        return
    lower: tuple[LowerDose, ...] = ()
    anatomy, fraction = MAYO_SUBJECTS[subject[0]]
    if not low:
        found.problems.append(f"{label}: no lower-dose series; the full dose is used with simulated noise alone.")
    elif items[1] is None or len(items[1].files) != len(items[0].files):
        counts = " and ".join(str(len(item.files)) if item else "no" for item in items)
        found.problems.append(f"{label}: {counts} slices at full and lower dose; the pair is left out.")
    else:
        lower = (LowerDose(items[1], 1 / fraction),)
    found.volumes.append(
        Volume(
            path=items[0],
            modality=Modality.CT,
            anatomy=anatomy,
            subject=subject,
            split=split_of(subject),
            group="aapm-mayo",
            name=_hashed(label),
            lower=lower,
        )
    )


def ixi(folder: Path) -> Found:
    """Read the IXI brain MR data: ``IXI002-Guys-0828-T1.nii.gz``, also T2 and PD, in one folder or one per contrast.

    Other contrasts (MRA, DTI) are passed over. Slices lie along the third stored axis, the acquisition's own plane.
    """
    found = Found()
    for path in sorted(folder.rglob("*.nii*")):
        match = _IXI_NAME.fullmatch(path.name)
        if match is None:
            if _IXI_LOOSE.fullmatch(path.name):
                found.problems.append(f"{path.name}: not named like IXI002-Guys-0828-T1.nii.gz; left out.")
            continue
        if path.stat().st_size == 0:
            found.problems.append(f"{path.name}: the file is empty; download it again.")
            continue
        found.volumes.append(
            Volume(
                path=path,
                modality=Modality.MR,
                anatomy=Anatomy.BRAIN,
                subject=match[1],
                split=split_of(match[1]),
                group="ixi",
                name=_hashed(path.name),
            )
        )
    return found


def udpet(folder: Path) -> Found:
    """Read the Ultra-Low Dose PET challenge: one folder per subject, one DICOM folder or NIfTI file per dose.

    uEXPLORER: ``<subject>/2.886 x 600 WB NORMAL`` with ``... D4``, ``D10``, ``D20``, ``D50``, ``D100``. Quadra:
    ``<subject>/Full_dose`` with ``1-4 dose`` or ``drf_4``. NIfTI files carry the same names.
    """
    found = Found()
    doses: dict[Path, dict[int, list[Path]]] = {}
    places = [
        *_folders_with(folder, (".dcm", ".ima")),
        *sorted(folder.rglob("*.nii")),
        *sorted(folder.rglob("*.nii.gz")),
    ]
    for place in places:
        stem = place.name.removesuffix(".gz").removesuffix(".nii")
        match = _PET_LOW.search(stem)
        factor = 1 if _PET_FULL.search(stem) else int(match[1]) if match else 0
        if factor != 1 and factor not in UDPET_FACTORS:
            found.problems.append(f"{place.relative_to(folder)}: no dose level in its name; left out.")
            continue
        doses.setdefault(place.parent, {}).setdefault(factor, []).append(place)
    for parent, levels in sorted(doses.items()):
        _pair_pet(folder, parent, levels, found)
    return found


def _pair_pet(folder: Path, parent: Path, levels: dict[int, list[Path]], found: Found) -> None:
    subject = "udpet-" + _hashed(str(parent.relative_to(folder)))
    twice = [factor for factor, places in levels.items() if len(places) > 1]
    if twice or 1 not in levels:
        what = f"dose level {twice[0]} twice" if twice else "no full dose (NORMAL or Full_dose)"
        found.problems.append(f"{parent.name}: {what}; the subject is left out.")
        return
    items: dict[int, Path | ImageItem] = {}
    for factor, (place,) in sorted(levels.items()):
        item = place if place.is_file() else _only_series(place, folder, found)
        if item is not None:
            items[factor] = item
    if 1 not in items:
        return
    counts = {factor: len(item.files) for factor, item in items.items() if isinstance(item, ImageItem)}
    for factor, count in counts.items():
        if count != counts.get(1, count):
            found.problems.append(f"{parent.name}: dose level {factor} has {count} slices, full dose {counts[1]}.")
            del items[factor]
    if len(items) == 1:
        found.problems.append(f"{parent.name}: no reduced dose; the full dose is used with simulated counts alone.")
    lower = tuple(LowerDose(item, float(factor)) for factor, item in items.items() if factor != 1)
    found.volumes.append(
        Volume(
            path=items[1],
            modality=Modality.PET,
            anatomy=Anatomy.BODY,
            subject=subject,
            split=split_of(subject),
            group="udpet",
            name=_hashed(subject),
            lower=lower,
        )
    )


def any_folder(folder: Path, modality: Modality | None = None) -> Found:
    """Read every image below a folder, with the modality of its header unless another is stated.

    The subject is a hash of the DICOM patient number, or of the ``sub-`` part or first folder of a NIfTI file's path.
    """
    images = find_images(folder)
    found = Found(problems=[reason for _, reason in images.broken])
    for item in images:
        known, key = identify(item)
        kind = modality or known
        name = str(item.relative)
        if kind is None:
            found.problems.append(f"{item.path.name}: its header names no modality; use ct:, mr: or pet: FOLDER.")
            continue
        if key is None:
            parts = item.relative.parts
            key = next((part for part in parts if part.startswith("sub-")), parts[0])
        subject = _hashed(key)
        found.volumes.append(
            Volume(
                path=item,
                modality=kind,
                anatomy=anatomy_of(name),
                subject=subject,
                split=split_of(subject),
                group="folder",
                name=_hashed(name),
            )
        )
    return found


KINDS: dict[str, Callable[[Path], Found]] = {
    "manifest": lambda folder: Found(read_manifest(folder)),
    "folder": any_folder,
    "ct": lambda folder: any_folder(folder, Modality.CT),
    "mr": lambda folder: any_folder(folder, Modality.MR),
    "pet": lambda folder: any_folder(folder, Modality.PET),
    "aapm-mayo": aapm_mayo,
    "ixi": ixi,
    "udpet": udpet,
}
"""Readers by the kind that a source states."""


def _folders_with(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the folders that directly hold a file with one of the suffixes, sorted."""
    return sorted({path.parent for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file()})


def _only_series(series: Path, root: Path, found: Found) -> ImageItem | None:
    """Return the one sound series of a folder; note what is broken about it."""
    images = find_images(series)
    place = series.relative_to(root)
    found.problems.extend(f"{place}: {reason}" for _, reason in images.broken)
    if len(images) != 1:
        found.problems.append(f"{place}: {len(images)} series in one folder, expected one; left out.")
        return None
    return None if images.broken else images[0]


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def problems_of(sources: Iterable[str]) -> list[str]:
    """Return what is wrong with several sources, one line each."""
    return [problem for source in sources for problem in read_source(source).problems]
