from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medq_uni.describers.cache import AnswerCache
from medq_uni.describers.describer import Answer, Outcome, Subject
from medq_uni.describers.model import ModelDescriber
from medq_uni.description import DescriptionError
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.restorer import Restorer
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Modality, Severity, Task


def test_a_model_of_ours_describes_refuses_warns_and_is_asked_once(
    cases: list[Case], restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = ModelDescriber("nano", restorer, AnswerCache(tmp_path))
    degraded = next(c for c in cases if c.severity is Severity.SEVERE).degraded
    first = model(Subject(degraded))
    assert first.outcome is Outcome.DESCRIBED
    assert first.description.modality is degraded.modality
    blank = degraded.with_voxels(np.zeros_like(degraded.voxels))
    assert model(Subject(blank)).outcome is Outcome.REFUSED
    assert "constant" in model(Subject(blank)).reason
    noise = MedicalImage(np.random.default_rng(0).uniform(0, 10, (64, 64)), modality=Modality.PET)
    assert model(Subject(noise)).outcome is Outcome.REFUSED
    assert "unlike all" in model(Subject(noise)).reason
    pet = next(c for c in cases if c.task is Task.PET_LOW_COUNT).degraded
    mistaken = Subject(replace(pet, modality=Modality.MR))
    assert "looks like PET" in model(mistaken).warning

    def fail(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(restorer, "assess", fail)
    assert model(Subject(degraded)) == first
    assert "looks like PET" in model(mistaken).warning


def raising(error: Exception) -> ModelDescriber:
    """Return a describer whose model raises an error, and that keeps nothing."""

    def assess(image: MedicalImage) -> None:
        raise error

    return ModelDescriber("ours", SimpleNamespace(assess=assess))


def test_what_it_cannot_take_is_refused_and_a_fault_of_our_own_is_not_hidden(cases: list[Case]):
    subject = Subject(cases[0].degraded)
    answer = raising(MedQError("voxels are NaN."))(subject)
    assert answer == Answer(Outcome.REFUSED, reason="Cannot assess: voxels are NaN.")
    answer = raising(DescriptionError("no such word."))(subject)
    assert answer == Answer(Outcome.FAILED, reason="no such word.")
    with pytest.raises(ValueError, match="broadcast"):
        raising(ValueError("operands could not be broadcast together"))(subject)
