"""Where a restored image came from: the record, the UIDs that follow from it, the file beside it."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medq_uni.files import check_target, write_text
from medq_uni.notice import SHORT_NOTICE

SIDECAR_SUFFIX = ".medq.json"
FINDINGS = ("assessment", "ood_score", "strength", "log_odds", "probability", "withheld")
"""Settings that follow from the image."""
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".dcm", ".png", ".tiff", ".tif")
"""Suffixes of the files that can be written; a folder (no suffix) is a DICOM series."""


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """How an image was derived from its source. The same record gives the same UIDs.

    Attributes:
        kind: What became of the image; decides the label and the codes of a DICOM series. Unchanged is an image that
            was to be restored and was judged good.
        method: Name of what was done, for people.
        software_version: Version of this package.
        weights_sha256: Hash of the weights, empty where none were used.
        settings: Everything else that decides the result; must be JSON.
        seed: Seed of the random draws, None where there were none.
        description: Quality description that guided the restoration.
        tasks: Words of the tasks that were treated (``ct-low-dose``).
        created: Time as a DICOM DT (``20260131120000``), or empty. Not part of the UIDs.
    """

    kind: Literal["restored", "unchanged", "degraded", "processed"] = "processed"
    method: str = "MedQ-UNI"
    software_version: str = ""
    weights_sha256: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    description: str = ""
    tasks: tuple[str, ...] = ()
    created: str = ""

    def without_findings(self) -> Derivation:
        """Return the record without what was found in the image: method, weights and options alone."""
        settings = {key: value for key, value in self.settings.items() if key not in FINDINGS}
        kind = "restored" if self.kind == "unchanged" else self.kind
        return replace(self, kind=kind, settings=settings, description="", tasks=())

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return asdict(self) | {"tasks": list(self.tasks)}

    def to_text(self) -> str:
        """Return the record as one sentence per fact, at most 1024 characters (DICOM ST).

        The description is cut first: the notice and the identity of the method always stay.
        """
        seed = "" if self.seed is None else f" Seed {self.seed}."
        weights = f" Weights sha256 {self.weights_sha256[:16]}." if self.weights_sha256 else ""
        tasks = f" Tasks: {', '.join(self.tasks)}." if self.tasks else ""
        version = f" {self.software_version}" if self.software_version else ""
        why = "Restoration withheld" if self.settings.get("withheld") else "Judged good"
        unchanged = f" {why}, so the values are unchanged." if self.kind == "unchanged" else ""
        head = f"{SHORT_NOTICE} {self.method}{version}.{unchanged}{tasks}{seed}{weights}"[:900]
        text = f"{head} {self.description}".strip()
        return text if len(text) <= 1024 else f"{text[:1021]}..."


def derived_uid(source: str, derivation: Derivation, *, extra: str = "") -> str:
    """Return the UID of what ``derivation`` makes of the object with the UID ``source``.

    The UID is ``2.25.`` and the decimal value of a version 8 UUID (DICOM PS3.5 B.2, RFC 9562 5.8)
    that is the hash of both, so a repeated run does not duplicate objects in an archive.

    Args:
        source: UID of the source object.
        derivation: What was done.
        extra: Anything else that tells two results apart.
    """
    record = derivation.to_dict()
    record.pop("created")
    payload = json.dumps([source, record, extra], sort_keys=True, default=str).encode()
    value = int.from_bytes(hashlib.sha256(payload).digest()[:16], "big")
    value = (value & ~(0xF << 76)) | (0x8 << 76)  # version 8: custom content
    value = (value & ~(0x3 << 62)) | (0x2 << 62)  # RFC variant
    return f"2.25.{uuid.UUID(int=value).int}"


def sidecar_path(path: str | Path) -> Path:
    """Return the path of the JSON that belongs to an image: ``a.nii.gz`` -> ``a.medq.json``."""
    path = Path(path)
    return path.with_name(split_suffix(path.name)[0] + SIDECAR_SUFFIX)


def split_suffix(name: str) -> tuple[str, str]:
    """Return stem and suffix of an image: ``a.nii.gz`` -> ``a``, ``.nii.gz``; the suffix of a folder is empty."""
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), "")
    stem = name[: len(name) - len(suffix)]
    return stem, name[len(stem) :]


def write_sidecar(path: str | Path, record: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write a record as indented JSON, whole or not at all.

    Args:
        path: Where to, usually :func:`sidecar_path` of the image.
        record: Plain JSON types; NaN is refused, because it is not JSON.
        overwrite: Whether a file that exists may be replaced.

    Raises:
        UnwritableImage: If the file exists and may not be replaced.
    """
    path = Path(path)
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    check_target(path, overwrite=overwrite)
    write_text(path, text)
