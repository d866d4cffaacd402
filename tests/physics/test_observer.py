import math

import numpy as np
import pytest
import torch

from medq_uni.data.phantoms import draw_phantom
from medq_uni.physics import ct, pet
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.effect import effect, grade_of
from medq_uni.physics.observer import Observer, eye_filter, ramp_noise, smoothed_noise
from medq_uni.physics.record import MEASURED, SCANNER_METHOD, DegradationRecord
from medq_uni.physics.spectra import NoiseSpectrum, backprojected_power, filtered, frequencies
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

SIDE = 256


def noise_of(power: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return noise (1, H, W) of a power spectrum and a standard deviation of 1."""
    white = torch.randn(1, SIDE, SIDE, generator=generator_of(seed))
    made = filtered(white, power.sqrt())
    return made / made.std()


def soft(peak: float) -> torch.Tensor:
    return NoiseSpectrum.of(peak, 1.8 * peak, 1.0).power(frequencies(SIDE, SIDE))


def hiding(noise: torch.Tensor, spacing_mm: float = 0.75) -> float:
    everywhere = np.ones(noise.shape, bool)
    return ct.OBSERVER.hiding(noise.numpy(), everywhere, (spacing_mm, spacing_mm))


def test_the_eye_sees_best_at_a_middle_frequency():
    frequency = torch.linspace(0.001, 1, 1000)
    seen = eye_filter(frequency)
    assert float(seen.max()) == pytest.approx(1, abs=1e-3)
    assert 0.04 < float(frequency[seen.argmax()]) < 0.1  # 0.6 cycles per degree at half a meter
    assert float(eye_filter(torch.zeros(1))) == 0


@pytest.mark.parametrize("sd", [12.0, 40.0])
def test_noise_of_the_known_texture_hides_as_much_as_it_does(sd: float):
    known = noise_of(backprojected_power(SIDE, SIDE))
    assert hiding(sd * known) == pytest.approx(sd, rel=0.1)
    smooth = Observer((10.0, 17.0), 1.0, smoothed_noise(6.0))
    power = smooth.known(SIDE, SIDE, (2.0, 2.0))
    everywhere = np.ones((1, SIDE, SIDE), bool)
    assert smooth.hiding((sd * noise_of(power)).numpy(), everywhere, (2.0, 2.0)) == pytest.approx(sd, rel=0.1)


def test_it_is_the_sum_over_frequencies_that_it_is_said_to_be():
    frequency, power = frequencies(SIDE, SIDE) / 0.75, soft(0.15)
    twice = torch.full((SIDE // 2 + 1,), 2.0)
    twice[0] = twice[-1] = 1
    ratios = []
    for diameter in ct.OBSERVER.discs_mm:
        x = (math.pi * diameter * frequency).clamp(min=1e-6)
        template = 2 * torch.special.bessel_j1(x) / x * eye_filter(frequency) ** 2
        found, known = (
            float((twice * one * template**2).sum() / (twice * one).sum())
            for one in (power, ramp_noise(SIDE, SIDE, (0.75, 0.75)))
        )
        ratios.append(found / known)
    wanted = math.sqrt(sum(ratios) / len(ratios))
    measured = np.mean([hiding(noise_of(power, seed)) for seed in range(4)])
    assert measured == pytest.approx(wanted, rel=0.05)
    radial = ct.OBSERVER.factor(NoiseSpectrum.of(0.15, 0.27, 1.0).power, 0.75)
    assert radial == pytest.approx(wanted, rel=0.05)


def test_soft_noise_hides_more_than_white_and_white_more_than_sharp():
    peaks = [0.08, 0.13, 0.18, 0.25, 0.35, 0.45]
    found = [hiding(noise_of(soft(peak))) for peak in peaks]
    assert found == sorted(found, reverse=True)
    white = hiding(noise_of(torch.ones(SIDE, SIDE // 2 + 1)))
    assert found[1] > white > found[-1]
    assert found[-1] > 0.5


@pytest.mark.parametrize("peak", [0.06, 0.08, 0.13, 0.18, 0.3, 0.45])
def test_40_hu_are_never_nothing(peak: float):
    image = draw_phantom(Modality.CT, generator_of(4), size=160).image
    record = draw_record(Task.CT_LOW_DOSE, Severity.MODERATE, generator_of(5), method=SCANNER_METHOD)
    kernel = {"kernel_peak": peak, "kernel_cutoff": 1.8 * peak, "kernel_rise": 1.0, "noise_sd_hu": 40.0}
    plain = {"softened": 0.0, "iterative": 0.0, "grid_scale": 1.0, "grid_rotation_deg": 0.0}
    names = {name: value for name, value in record.params.items() if not name.startswith("after")}
    record = DegradationRecord(record.task, record.severity, names | plain | kernel, 6, SCANNER_METHOD)
    made = apply_records(image, record)
    grade = grade_of(record.task, effect(made, image, record.task, method=SCANNER_METHOD))
    assert grade in ((Severity.SEVERE,) if peak < 0.2 else (Severity.MILD, Severity.MODERATE))


@pytest.mark.parametrize("task", [Task.CT_LOW_DOSE, Task.PET_LOW_COUNT])
def test_the_noise_of_the_default_hides_as_much_as_its_plain_measure_says(task: Task):
    ratios = []
    for number in range(6):
        image = draw_phantom(task.modality, generator_of(7, number), size=160).image
        record = draw_record(task, Severity.from_level(1 + number % 3), generator_of(8, number))
        made = apply_records(image, record)
        plain, seen = (effect(made, image, task, method=name) for name in ("default", MEASURED))
        ratios.append(seen / plain)
    assert np.median(ratios) == pytest.approx(1, abs=0.07)
    assert max(ratios) < 1.25
    assert min(ratios) > 0.8


def test_mr_artifacts_keep_their_norm():
    image = draw_phantom(Modality.MR, generator_of(9), size=96).image
    record = draw_record(Task.MR_NOISE, Severity.MODERATE, generator_of(10), method=SCANNER_METHOD)
    made = apply_records(image, record)
    assert effect(made, image, record.task, method=SCANNER_METHOD) == effect(made, image, record.task)


@pytest.mark.parametrize("severity", list(Severity)[1:])
@pytest.mark.parametrize("task", [Task.CT_LOW_DOSE, Task.PET_LOW_COUNT])
def test_scanners_fill_every_grade_in_all_textures(task: Task, severity: Severity):
    image = draw_phantom(task.modality, generator_of(11), size=192).image
    made = [degrade(image, [(task, severity)], generator_of(12, n), method=SCANNER_METHOD) for n in range(7)]
    assert np.mean([one.records[0].severity is severity for one in made]) > 0.7
    for one in made:
        assert one.effects == (effect(one.image, image, task, method=SCANNER_METHOD),)
    if task is Task.CT_LOW_DOSE:
        peaks = [one.records[0].params["kernel_peak"] for one in made]
        assert min(peaks) < 0.16
        assert max(peaks) > 0.2


def test_larger_discs_and_less_noise_are_seen_better():
    mild, severe = (ct.OBSERVER.detectability(sd, 0.75) for sd in (12.0, 50.0))
    assert mild[0] < mild[1]
    assert mild[0] / severe[0] == pytest.approx(50 / 12)
    assert 1 < severe[0] < 5  # at the bound of severe a disc of 5 mm and 20 HU is about to be lost
    assert len(pet.OBSERVER.detectability(0.36, 2.5, 160)) == 2
