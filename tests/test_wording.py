import re

import pytest

from medq_uni.physics.degrade import draw_record
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity, Task
from medq_uni.wording import WORDING


def test_every_task_has_words_and_phrases_and_codes_of_its_own():
    assert list(WORDING) == list(Task)
    for field in ("phrase", "restored", "degraded"):
        assert len({getattr(words, field) for words in WORDING.values()}) == len(Task)
    codes = [value for words in WORDING.values() for value, _ in (words.restored, words.degraded)]
    assert len(set(codes)) == 2 * len(Task)
    for words in WORDING.values():
        assert all(len(meaning) <= 64 for _, meaning in (words.restored, words.degraded))  # DICOM LO


@pytest.mark.parametrize("task", list(Task))
def test_a_cause_states_its_number_as_the_patterns_read_it(task: Task):
    words = WORDING[task]
    with_number = [cause for cause in words.causes if "{number}" in cause]
    assert len(with_number) < len(words.causes)
    assert bool(with_number) == (words.stated is not None)
    if words.stated is None:
        return
    assert words.stated.parameter in draw_record(task, Severity.MILD, generator_of(0)).params
    for cause in with_number:
        text = cause.format(number=7)
        found = next(re.search(pattern, text) for pattern in words.stated.patterns if re.search(pattern, text))
        assert float(found[1]) == 7


@pytest.mark.parametrize("task", list(Task))
def test_a_task_has_physics_and_impacts_for_every_grade(task: Task):
    assert task in SPECS
    assert len(WORDING[task].impacts) == len(Severity) - 1
    assert all(WORDING[task].impacts)
