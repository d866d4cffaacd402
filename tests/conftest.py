"""Phantom DICOM files and a checkpoint with random weights, made by code.

Every text element of a DICOM file carries a canary that no message may show.
"""

from __future__ import annotations

import os

# Before anything loads OpenMP, and for the processes that tests start: sums keep their order, and threads that spin
# would make everything many times slower beside other processes.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

import tests.shapes

install_import_hook(tests.shapes.MODULES, f"{tests.shapes.__name__}.checked")

from medq_uni.config import FluxCodecConfig, ModelConfig, TransformerConfig, VisionConfig
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.released_export import export_released
from medq_uni.tokenizer import QWEN_NAMES, Tokenizer, train_tokenizer

pytest_plugins = ["tests.restorers"]

settings.register_profile("untimed", deadline=None)  # a first call loads libraries; no law is about time
settings.load_profile("untimed")

CANARY = "ZZCANARY"
SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def header(modality: str, sop_class: str, uid: str) -> Dataset:
    """Return patient, study and series of a phantom."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = uid
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID = f"{CANARY}^Name", f"{CANARY}-ID"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4", "1.2.3.4.5"
    ds.FrameOfReferenceUID = "1.2.3.4.9"
    ds.StudyDate, ds.SeriesDate, ds.AcquisitionDate = "20260101", "20260101", "20260101"
    ds.SeriesTime, ds.AcquisitionTime = "120000", "120000"
    ds.Modality, ds.SeriesNumber = modality, 3
    ds.Manufacturer, ds.SeriesDescription = "Scanner Works", f"{CANARY} thin"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.WindowCenter, ds.WindowWidth = 40, 400
    block = ds.private_block(0x0011, "SECRET VENDOR", create=True)
    block.add_new(0x01, "LO", f"{CANARY} private")
    return ds


def set_pixels(ds: Dataset, stored: np.ndarray, *, bits: int | None = None) -> None:
    """Store integers, (Y, X) or (frames, Y, X)."""
    size = stored.dtype.itemsize * 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.BitsAllocated, ds.BitsStored = size, bits or size
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    data = stored.tobytes()
    ds.add_new("PixelData", "OB" if size == 8 else "OW", data + b"\0" * (len(data) % 2))


def save(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some phantoms are broken on purpose
        ds.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    stored: np.ndarray,
    *,
    modality: str = "CT",
    rescale: Any = (1.0, -1024.0),
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, ...] = (-10.0, 20.0, 30.0),
    spacing: tuple[float, float] = (0.7, 0.9),
    step: tuple[float, ...] = (0.0, 0.0, 2.5),
    bits: int | None = None,
    edit: Callable[[Dataset, int], None] | None = None,
    names: list[str] | None = None,
) -> list[Path]:
    """Write one file per slice of ``stored`` (Z, Y, X); ``rescale`` is one pair, or one per slice."""
    paths = []
    for k, pixels in enumerate(stored):
        ds = header(modality, SOP_CLASSES[modality], f"1.2.3.4.5.{k + 1}")
        ds.InstanceNumber = k + 1
        ds.ImageOrientationPatient = list(orientation)
        ds.ImagePositionPatient = [round(o + k * s, 8) for o, s in zip(origin, step, strict=True)]
        ds.PixelSpacing = list(spacing)
        ds.SliceThickness = 2.5
        pair = rescale[k] if isinstance(rescale, list) else rescale
        if pair is not None:
            ds.RescaleSlope, ds.RescaleIntercept = pair
        set_pixels(ds, pixels, bits=bits)
        if edit is not None:
            with pydicom.config.disable_value_validation():
                edit(ds, k)
        paths.append(save(ds, folder / (names[k] if names else f"{k:03d}.dcm")))
    return paths


def pet_header(ds: Dataset, _: int) -> None:
    """Make a header one of FDG-PET whose SUV can be computed."""
    ds.Units, ds.DecayCorrection = "BQML", "START"
    ds.PatientWeight = 80
    drug = Dataset()
    drug.RadionuclideTotalDose = 370e6
    drug.RadionuclideHalfLife = 6586.2
    drug.RadiopharmaceuticalStartTime = "110000"
    ds.RadiopharmaceuticalInformationSequence = [drug]


def write_enhanced(
    path: Path,
    stored: np.ndarray,
    *,
    rescales: list[tuple[float, float]],
    positions: list[float],
    modality: str = "CT",
) -> Path:
    """Write an enhanced multi-frame object; frame k lies at z = positions[k]."""
    sop_class = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}[modality]
    ds = header(modality, sop_class, "1.2.3.4.6.1")
    ds.ContentQualification = "PRODUCT"
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.6]
    shared.PixelMeasuresSequence[0].SliceThickness = 3
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for (slope, intercept), z in zip(rescales, positions, strict=True):
        group = Dataset()
        group.PlanePositionSequence = [Dataset()]
        group.PlanePositionSequence[0].ImagePositionPatient = [-5.0, 6.0, z]
        group.PixelValueTransformationSequence = [Dataset()]
        item = group.PixelValueTransformationSequence[0]
        item.RescaleSlope, item.RescaleIntercept = slope, intercept
        item.RescaleType = "HU" if modality == "CT" else "US"
        group.CTImageFrameTypeSequence = [Dataset()]
        group.CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    set_pixels(ds, stored)
    return save(ds, path)


@pytest.fixture(scope="session")
def phantom() -> SimpleNamespace:
    """Writers of phantom DICOM files."""
    return SimpleNamespace(
        canary=CANARY,
        header=header,
        set_pixels=set_pixels,
        save=save,
        series=write_series,
        enhanced=write_enhanced,
        pet_header=pet_header,
        sop_classes=SOP_CLASSES,
    )


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A database of its own on the server that make test-services started; without one, fail, do not skip."""
    import psycopg

    server = os.environ["MEDQ_POSTGRES_URL"]
    name = f"medq_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield server.rpartition("/")[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name}")


