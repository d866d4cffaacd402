from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

from medq_uni.data.dataset import build_dataset
from medq_uni.data.phantoms import phantom as draw
from medq_uni.taxonomy import Modality
from tests.data.tiny import RECIPE

SLICES = 3


def stored_volume(modality: Modality, *, noise: float = 0.0) -> np.ndarray:
    """Return stored integers of a small volume, with the same anatomy every time."""
    generator = torch.Generator().manual_seed(1)
    slices = [draw(modality, generator, size=48).voxels[0] for _ in range(SLICES)]
    values = np.stack(slices) + noise * np.random.default_rng(0).standard_normal((SLICES, 48, 48))
    scale, offset = (1, 1024) if modality is Modality.CT else (1000, 0)
    return np.clip(values * scale + offset, 0, 60000).astype(np.uint16)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["path,modality,anatomy,subject,split,units"]
    values = np.random.default_rng(0).uniform(10, 900, (40, 36, 3)).astype(np.float32)
    for modality, units in (("ct", "HU"), ("mr", "a.u."), ("pet", "SUV")):
        for split in ("train", "test"):
            name = f"{modality}_{split}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name)
            rows.append(f"{name},{modality},brain T1w,{modality}-{split},{split},{units}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def write(phantom: SimpleNamespace):
    def series(folder: Path, stored: np.ndarray, names: str = "{}.dcm", modality: str = "CT") -> list[Path]:
        rescale = (1.0, -1024.0) if modality == "CT" else (0.001, 0.0)
        edit = phantom.pet_header if modality == "PT" else None
        paths = [names.format(k + 1) for k in range(len(stored))]
        return phantom.series(folder, stored, modality=modality, rescale=rescale, edit=edit, names=paths)

    return series


@pytest.fixture
def mayo(tmp_path: Path, write) -> Path:
    root = tmp_path / "mayo"
    full, quarter = stored_volume(Modality.CT), stored_volume(Modality.CT, noise=25)
    names = "L067_{}_1_1.CT.0001.{{:04d}}.2015.12.22.18.09.40.840353.358074219.IMA"
    write(root / "L067/full_1mm", full, names.format("FD"))
    write(root / "L067/quarter_1mm", quarter, names.format("QD"))
    write(root / "3mm B30/full_3mm/L096/full_3mm", full, "L096_FD_3_1.CT.0001.{:04d}.IMA")
    write(root / "3mm B30/quarter_3mm/L096/quarter_3mm", quarter, "L096_QD_3_1.CT.0001.{:04d}.IMA")
    write(root / "C002/12-23-2021-NA-NA-40816/1.000000-Full Dose Images-73627", full, "1-{:03d}.dcm")
    write(root / "C002/12-23-2021-NA-NA-40816/1.000000-Low Dose Images-51236", quarter, "1-{:03d}.dcm")
    write(root / "C002/12-23-2021-NA-NA-40816/1.000000-Full dose projections-24362", full, "1-{:03d}.dcm")
    return root


@pytest.fixture
def stored() -> Callable[..., np.ndarray]:
    return stored_volume


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset; nobody writes to it."""
    folder = tmp_path_factory.mktemp("dataset") / "tiny"
    build_dataset(RECIPE, folder)
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset, to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in built.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
