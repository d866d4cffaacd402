from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.baselines.network import BaselineConfig, build_baseline, count_parameters
from medq_uni.image import MedicalImage
from medq_uni.pretrained.baselines import save_baseline
from medq_uni.systems.build import NotRun, build, read_specs
from medq_uni.systems.cases import Case
from medq_uni.systems.learned import LearnedBaseline
from medq_uni.taxonomy import Modality, Severity, Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    baseline = build_baseline(BaselineConfig(kind="nafnet", width=4, blocks=(1, 1, 1, 1)))
    with torch.no_grad():
        baseline.unet.ending.bias.fill_(0.1)
    save_baseline(tmp_path / "mine" / "model", baseline, card={})
    return tmp_path / "mine" / "model"


def test_a_slice_of_any_size_comes_back_restored_in_its_units(cases: list[Case], folder: Path) -> None:
    system = LearnedBaseline.from_folder(folder)
    assert system.name == "nafnet"
    case = next(c for c in cases if c.task is Task.CT_LOW_DOSE)
    odd = MedicalImage(
        voxels=case.degraded.voxels[:, :50, :37].copy(),
        spacing_mm=case.degraded.spacing_mm,
        modality=case.degraded.modality,
        units=case.degraded.units,
    )
    image = system.restore(Case(case.task, case.severity, "x", "x", odd, odd)).image
    assert image.voxels.shape == (1, 50, 37)
    change = image.voxels - odd.voxels
    inside = (odd.voxels > -1000) & (odd.voxels < 3000)
    soft = (odd.voxels > -140) & (odd.voxels < 200)  # the window view is worth 400 HU, the wide one 4095
    np.testing.assert_allclose(np.median(change[soft]), 0.05 * 400, rtol=0.1)
    np.testing.assert_allclose(np.median(change[inside & ~soft]), 0.05 * 4095, rtol=0.1)


def test_a_large_slice_goes_whole(folder: Path) -> None:
    seen: list[torch.Size] = []
    system = LearnedBaseline.from_folder(folder)
    system.baseline.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    values = np.random.default_rng(0).uniform(0, 1, (1, 512, 500)).astype(np.float32)
    image = MedicalImage(voxels=values, spacing_mm=(1.0, 1.0, 1.0), modality=Modality.MR)
    restored = system.restore(Case(Task.MR_NOISE, Severity.MILD, "x", "x", image, image)).image
    assert seen == [(1, 2, 512, 504)]
    assert restored.voxels.shape == values.shape


def test_a_folder_of_a_baseline_is_a_system_by_name(cases: list[Case], folder: Path) -> None:
    (spec,) = read_specs([str(folder)], device="cpu")
    system = build(spec)
    assert isinstance(system, LearnedBaseline)
    assert system.name == "mine"
    assert len(system.identity) == 64
    assert system.parameters == count_parameters(system.baseline)
    assert system.restore(cases[0]).description is None
    with pytest.raises(NotRun, match="no part that could be switched off"):
        build(read_specs([f"{folder}:no-skip"], device="cpu")[0])


def test_a_damaged_folder_does_not_run(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(NotRun, match="altered or damaged"):
        build(read_specs([str(folder)], device="cpu")[0])
