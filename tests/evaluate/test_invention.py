import numpy as np
import pytest

from medq_uni.data.regions import distance_from
from medq_uni.evaluate.invention import blobs, check_invention
from medq_uni.evaluate.trials import Scene, Trials
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality
from tests.evaluate.conftest import SMALL


def test_the_truth_invents_nothing(scenes: list[Scene], oracle: Trials):
    rows = check_invention(oracle, scenes, SMALL)
    assert len(rows) == len(scenes)
    assert all(row["invented"] == row["erased"] == 0 for row in rows)


def test_the_input_invents_nothing_beside_itself(scenes: list[Scene], unchanged: Trials):
    for row in check_invention(unchanged, scenes, SMALL):
        assert row["invented"] == row["invented_of_input"]
        assert row["erased"] == row["erased_of_input"]
    for scene in scenes:
        assert blobs(scene.pair.degraded, scene.pair.degraded, scene.pair.degraded) == (0, 0)


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


def test_noise_of_the_input_is_no_invention(slices):
    truth, degraded, _ = slices
    assert blobs(degraded, truth, degraded) == (0, 0)
