"""What a restoration is: the image, what was wrong with it, the restored image, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medq_uni import __version__
from medq_uni.config import SamplerConfig
from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.files import check_target, claimed, set_aside
from medq_uni.image import MedicalImage
from medq_uni.io.nifti import bids_path
from medq_uni.io.provenance import SIDECAR_SUFFIX, Derivation, sidecar_path, write_sidecar
from medq_uni.io.read_write import for_nifti, write_image
from medq_uni.notice import NOTICE

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
        is_unchanged: Whether the image was judged Good and handed back bit-identical.
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

    def save(self, path: str | Path, *, maps: bool = True, overwrite: bool = False) -> list[Path]:
        """Write the restored image and ``*.medq.json`` beside it, and return every path written, the image first.

        The image is written last: where it is, everything that belongs to it is. A failure leaves what was before.

        Args:
            path: Where to; the suffix is the format.
            maps: Also write residual and uncertainty as NIfTI beside it.
            overwrite: Whether an earlier result may be replaced, its maps too. The source never is.

        Raises:
            UnwritableImage: If a file exists, or the format cannot hold the image.
        """
        path, sidecar = Path(path), sidecar_path(path)
        options = self.provenance.options
        derivation = Derivation(
            kind="restored",
            method=f"MedQ-UNI {options.model}: assess, then restore",
            software_version=__version__,
            weights_sha256=options.weights_sha256,
            settings=self.provenance.to_dict(),
            seed=options.seed,
            description=self.description.to_text(),
            tasks=tuple(degradation.task.value for degradation in self.description.degradations),
        )
        shown = {name: image for name in MAPS if maps and (image := getattr(self, name)) is not None}
        for target in targets_of(path):
            check_target(target, overwrite=overwrite)
        with claimed(sidecar):  # which results of one stem share
            for target in targets_of(path):  # another process may have been first
                check_target(target, overwrite=overwrite)
            with set_aside(targets_of(path)):
                write_sidecar(sidecar, self.to_dict() | {"image": path.name, "maps": list(shown)})
                for name, image in shown.items():
                    write_image(for_nifti(image), map_path(path, name))
                write_image(self.restored, path, derivation=derivation)
        return [path, *(map_path(path, name) for name in shown), sidecar]

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
