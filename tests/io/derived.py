"""What the tests of derived DICOM files have in common."""

import hashlib
from pathlib import Path

import numpy as np
import pydicom

from medq_uni.image import MedicalImage
from medq_uni.io.provenance import Derivation

DERIVATION = Derivation(
    kind="restored",
    method="MedQ-UNI nano",
    software_version="0.1.0",
    weights_sha256="ab" * 32,
    settings={"num_steps": 1},
    seed=7,
    description="Severe noise.",
    tasks=("ct-low-dose",),
)


def load(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path)


def digest(folder: Path) -> str:
    """Return a hash over every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def shifted(image: MedicalImage, amount: float) -> MedicalImage:
    return image.with_voxels(image.voxels + np.float32(amount))
