"""What a restoration is: the image, what was wrong with it, the restored image, and how it was made."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medq_uni import __version__
from medq_uni.config import SamplerConfig
from medq_uni.description import QualityDescription
from medq_uni.errors import ImageWarning, MedQError
from medq_uni.files import check_target, claimed, set_aside
from medq_uni.image import MedicalImage
from medq_uni.io.discover import ImageItem
from medq_uni.io.nifti import bids_path
from medq_uni.io.provenance import SIDECAR_SUFFIX, Derivation, sidecar_path, write_sidecar
from medq_uni.io.read_write import for_nifti, read_image, write_image
from medq_uni.json_text import load_json
from medq_uni.notice import NOTICE
from medq_uni.taxonomy import Modality

MAPS = ("residual", "uncertainty")
"""Images that are written beside the restored one, if there are any."""


_OLD_KEYS = {"unfamiliar": "allow_ood", "unlikeness": "ood_score"}
"""What version 0.1.0 called parts of a provenance in its records."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What decides a restoration, whatever the image: weights, settings, what the user said."""

    model: str
    """Name of the weights, for people."""
    weights_sha256: str
    """Hash of the weights and all that belongs to them."""
    precision: str | None
    """Numbers in which the network computed."""
    sampler: SamplerConfig
    """Start, steps, samples and guidance."""
    seed: int
    """Of the noise, where there is any."""
    force: bool
    """Whether a good image is restored too."""
    allow_ood: bool
    """Whether an image unlike all training images is restored too."""
    instruction: str | None
    """Words of the user; None is the standing instruction."""
    description_from: Literal["model", "user"]
    """Who says what is wrong with the image."""
    stated: str | None
    """What the user says of it; None where the model does."""
    version: str
    """Of this package."""
    strength_asked: float | None = None
    """Share of the correction that the user asked for; None leaves it to the calibration of the model."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that is needed to make a restoration again, and what was found on the way."""

    options: RunOptions
    """What was asked for."""
    assessment: str
    """What the model said of the image, whoever guided the restoration."""
    ood_score: float | None
    """How unlike the training images it looks; above 1 it is doubtful. None where the model does not know."""
    strength: float
    """Share of the correction that was applied; above 1 where the user asked for more than was found."""
    log_odds: float | None = None
    """What the network makes of a degradation against none; None in records of earlier versions."""
    probability: float | None = None
    """Of a degradation; None where the model is not calibrated."""
    withheld: str | None = None
    """Why an image that is not good came back unchanged; None where it is good or was restored."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types, the options among the rest."""
        found = asdict(self)
        plain: dict[str, Any] = json.loads(json.dumps(found.pop("options") | found))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Return the provenance that :meth:`to_dict`, or the same of an earlier version, wrote.

        Raises:
            MedQError: If it is none.
        """
        try:
            given = {_OLD_KEYS.get(key, key): value for key, value in values.items()}
            own = {name: given.pop(name) for name in ("assessment", "ood_score", "strength")}
            own |= {name: given.pop(name, None) for name in ("log_odds", "probability", "withheld")}
            sampler = SamplerConfig.from_dict(given.pop("sampler"))
            return cls(options=RunOptions(**given, sampler=sampler), **own)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MedQError(f"not the provenance of a restoration: {type(error).__name__} {error}.") from error


@dataclass(frozen=True, eq=False)
class Restoration:
    """An image, what is wrong with it, and the image restored.

    Attributes:
        image: Input, unchanged.
        description: What guided the restoration.
        restored: Restored image, same geometry and units; the input itself where nothing was done.
        uncertainty: Standard deviation per voxel in the image's units, None where there is no estimate. It is that
            of the full correction, also where an edited description asked for less or more.
        residual: What was changed: restored - image.
        provenance: Everything needed to do it again.
        seconds: Time it took.
        is_unchanged: Whether the image was handed back bit-identical: judged Good, or the restoration was withheld.
        source: Hash of the files that were read, and the modality that the user stated; empty without files.
    """

    image: MedicalImage
    description: QualityDescription
    restored: MedicalImage
    uncertainty: MedicalImage | None
    residual: MedicalImage
    provenance: Provenance
    seconds: float
    is_unchanged: bool
    source: dict[str, Any] = field(default_factory=dict)

    def save(
        self, path: str | Path, *, maps: bool = True, overwrite: bool = False, skip_good: bool = False
    ) -> list[Path]:
        """Write the restored image and ``*.medq.json`` beside it, and return every path written, the image first.

        The image is written last: where it is, everything that belongs to it is. A failure leaves what was before.

        Args:
            path: Where to; the suffix is the format.
            maps: Also write residual and uncertainty as NIfTI beside it.
            overwrite: Whether an earlier result may be replaced, its maps too. The source never is.
            skip_good: Write nothing but the record of an image that was judged Good.

        Raises:
            UnwritableImage: If a file exists, or the format cannot hold the image.
        """
        return _save((self,), self.to_dict(), Path(path), maps=maps, overwrite=overwrite, skip_good=skip_good)

    @property
    def why_unchanged(self) -> str:
        """Why the image was handed back bit-identical, for people; empty where it was not."""
        if not self.is_unchanged:
            return ""
        return "restoration withheld" if self.provenance.withheld else "judged Good"

    def to_dict(self) -> dict[str, Any]:
        """Return the record of the restoration: description, settings, what was done."""
        return {
            "software": f"medq-uni {__version__}",
            "notice": NOTICE,
            "description": self.description.to_dict(),
            "text": self.description.to_text(),
            "unchanged": self.is_unchanged,
            "modality": None if self.restored.modality is None else self.restored.modality.value,
            "units": self.restored.units.value,
            "provenance": self.provenance.to_dict(),
            "source": self.source,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, eq=False)
class RestoredFrames:
    """The volumes of a 4-D image, each restored by itself.

    Attributes:
        frames: In their order.
    """

    frames: tuple[Restoration, ...]

    @property
    def worst(self) -> Restoration:
        """The first of those with the worst grade, which speaks for all."""
        return max(self.frames, key=lambda one: one.description.worst.level)

    @property
    def description(self) -> QualityDescription:
        """What is wrong with the worst volume."""
        return self.worst.description

    @property
    def is_unchanged(self) -> bool:
        """Whether all of them were handed back bit-identical."""
        return all(one.is_unchanged for one in self.frames)

    @property
    def seconds(self) -> float:
        """Time that all of them took."""
        return sum(one.seconds for one in self.frames)

    def save(
        self, path: str | Path, *, maps: bool = True, overwrite: bool = False, skip_good: bool = False
    ) -> list[Path]:
        """Write one 4-D NIfTI file, its maps in four axes too, and one record; see :meth:`Restoration.save`.

        Raises:
            UnwritableImage: If a file exists, or the format cannot hold several volumes.
        """
        return _save(self.frames, self.to_dict(), Path(path), maps=maps, overwrite=overwrite, skip_good=skip_good)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of the worst volume, and under ``frames`` what differs between them."""
        own = ("description", "text", "unchanged", "provenance", "seconds")
        records = [one.to_dict() for one in self.frames]
        whole = {"unchanged": self.is_unchanged, "seconds": round(self.seconds, 3)}
        return self.worst.to_dict() | whole | {"frames": [{key: one[key] for key in own} for one in records]}