@pytest.fixture
def stored_ct() -> np.ndarray:
    """Return twelve-bit CT integers (Z, Y, X) with no symmetry and odd sides."""
    z, y, x = np.mgrid[0:4, 0:9, 0:7]
    return (100 + 300 * z + 37 * y + 5 * x + (x * y) % 11).astype(np.uint16)


@pytest.fixture(scope="session")
def bundled() -> Callable[[str], Path]:
    """Return the path of a file that pydicom ships."""

    def find(name: str) -> Path:
        path = pydicom.data.get_testdata_file(name, download=False)
        assert path is not None, f"pydicom no longer ships {name}"
        return Path(path)

    return find


RELEASED_TEXT = (
    "Image: CT of the chest. Degradation: severe low-dose noise. Cause: few photons. Impact: edges. Verdict: Reject."
)


@pytest.fixture(scope="session")
def released_tokenizer() -> Tokenizer:
    return train_tokenizer([RELEASED_TEXT], 300, QWEN_NAMES)


@pytest.fixture(scope="session")
def released(released_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the released layout with random weights; never write to it."""
    config = ModelConfig(
        name="tiny",
        transformer=TransformerConfig(
            vocab_size=320, hidden_size=128, intermediate_size=256, num_layers=2, num_heads=4, num_kv_heads=2
        ),
        vision=VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_layers=1,
            num_heads=2,
            max_patches_per_side=20,
            view_sides=(140, 280),
        ),
        codec=FluxCodecConfig(channels=32, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1),
        tokens=released_tokenizer.special,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MedQ(config)
        torch.nn.init.normal_(model.llm2vae.weight, 0, 0.05)
    folder = tmp_path_factory.mktemp("released") / "tiny"
    export_released(model, released_tokenizer, folder)
    return folder
