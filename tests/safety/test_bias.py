import numpy as np
import pytest

from medq_uni.image import MedicalImage
from medq_uni.safety.bias import TISSUES_HU, check_bias, hot_regions, region_bias
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.taxonomy import Modality
from tests.restorers import SMALL


def test_the_truth_has_no_bias_and_the_input_its_own(
    safety_cases: list[SafetyCase], oracle: OutputCache, unchanged: OutputCache
):
    rows = check_bias(oracle, safety_cases, SMALL)
    assert all(row["bias"] == pytest.approx(0, abs=1e-9) for row in rows)
    assert {"soft tissue", "SUVmax", "SUVmean", "tissue ratio"} <= {row["region"] for row in rows}
    assert all(row["bias"] == row["bias_of_input"] for row in check_bias(unchanged, safety_cases, SMALL))


def test_an_offset_is_the_bias_of_every_tissue():
    truth = np.full((1, 60, 60), -1000.0)
    for number, (low, high) in enumerate(TISSUES_HU.values()):
        truth[:, :, 12 * number : 12 * number + 12] = (low + high) / 2
    reference = MedicalImage(truth, modality=Modality.CT)
    found = dict(region_bias(reference.with_voxels(truth + 4), reference))
    assert found == pytest.approx(dict.fromkeys(TISSUES_HU, 4.0), abs=1e-3)


def test_hot_regions_are_measured_at_their_isocontour():
    rows, columns = np.mgrid[:64, :64]
    truth = np.ones((64, 64))
    for row, column, peak in ((20, 20, 8.0), (44, 40, 5.0)):
        truth += peak * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18)
    body = np.ones((64, 64), bool)
    regions = hot_regions(truth, body)
    assert len(regions) == 2
    assert regions[0][20, 20]
    assert not regions[0][44, 40]
    reference = MedicalImage(truth[None], modality=Modality.PET)
    found = region_bias(reference.with_voxels(1.1 * truth[None]), reference)
    assert [value for _, value in found] == pytest.approx([0.1] * 4, abs=1e-4)


def test_a_scale_leaves_the_tissue_ratio_and_an_offset_does_not():
    truth = np.zeros((1, 60, 60))
    truth[:, 5:55, 5:20], truth[:, 5:55, 20:40], truth[:, 5:55, 40:55] = 100, 300, 600
    truth[:, 5:55, 5:55] += np.random.default_rng(0).normal(0, 8, (50, 50))
    reference = MedicalImage(truth, modality=Modality.MR)
    ((_, scaled),) = region_bias(reference.with_voxels(1.3 * truth), reference)
    ((_, lifted),) = region_bias(reference.with_voxels(truth + 300), reference)
    assert scaled == pytest.approx(0, abs=1e-6)
    assert lifted == pytest.approx(900 / 600 / 2 - 1, abs=0.01)