def _save(
    frames: Sequence[Restoration],
    record: dict[str, Any],
    path: Path,
    *,
    maps: bool,
    overwrite: bool,
    skip_good: bool,
) -> list[Path]:
    """Write the volumes of one image with what belongs to it; see :meth:`Restoration.save`."""
    sidecar = sidecar_path(path)
    is_unchanged = all(one.is_unchanged for one in frames)
    is_written = not (skip_good and is_unchanged and not any(one.provenance.withheld for one in frames))
    shown = {name: images for name in MAPS if maps and is_written and (images := _map_of(frames, name))}
    record = record | {"image": path.name, "maps": list(shown)} | ({} if is_written else {"written": False})
    for target in targets_of(path):
        check_target(target, overwrite=overwrite)
    with claimed(sidecar):  # which results of one stem share
        for target in targets_of(path):  # another process may have been first
            check_target(target, overwrite=overwrite)
        with set_aside(targets_of(path)):
            write_sidecar(sidecar, record)
            for name, images in shown.items():
                first, *more = (for_nifti(image) for image in images)
                write_image(first, map_path(path, name), more=more)
            if is_written:
                first, *more = (one.restored for one in frames)
                write_image(first, path, derivation=_derivation(record, is_unchanged), more=more)
    return [*([path] if is_written else []), *(map_path(path, name) for name in shown), sidecar]


