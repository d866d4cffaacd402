import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medq_uni.evaluate.consistency import check_consistency, unseen_share
from medq_uni.evaluate.trials import Scene, Trials
from medq_uni.physics import mri, slice_generator
from medq_uni.taxonomy import Task
from tests.evaluate.conftest import SMALL, Simple

MEASURED = {Task.CT_LOW_DOSE, Task.MR_UNDERSAMPLING, Task.PET_LOW_COUNT}


def test_the_truth_agrees_with_every_measurement(scenes: list[Scene], oracle: Trials):
    rows = check_consistency(oracle, scenes, SMALL)
    assert {row["task"] for row in rows} == MEASURED
    for row in rows:
        assert row["misfit"] == pytest.approx(0, abs=1e-5)
        assert row.get("unseen_share_of_error") is None


def test_a_noisy_image_follows_the_noise_and_a_blurred_one_contradicts_the_rays(scenes: list[Scene]):
    def blurred(case):
        return case.reference.with_voxels(gaussian_filter(case.reference.voxels, (0, 2, 2)))

    for row in check_consistency(Trials(Simple(blurred)), scenes, SMALL):
        assert row["misfit"] > 0, row["scene"]
        if row["task"] == "ct-low-dose":
            assert row["misfit_of_input"] < 0 < row["misfit"]


def test_what_is_unseen_is_what_lies_between_the_lines(scenes: list[Scene]):
    scene = next(s for s in scenes if s.pair.task is Task.MR_UNDERSAMPLING and not s.is_good)
    (record,) = scene.pair.records
    change = torch.randn(scene.pair.reference.shape[1:], generator=torch.Generator().manual_seed(1))
    acquisition = mri.acquisition(change.shape, params=record.params, generator=slice_generator(record, 0))
    kept = float(np.mean(acquisition.mask.numpy()))
    assert unseen_share(scene, change) == pytest.approx(1 - kept, abs=0.05)  # white noise is everywhere
    assert unseen_share(scene, torch.zeros_like(change)) is None
