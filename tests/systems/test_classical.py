import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.scoring import scores
from medq_uni.systems.cases import Case
from medq_uni.systems.classical import FILTERS, Classical, filtered, is_at_hand, tune
from medq_uni.taxonomy import Severity, Task

AT_HAND = [name for name in FILTERS if is_at_hand(name)]


def noisy(cases: list[Case]) -> list[Case]:
    return [c for c in cases if c.task is Task.CT_LOW_DOSE and c.severity is not Severity.NONE]


@pytest.mark.parametrize("name", AT_HAND)
def test_a_tuned_filter_gains_on_ct_noise_and_keeps_units(name: str, cases: list[Case]):
    mine = noisy(cases)
    system = Classical(name, tune(name, mine))
    restored = [system.restore(case).image for case in mine]
    assert all(image.units is case.degraded.units for image, case in zip(restored, mine, strict=True))
    gains = [
        scores(image, case.reference)[0] - scores(case.degraded, case.reference)[0]
        for image, case in zip(restored, mine, strict=True)
    ]
    assert np.mean(gains) > (0.2 if name == "gaussian" else 0.5)  # which blurs edges too, and is tuned to do little


@pytest.mark.parametrize("name", AT_HAND)
def test_the_strength_is_the_best_of_the_candidates(name: str, cases: list[Case]):
    (case,) = noisy(cases)[:1]
    ((task, strength),) = tune(name, [case])
    decibels = {
        s: scores(case.degraded.with_voxels(filtered(case, name, s)), case.reference)[0]
        for s in FILTERS[name].strengths
    }
    assert task is Task.CT_LOW_DOSE
    assert decibels[strength] == max(decibels.values())


@pytest.mark.parametrize("name", AT_HAND)
def test_a_constant_slice_passes(name: str, cases: list[Case]):
    flat = noisy(cases)[0].degraded.with_voxels(np.full(noisy(cases)[0].degraded.shape, 40.0))
    case = Case(Task.CT_LOW_DOSE, Severity.MILD, "s", "g", flat, flat)
    assert np.allclose(filtered(case, name, FILTERS[name].strengths[0]), 40, atol=1e-3)


def test_nothing_to_tune_on_is_an_error(cases: list[Case]):
    good = [c for c in cases if c.severity is Severity.NONE]
    with pytest.raises(ConfigError, match="split val"):
        tune("nlm", good)
    with pytest.raises(ConfigError, match="not tuned for mr-noise"):
        Classical("nlm", ((Task.CT_LOW_DOSE, 1.0),)).restore(next(c for c in cases if c.task is Task.MR_NOISE))
