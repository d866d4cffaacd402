import pytest

from medq_uni.taxonomy import Modality, Severity, Task, Verdict, restoration_strength, tasks_of, verdict_of


def test_every_task_belongs_to_one_modality():
    assert [task for modality in Modality for task in tasks_of(modality)] == list(Task)
    assert Task.MR_MOTION.modality is Modality.MR


def test_grades_are_ordered_and_levels_are_clamped():
    assert [Severity.from_level(severity.level) for severity in Severity] == list(Severity)
    assert Severity.from_level(-1) is Severity.NONE
    assert Severity.from_level(9) is Severity.SEVERE


@pytest.mark.parametrize(
    ("grades", "verdict"),
    [
        ((), Verdict.GOOD),
        ((Severity.NONE,), Verdict.GOOD),
        ((Severity.MILD,), Verdict.USABLE),
        ((Severity.MILD, Severity.MODERATE), Verdict.USABLE),
        ((Severity.MODERATE, Severity.SEVERE), Verdict.REJECT),
    ],
)
def test_the_worst_grade_decides_the_verdict(grades: tuple[Severity, ...], verdict: Verdict):
    assert verdict_of(grades) is verdict


@pytest.mark.parametrize("found", list(Severity))
def test_a_worse_stated_grade_asks_for_more_and_the_found_one_for_all(found: Severity):
    asked = [restoration_strength(found, stated) for stated in Severity]
    assert asked == sorted(set(asked))
    assert asked[0] == 0
    assert asked[max(found.level, 1)] == 1
