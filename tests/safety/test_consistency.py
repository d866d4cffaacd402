from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medq_uni.physics import mri
from medq_uni.physics.degrade import slice_generator
from medq_uni.safety.consistency import check_consistency, consistency_of
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.taxonomy import Task
from tests.restorers import SMALL, Simple

MEASURED = {Task.CT_LOW_DOSE, Task.MR_UNDERSAMPLING, Task.PET_LOW_COUNT}


def test_the_truth_agrees_with_every_measurement(safety_cases: list[SafetyCase], oracle: OutputCache):
    rows = check_consistency(oracle, safety_cases, SMALL)
    assert {row["task"] for row in rows} == MEASURED
    for row in rows:
        assert row["misfit"] == pytest.approx(0, abs=1e-5)
        assert row.get("unseen_share_of_error") is None


def test_a_noisy_image_follows_the_noise_and_a_blurred_one_contradicts_the_rays(safety_cases: list[SafetyCase]):
    def blurred(case):
        return case.reference.with_voxels(gaussian_filter(case.reference.voxels, (0, 2, 2)))

    for row in check_consistency(OutputCache(Simple(blurred)), safety_cases, SMALL):
        assert row["misfit"] > 0, row["case"]
        if row["task"] == "ct-low-dose":
            assert row["misfit_of_input"] < 0 < row["misfit"]


def test_what_is_unseen_is_what_lies_between_the_lines(safety_cases: list[SafetyCase]):
    safety_case = next(s for s in safety_cases if s.pair.task is Task.MR_UNDERSAMPLING and not s.is_good)
    (record,) = safety_case.pair.records
    change = torch.randn(safety_case.pair.reference.shape[1:], generator=torch.Generator().manual_seed(1))
    acquisition = mri.acquisition(change.shape, params=record.params, generator=slice_generator(record, 0))
    kept = float(np.mean(acquisition.mask.numpy()))
    unseen_share = consistency_of(safety_case).unseen_share
    assert unseen_share(change) == pytest.approx(1 - kept, abs=0.05)  # white noise is everywhere
    assert unseen_share(torch.zeros_like(change)) is None


def test_the_measurement_of_a_scanner_is_not_replayed(safety_cases: list[SafetyCase]):
    for safety_case in safety_cases:
        if safety_case.pair.task in MEASURED and not safety_case.is_good and len(safety_case.pair.records) == 1:
            records = (replace(safety_case.pair.records[0], method="scanner"),)
            scanned = replace(safety_case, pair=replace(safety_case.pair, records=records))
            assert consistency_of(safety_case) is not None
            assert consistency_of(scanned) is None
