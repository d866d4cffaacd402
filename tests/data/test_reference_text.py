import pytest
import torch

from medq_uni.data.reference_text import describe, noisy_label
from medq_uni.description import QualityDescription, degradation_options, degradation_words
from medq_uni.physics.degrade import draw_record
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("severity", list(Severity))
def test_what_a_record_says_is_right_varied_and_never_contradicts_itself(task: Task, severity: Severity):
    texts = set()
    for seed in range(60):
        record = draw_record(task, severity, generator(seed))
        description = describe(task.modality, Anatomy.BODY, record, generator(seed + 100))
        assert description.validate() == []
        assert QualityDescription.from_text(description.to_text()) == description
        assert "{" not in description.cause
        assert "about 0" not in description.cause
        assert [d.task for d in description.degradations] == ([] if severity is Severity.NONE else [task])
        assert description.worst is severity
        texts.add(description.to_text())
    assert len(texts) >= 12


def test_a_mixed_degradation_names_both_in_words_that_the_grammar_knows():
    records = [
        draw_record(Task.MR_NOISE, Severity.SEVERE, generator()),
        draw_record(Task.MR_MOTION, Severity.MILD, generator()),
    ]
    for seed in range(20):
        description = describe(Modality.MR, Anatomy.BRAIN, records, generator(seed))
        assert degradation_words(description.degradations) in degradation_options(Modality.MR)
        assert {d.task: d.severity for d in description.degradations} == {r.task: r.severity for r in records}
        assert " and " in description.cause
        assert description.worst is Severity.SEVERE
        assert QualityDescription.from_text(description.to_text()) == description


def test_a_grade_without_known_parameters_states_no_number():
    record = DegradationRecord(Task.CT_LOW_DOSE, Severity.MILD)  # noise of the reference itself
    causes = {describe(Modality.CT, Anatomy.CHEST, record, generator(seed)).cause for seed in range(60)}
    assert len(causes) > 3
    assert not any("%" in cause for cause in causes)


def test_wrong_slots_are_those_that_are_recorded():
    record = draw_record(Task.MR_NOISE, Severity.MODERATE, generator())
    right = describe(Modality.MR, Anatomy.BRAIN, record, generator())
    assert noisy_label(right, 0.0, generator()).description == right
    counts = dict.fromkeys(("anatomy", "task", "severity", "cause", "impact", "verdict"), 0)
    for seed in range(200):
        label = noisy_label(right, 0.25, generator(seed))
        found = label.description
        changed = {
            "anatomy": found.anatomy != right.anatomy,
            "task": found.degradations[0].task != right.degradations[0].task,
            "severity": found.degradations[0].severity != right.degradations[0].severity,
            "cause": found.cause != right.cause,
            "impact": found.impact != right.impact,
            "verdict": found.verdict != right.verdict,
        }
        assert {name for name, is_changed in changed.items() if is_changed} == set(label.wrong)
        for name in label.wrong:
            counts[name] += 1
        assert QualityDescription.from_text(found.to_text(), strict=False) == found
    assert all(30 <= count <= 70 for count in counts.values())


def test_a_good_image_can_be_mislabeled_and_an_impossible_probability_is_refused():
    good = describe(Modality.CT, Anatomy.CHEST, None, generator())
    assert any("severity" in noisy_label(good, 0.5, generator(seed)).wrong for seed in range(10))
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy_label(good, 1.5, generator())
