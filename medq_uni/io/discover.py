"""Which files of a folder are images: DICOM by series, NIfTI, PNG and TIFF one by one."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medq_uni.errors import UnreadableImage
from medq_uni.io.copies import without_copies
from medq_uni.io.guard import guarded
from medq_uni.io.limits import not_done
from medq_uni.io.provenance import SIDECAR_SUFFIX
from medq_uni.io.series import NoImage, SliceRef, images_of, slices_of
from medq_uni.taxonomy import Modality

Format = Literal["dicom", "nifti", "png", "tiff"]
SUFFIX_FORMATS: dict[str, Format] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".dcm": "dicom",
    ".ima": "dicom",
}
MAGICS: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
)
UNREAD_SUFFIXES = (
    *(".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".img", ".hdr", ".mnc", ".par", ".rec", ".jpg", ".jpeg"),
    *(".jp2", ".j2k", ".bmp", ".gif", ".webp", ".heic", ".npy", ".npz", ".h5"),
)
"""Of images that are not read."""


@dataclass(frozen=True)
class ImageItem:
    """One image of a folder; :func:`medq_uni.io.read_image` takes it in place of a path.

    Attributes:
        path: The file, or the folder that holds the series.
        files: The files of the image, sorted by name.
        format: What they are.
        relative: Where the image belongs below the root, for a tree of results: that of the file,
            or of the folder. Series in folders that hold other images too get a name from a hash, never from a tag.
        series: Equal for the images of one DICOM series: its stacks, echoes and time points. Empty for other formats.
        number: Which of them it is, from 0, in the order of acquisition.
        frame: Which stack of the one multi-frame file it is, from 0; None where the file is one stack.
        is_mosaic: Whether the file is a mosaic, whose slices are written as a folder of objects.
        problem: Why it cannot be read, where that was found on the way: files that contradict each other.
    """

    path: Path
    files: tuple[Path, ...]
    format: Format
    relative: Path
    series: str = ""
    number: int = 0
    frame: int | None = None
    is_mosaic: bool = False
    problem: str = ""


class FoundImages(list[ImageItem]):
    """The images of a folder, with what was passed over.

    Attributes:
        skipped: (path, reason) of every other file, copies of those that count among them.
        broken: Those of them that are an image, or named like one, and are left out all the same: damaged, a link whose
            target is gone, a folder that cannot be opened, a format that is not read. A DICOM object that holds no
            image, such as a report, is none of them.
    """

    def __init__(
        self,
        items: Iterable[ImageItem] = (),
        skipped: Iterable[tuple[Path, str]] = (),
        broken: Iterable[tuple[Path, str]] = (),
    ) -> None:
        super().__init__(items)
        self.skipped, self.broken = list(skipped), list(broken)

    @property
    def passed_over(self) -> list[tuple[Path, str]]:
        """What was skipped and is not broken."""
        broken = {path for path, _ in self.broken}
        return [(path, reason) for path, reason in self.skipped if path not in broken]


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its first bytes, else by its suffix; None where both are silent."""
    with path.open("rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":  # before the others: its preamble may look like a TIFF
        return "dicom"
    for magic, known in MAGICS:
        if head.startswith(magic):
            return known
    name = path.name.lower()
    for suffix, by_suffix in SUFFIX_FORMATS.items():
        if name.endswith(suffix):
            return by_suffix
    # DICOM without preamble begins with an element of group 2 or 8, in either byte order
    return "dicom" if head[:2] in (b"\x08\0", b"\0\x08", b"\x02\0") and len(head) == 132 else None


def find_images(folder: str | Path) -> FoundImages:
    """Return the images below a folder, sorted by place; links to folders are not followed.

    Args:
        folder: Root of the tree. Hidden files, ``*.medq.json`` and BIDS sidecars are passed over silently.

    Returns:
        A list of :class:`ImageItem`, whose ``skipped`` says why other files are not in it.

    Raises:
        UnreadableImage: If the folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UnreadableImage(f"{root.name}: no such folder. Check the path.")
    items: list[ImageItem] = []
    skipped: list[tuple[Path, str]] = []
    broken: list[tuple[Path, str]] = []
    slices: list[SliceRef] = []
    paths, unopened, linked = _walk(root)
    skipped += [(path, f"{path.name}: a link to a folder, which is not followed.") for path in linked]
    broken += [(path, f"{path.name}: a folder that cannot be opened. Check its permissions.") for path in unopened]

    def note(path: Path, kind: Format | None, error: UnreadableImage | OSError) -> None:
        if isinstance(error, NoImage):
            skipped.append((path, str(error)))
            return
        is_foreign = isinstance(error, OSError)
        reason = f"{path.name}: cannot be opened ({type(error).__name__})." if is_foreign else str(error)
        is_broken = kind is not None or path.name.lower().endswith((*SUFFIX_FORMATS, *UNREAD_SUFFIXES))
        (broken if is_broken or (path.is_symlink() and not path.suffix) else skipped).append((path, reason))

    objects: list[Path] = []
    for path in paths:
        try:
            kind = _format_of_found(path)
        except (UnreadableImage, OSError) as error:
            note(path, None, error)
            continue
        if kind == "dicom":
            objects.append(path)
        else:
            items.append(ImageItem(path, (path,), kind, path.relative_to(root)))
    for path, said in zip(objects, slices_of(objects), strict=True):
        if isinstance(said, SliceRef):
            slices.append(said)
        else:
            note(path, "dicom", said)
    slices, copies = without_copies(slices)
    skipped = sorted([*skipped, *broken, *copies])
    items += _series_items(root, images_of(slices), [item.path for item in items])
    return FoundImages(sorted(items, key=lambda item: item.relative), skipped, broken)


def identify(item: ImageItem) -> tuple[Modality | None, str | None]:
    """Return the modality that an image's header states, and a key that is equal for images of one patient.

    The key is a hash of the DICOM patient number, or of the study where there is none; other formats have neither.

    Raises:
        UnreadableImage: If the header cannot be read.
    """
    if item.format != "dicom":
        return None, None
    return guarded(item.files[:1], _identity, item)


def _identity(item: ImageItem) -> tuple[Modality | None, str | None]:
    from medq_uni.io.dicom_pixels import parsing, read_dataset
    from medq_uni.io.image_kind import modality_of

    with parsing(item.path.name):
        header = read_dataset(item.files[0], header_only=True)
        number = str(header.get("PatientID") or "") or str(header.get("StudyInstanceUID") or item.path)
        modality = modality_of(header)
    return modality, hashlib.sha256(number.encode()).hexdigest()[:12]


def _format_of_found(path: Path) -> Format:
    """Return the format of a file of a folder.

    Raises:
        UnreadableImage: If it is none that is read, or a link whose target is gone.
        OSError: If the file cannot be opened.
    """
    if path.is_symlink() and not path.exists():
        raise UnreadableImage(
            f"{path.name}: a link whose target is not there. Fetch the content (git annex get, datalad get), or "
            "remove the link."
        )
    kind = format_of(path)
    if kind is None:
        is_image = path.name.lower().endswith(UNREAD_SUFFIXES)
        hint = "this format is not read. Convert it to NIfTI." if is_image else "not an image."
        raise UnreadableImage(f"{path.name}: {hint} DICOM, NIfTI, PNG and TIFF are read.")
    return kind


def _walk(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return files and broken links below a folder, folders that cannot be opened, and links to folders."""
    found, linked, unopened = [], [], []

    def note(error: OSError) -> None:
        unopened.append(Path(str(error.filename)))

    for folder, subfolders, names in os.walk(root, onerror=note):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        linked += [path for name in subfolders if (path := Path(folder, name)).is_symlink()]
        for name in names:
            path = Path(folder, name)
            is_ours = name.endswith(SIDECAR_SUFFIX)
            stem = name.removesuffix(".json")
            is_ours |= stem != name and (f"{stem}.nii" in names or f"{stem}.nii.gz" in names)
            if not name.startswith(".") and not is_ours and _may_be_file(path):
                found.append(path)
    return sorted(found), sorted(unopened), sorted(linked)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except OSError:  # opening it will say why
        return True


def _series_items(root: Path, series: dict[str, list[SliceRef]], others: Sequence[Path]) -> list[ImageItem]:
    """Return one item per series; a lone file stays a file, more become their folder, if nothing else lies in it."""
    paths = {key: [one.path for one in slices] for key, slices in series.items()}
    uids = {key: hashlib.sha256(slices[0].uid.encode()).hexdigest()[:12] for key, slices in series.items()}
    folders = {key: Path(os.path.commonpath([path.parent for path in files])) for key, files in paths.items()}
    lone = (files[0] for files in paths.values() if len(files) == 1)
    shared = (folders[key] for key, files in paths.items() if len(files) > 1)
    holds = Counter(folder for place in (*others, *lone, *shared) for folder in (place, *place.parents))
    items = []
    counts: Counter[str] = Counter()
    problems = {key: _problem(slices) for key, slices in series.items()}
    for key, files in paths.items():
        folder, number = folders[key], counts[uids[key]]
        counts[uids[key]] += 1
        if len(files) == 1:
            place, one = files[0].relative_to(root), series[key][0]
            whole = ImageItem(
                files[0], tuple(files), "dicom", place, uids[key], number, None, one.is_mosaic, problems[key]
            )
            items += [whole] if one.num_stacks == 1 else [_stack_of(whole, k) for k in range(one.num_stacks)]
            counts[uids[key]] += one.num_stacks - 1
            continue
        relative = folder.relative_to(root)
        if holds[folder] > 1 or folder == root:
            relative /= f"series-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        items.append(ImageItem(folder, tuple(files), "dicom", relative, uids[key], number, problem=problems[key]))
    return items


def _problem(slices: Sequence[SliceRef]) -> str:
    """Return why an image cannot be read although the headers of its files can; nothing where it can."""
    culprits = [one for one in slices if one.problem]
    if not culprits:
        return ""
    return culprits[0].problem + not_done([one.path for one in slices], [one.path for one in culprits])


def _stack_of(item: ImageItem, frame: int) -> ImageItem:
    place = item.relative.with_name(f"{item.relative.stem}-stack{frame}{item.relative.suffix}")
    return replace(item, relative=place, number=item.number + frame, frame=frame)
