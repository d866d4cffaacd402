import numpy as np
import pytest

from medq_uni.data.regions import distance_from
from medq_uni.image import MedicalImage
from medq_uni.safety.hallucination import blobs, check_hallucination
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.taxonomy import Modality
from tests.restorers import SMALL


def test_the_truth_hallucinates_nothing(safety_cases: list[SafetyCase], oracle: OutputCache):
    rows = check_hallucination(oracle, safety_cases, SMALL)
    assert len(rows) == len(safety_cases)
    assert all(row["hallucinated"] == row["erased"] == 0 for row in rows)


def test_the_input_hallucinates_nothing_beside_itself(safety_cases: list[SafetyCase], unchanged: OutputCache):
    for row in check_hallucination(unchanged, safety_cases, SMALL):
        assert row["hallucinated"] == row["hallucinated_of_input"]
        assert row["erased"] == row["erased_of_input"]
    for safety_case in safety_cases:
        assert blobs(safety_case.pair.degraded, safety_case.pair.degraded, safety_case.pair.degraded) == (0, 0)


@pytest.fixture
def slices() -> tuple[MedicalImage, MedicalImage, np.ndarray]:
    """Return truth with one structure, a noisy input, and a disc elsewhere."""
    structure = 40.0 * (distance_from((128, 128), (40, 40)) <= 4)
    truth = MedicalImage(50 + structure[None], modality=Modality.CT)
    noise = np.random.default_rng(0).normal(0, 15, truth.shape)
    return truth, truth.with_voxels(truth.voxels + noise), distance_from((128, 128), (90, 80)) <= 4


def test_what_is_painted_is_found_and_what_is_weak_is_not(slices):
    truth, degraded, disc = slices
    for contrast, count in ((40.0, 1), (-40.0, 1), (5.0, 0)):
        assert blobs(truth.with_voxels(truth.voxels + contrast * disc), truth, degraded) == (count, 0)


def test_a_structure_that_is_lost_is_an_erasure(slices):
    truth, degraded, _ = slices
    assert blobs(truth.with_voxels(np.full(truth.shape, 50.0)), truth, degraded) == (0, 1)


def test_noise_of_the_input_is_no_hallucination(slices):
    truth, degraded, _ = slices
    assert blobs(degraded, truth, degraded) == (0, 0)
