import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.textures import AIR, draw_texture
from medq_uni.errors import MedQError
from medq_uni.taxonomy import Modality


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(Modality)), st.integers(32, 80), st.integers(0, 10_000))
def test_a_texture_is_a_possible_image_and_the_same_every_time(modality: Modality, size: int, seed: int):
    one, again = (draw_texture(modality, torch.Generator().manual_seed(seed), size=size).image for _ in range(2))
    assert one.shape == (1, size, size)
    assert np.array_equal(one.voxels, again.voxels)
    assert one.voxels.min() >= AIR[modality] - 1e-3
    assert one.voxels.std() > 0
    if modality is Modality.CT:
        assert one.voxels.max() < 2000


def test_edges_come_in_all_sizes():
    """The spectrum of dead leaves falls as the square of the frequency, like that of natural images."""
    slopes = []
    for seed in range(6):
        values = draw_texture(Modality.MR, torch.Generator().manual_seed(seed), size=128).image.voxels[0]
        power = np.abs(np.fft.fft2((values - values.mean()) * np.outer(np.hanning(128), np.hanning(128)))) ** 2
        radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
        bins = np.geomspace(0.03, 0.3, 7)
        level = [power[(radius >= a) & (radius < b)].mean() for a, b in zip(bins, bins[1:], strict=False)]
        slopes.append(np.polyfit(np.log(bins[:-1]), np.log(level), 1)[0])
    assert -3.5 < np.mean(slopes) < -1.8


def test_a_share_of_the_phantoms_are_textures_and_the_others_stay_as_they_were():
    plain = PairsConfig(count=30, seed=3, phantom_sizes=(48,))
    some, all_ = (PairsConfig(count=30, seed=3, phantom_sizes=(48,), texture_fraction=x) for x in (0.3, 1.0))
    anatomies = [draw_pair(all_, index).anatomy.value for index in range(5)]
    assert set(anatomies) == {"body"}
    same = [
        np.array_equal(draw_pair(plain, index).reference.voxels, draw_pair(some, index).reference.voxels)
        for index in range(30)
    ]
    assert 15 <= sum(same) <= 28


def test_too_small_a_texture_is_refused():
    with pytest.raises(MedQError, match="at least 32"):
        draw_texture(Modality.CT, torch.Generator(), size=16)
