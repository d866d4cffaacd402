"""What a restoration is: the image, what was wrong with it, the restored image, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.description import QualityDescription
from medq_uni.files import check_target, set_aside
from medq_uni.image import MedicalImage
from medq_uni.io.provenance import SIDECAR_SUFFIX, Derivation, sidecar_path, write_sidecar
from medq_uni.io.read_write import write_image
from medq_uni.notice import NOTICE

MAPS = ("residual", "uncertainty")
"""Images that are written beside the restored one, if there are any."""


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
        settings: Everything needed to do it again.
        seconds: Time it took.
        is_unchanged: Whether the image was judged Good and handed back bit-identical.
        source: Hash of the files that were read, and the modality that the user stated; empty without files.
    """

    image: MedicalImage
    description: QualityDescription
    restored: MedicalImage
    uncertainty: MedicalImage | None
    residual: MedicalImage
    settings: dict[str, Any]
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
        derivation = Derivation(
            kind="restored",
            method=f"MedQ-UNI {self.settings['model']}: assess, then restore",
            software_version=__version__,
            weights_sha256=self.settings["weights_sha256"],
            settings=self.settings,
            seed=self.settings["seed"],
            description=self.description.to_text(),
            tasks=tuple(degradation.task.value for degradation in self.description.degradations),
        )
        shown = {name: image for name in MAPS if maps and (image := getattr(self, name)) is not None}
        for target in targets_of(path):
            check_target(target, overwrite=overwrite)
        with set_aside(targets_of(path)):
            write_sidecar(sidecar, self.to_dict() | {"image": path.name, "maps": list(shown)})
            for name, image in shown.items():
                write_image(image, map_path(path, name))
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
            "settings": self.settings,
            "source": self.source,
            "seconds": round(self.seconds, 3),
        }


def targets_of(path: Path) -> list[Path]:
    """Return every path that belongs to a result: of the image, of its record and of its maps."""
    return [path, sidecar_path(path), *(map_path(path, name) for name in MAPS)]


def map_path(path: Path, name: str) -> Path:
    """Return where one of the :data:`MAPS` of the image at ``path`` is written."""
    return path.with_name(f"{sidecar_path(path).name.removesuffix(SIDECAR_SUFFIX)}.{name}.nii.gz")
