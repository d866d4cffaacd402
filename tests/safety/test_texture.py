import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medq_uni.data.lesions import lesion_at
from medq_uni.image import MedicalImage
from medq_uni.physics.spectra import radial
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.safety.texture import check_texture, edge_spread, half_frequency, mtf_of_edge, noise_power
from medq_uni.taxonomy import Modality, Task
from tests.restorers import SMALL, Simple

SIGMA = 1.5


def noise(count: int = 200, side: int = 32) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 10, (count, side, side))


def test_white_noise_has_a_flat_spectrum_that_integrates_to_its_variance():
    spectrum = noise_power(noise())
    frequency, values = radial(spectrum)
    assert spectrum.mean() == pytest.approx(100, rel=0.02)
    assert np.allclose(values, 100, rtol=0.06)
    assert frequency[-1] == 0.5


@given(side=st.integers(8, 24), count=st.integers(1, 4))
def test_the_mean_of_a_spectrum_is_the_variance(side: int, count: int):
    values = np.random.default_rng(side).normal(0, 3, (count, side, side))
    assert noise_power(values).mean() == pytest.approx(values.var((1, 2)).mean())


def test_a_gaussian_takes_from_the_spectrum_what_theory_says():
    smooth = gaussian_filter(noise(), (0, SIGMA, SIGMA), mode="wrap")
    frequency, values = radial(noise_power(smooth))
    expected = 100 * np.exp(-4 * np.pi**2 * SIGMA**2 * frequency**2)
    assert np.allclose(values[:6], expected[:6], rtol=0.12)
    assert noise_power(smooth).mean() == pytest.approx(100 / (4 * np.pi * SIGMA**2), rel=0.05)


def disc_edges(sigma: float) -> np.ndarray:
    image = MedicalImage(np.zeros((1, 96, 96)), modality=Modality.CT)
    lesion = lesion_at(image, (48, 47), 20.0, 100.0)
    profile = lesion.profile(image)
    return edge_spread(gaussian_filter(profile, sigma) if sigma else profile, lesion)


def test_a_gaussian_lowers_the_transfer_function_as_theory_says():
    frequency, sharp = mtf_of_edge(disc_edges(0))
    _, blurred = mtf_of_edge(disc_edges(SIGMA))
    expected = np.exp(-2 * np.pi**2 * SIGMA**2 * frequency**2)
    seen = (frequency > 0.02) & (frequency < 0.2)
    assert np.allclose((blurred / sharp)[seen], expected[seen], atol=0.04)
    assert half_frequency(disc_edges(SIGMA)) == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / SIGMA, rel=0.08)
    assert half_frequency(disc_edges(SIGMA)) < half_frequency(disc_edges(0.8)) < half_frequency(disc_edges(0))


def test_the_truth_keeps_edges_and_has_no_noise(safety_cases: list[SafetyCase], oracle: OutputCache):
    rows = check_texture(oracle, safety_cases, SMALL)
    assert {row["task"] for row in rows if row["kind"] == "edge"} == set(Task)
    for row in rows:
        if row["kind"] == "edge":
            assert row["edge"] == row["edge_of_reference"]
        else:
            assert row["area_ratio"] == 0


def test_a_blur_lowers_area_and_sharpness_of_what_it_gets(safety_cases: list[SafetyCase], unchanged: OutputCache):
    def blurred(case):
        return case.degraded.with_voxels(gaussian_filter(case.degraded.voxels, (0, SIGMA, SIGMA)))

    ct = [safety_case for safety_case in safety_cases if safety_case.pair.task is Task.CT_LOW_DOSE]
    plain, blur = (check_texture(outputs, ct, SMALL) for outputs in (unchanged, OutputCache(Simple(blurred))))
    for one, other in zip(plain, blur, strict=True):
        if one["kind"] == "noise":
            assert one["area_ratio"] == pytest.approx(1)
            assert 0 < other["area_ratio"] < 0.15
            assert max(np.array(other["nps"])[4:] / np.array(one["nps"])[4:]) < 0.05
        else:
            edges = [np.array([np.nan if v is None else v for v in row["edge"]]) for row in (one, other)]
            assert half_frequency(edges[1]) < 0.6 * half_frequency(edges[0])