def _map_of(frames: Sequence[Restoration], name: str) -> list[MedicalImage]:
    """Return one of the :data:`MAPS` of every volume, zero where nothing was done; none where no volume has it."""
    found = [getattr(one, name) for one in frames]
    if all(image is None for image in found):
        return []
    return [
        one.image.with_voxels(0 * one.image.voxels) if image is None else image
        for one, image in zip(frames, found, strict=True)
    ]


def _derivation(record: dict[str, Any], is_unchanged: bool) -> Derivation:
    """Return how a written image was made, of what its record says."""
    made = record["provenance"]
    description = QualityDescription.from_dict(record["description"])
    return Derivation(
        kind="unchanged" if is_unchanged else "restored",
        method=f"MedQ-UNI {made['model']}: assess, then restore",
        software_version=__version__,
        weights_sha256=made["weights_sha256"],
        settings=made,
        seed=made["seed"],
        description=record["text"],
        tasks=tuple(degradation.task.value for degradation in description.degradations),
    )


def load_result(source: ImageItem | str | Path, path: Path) -> tuple[int, int, Restoration]:
    """Return a restoration of an earlier run from its files; of a 4-D image, that of the volume in the middle.

    Args:
        source: What was restored.
        path: Where the result is; where none was written, because the image was good, its record is enough.

    Returns:
        Number of the volume (from 0), how many there are, and its restoration.

    Raises:
        MedQError: If there is no such result, or its files cannot be read.
        OSError: Likewise.
    """
    record = load_json(sidecar_path(path))
    made = provenance_of(record)
    if made is None:
        raise MedQError(f"{sidecar_path(path).name}: not the record of a restoration.")
    frames = record.get("frames", [])
    frame = len(frames) // 2 if frames else record["source"].get("frame")
    chosen = record | frames[frame] if frames else record
    modality = Modality(record["modality"])
    written = None if not frames else frame
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # told when it was restored
        image = read_image(source, modality=modality, frame=frame)
        restored = read_image(path, modality=modality, frame=written) if record.get("written", True) else image
        spread = map_path(path, "uncertainty")
        is_known = "uncertainty" in record["maps"] and spread.exists()
        uncertainty = read_image(spread, modality=modality, frame=written) if is_known else None
    restoration = Restoration(
        image=image,
        description=QualityDescription.from_dict(chosen["description"]),
        restored=restored,
        uncertainty=uncertainty,
        residual=image.with_voxels(restored.voxels - image.voxels),
        provenance=Provenance.from_dict(chosen["provenance"]),
        seconds=float(chosen["seconds"]),
        is_unchanged=bool(chosen["unchanged"]),
        source=record["source"],
    )
    return (frame, len(frames), restoration) if frames else (0, 1, restoration)


def targets_of(path: Path) -> list[Path]:
    """Return every path that belongs to a result: the image, its record, its maps, and what says their units."""
    images = [path, *(map_path(path, name) for name in MAPS)]
    units = [bids_path(image) for image in images if image.name.lower().endswith((".nii", ".nii.gz"))]
    return [path, sidecar_path(path), *images[1:], *units]


def map_path(path: Path, name: str) -> Path:
    """Return where one of the :data:`MAPS` of the image at ``path`` is written."""
    return path.with_name(f"{sidecar_path(path).name.removesuffix(SIDECAR_SUFFIX)}.{name}.nii.gz")


def provenance_of(record: Mapping[str, Any]) -> Provenance | None:
    """Return the provenance in a record beside a restored image, None where the record is of something else.

    Version 0.1.0 kept it under ``settings``.
    """
    try:
        return Provenance.from_dict(record.get("provenance", record.get("settings")))
    except MedQError:
        return None
