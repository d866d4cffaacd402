import math
from dataclasses import replace

import numpy as np
import pytest

from medq_uni.data.lesions import CONTRASTS_HU, MOST_LESIONS, RADII_PX, draw_wanted, place_lesions
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.regions import tissue
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity

PLAIN = PairsConfig(count=20, seed=8, phantom_sizes=(96,), grades=(Severity.MILD,))
WITH = replace(PLAIN, lesion_fraction=1.0)


def test_wanted_lesions_lie_in_their_ranges():
    drawn = [draw_wanted(Modality.CT, generator_of(number)) for number in range(50)]
    assert {len(some) for some in drawn} == set(range(1, MOST_LESIONS + 1))
    assert all(RADII_PX[0] <= one.radius_px <= RADII_PX[1] for some in drawn for one in some)
    assert all(CONTRASTS_HU[0] <= one.contrast <= CONTRASTS_HU[1] for some in drawn for one in some)


@pytest.mark.parametrize("index", range(5))
def test_lesions_lie_inside_tissue_and_change_nothing_outside(index: int):
    pair = draw_pair(PLAIN, index)
    wanted = draw_wanted(pair.task.modality, generator_of(index))
    lesions = place_lesions(pair.reference, wanted, generator_of(index))
    inside = tissue(pair.reference)
    for lesion in lesions:
        profile = lesion.profile(pair.reference)
        assert abs(profile).max() <= abs(lesion.amplitude) * (1 + 1e-6)
        assert inside[lesion.place]
        assert math.isfinite(lesion.amplitude)


def test_pairs_with_lesions_are_otherwise_the_same_pairs():
    changed = 0
    for index in range(10):
        plain, other = draw_pair(PLAIN, index), draw_pair(WITH, index)
        assert (plain.task, plain.source, plain.subject, plain.reference.shape) == (
            other.task,
            other.source,
            other.subject,
            other.reference.shape,
        )
        changed += not np.array_equal(plain.reference.voxels, other.reference.voxels)
    assert changed >= 8


def test_what_is_inserted_is_degraded_with_the_rest():
    plain, other = draw_pair(PLAIN, 0), draw_pair(WITH, 0)  # CT: additive noise takes no contrast away
    true = (other.reference.voxels - plain.reference.voxels)[0]
    assert np.abs(true).max() >= CONTRASTS_HU[0] / 2
    degraded = other.degraded.voxels[0] - other.reference.voxels[0]
    lesion = np.abs(true) > 0.5 * np.abs(true).max()
    noise = degraded[~lesion & (other.reference.voxels[0] > -200)].std()
    assert abs(degraded[lesion].mean()) < 4 * noise


def test_the_share_of_pairs_with_lesions():
    some = replace(PLAIN, lesion_fraction=0.5)
    pairs = [(draw_pair(some, i), draw_pair(PLAIN, i)) for i in range(20)]
    changed = sum(not np.array_equal(one.reference.voxels, other.reference.voxels) for one, other in pairs)
    assert 4 <= changed <= 16
