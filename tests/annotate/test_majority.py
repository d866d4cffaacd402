from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.annotate.majority import SLOTS, settle, slots_of
from medq_uni.annotate.records import ASPECTS, ReviewEntry
from medq_uni.description import Degradation, QualityDescription
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict, verdict_of

MOTION = Degradation(Task.MR_MOTION, Severity.MILD)
NOISE = Degradation(Task.MR_NOISE, Severity.MILD)
BRAIN = QualityDescription(Modality.MR, Anatomy.BRAIN, (MOTION,), "he moved", "edges are doubled", Verdict.USABLE)


def votes(*descriptions: QualityDescription, doubts: tuple[tuple[str, ...], ...] = ((), (), ())):
    return settle([ReviewEntry.of(one, doubts=doubt) for one, doubt in zip(descriptions, doubts, strict=False)])


def test_what_two_of_three_say_holds():
    settled = votes(BRAIN, replace(BRAIN, anatomy=Anatomy.HEAD_NECK), replace(BRAIN, verdict=Verdict.REJECT))
    assert settled.is_agreed
    assert settled.description() == BRAIN
    assert settled.votes["anatomy"] == {"brain": 2, "head and neck": 1}
    assert settled.votes["mr-motion"] == {"mild": 3}


def test_three_different_grades_are_for_the_administrator():
    graded = [BRAIN.with_severity(grade) for grade in ("mild", "moderate", "severe")]
    settled = votes(*graded)
    assert settled.disputed == ("mr-motion",)
    assert settled.entry.degradations == ()
    assert settled.entry.verdict is Verdict.USABLE


def test_a_kind_that_one_of_three_names_is_left_out():
    two = replace(BRAIN, degradations=(MOTION, NOISE))
    assert votes(BRAIN, two, BRAIN).description() == BRAIN
    assert votes(two, two, BRAIN).description().degradations == (MOTION, NOISE)


def test_two_reviewers_who_differ_have_no_majority():
    settled = settle([ReviewEntry.of(BRAIN), ReviewEntry.of(replace(BRAIN, anatomy=Anatomy.BODY))])
    assert settled.disputed == ("anatomy",)


def test_words_that_most_give_hold_case_and_spacing_aside():
    other = replace(BRAIN, cause="a weak coil", anatomy=Anatomy.BODY)
    settled = votes(other, replace(BRAIN, cause="He  Moved"), BRAIN)
    assert settled.description().cause == "He  Moved"
    assert settled.description().impact == BRAIN.impact


def test_else_the_words_of_the_one_who_is_closest_to_the_majority():
    far = replace(BRAIN, anatomy=Anatomy.BODY, cause="first", impact="one")
    near = replace(BRAIN, cause="second", impact="two")
    nearer = replace(BRAIN, cause="third", impact="three")
    assert votes(far, near, nearer).description().cause == "second"  # the first of two that are equally close
    assert votes(far, near, nearer).description().impact == "two"


def test_an_aspect_that_most_doubt_is_for_the_administrator():
    one = votes(BRAIN, BRAIN, BRAIN, doubts=(("cause",), (), ()))
    two = votes(BRAIN, BRAIN, BRAIN, doubts=(("cause", "cause"), (), ("cause", "verdict")))
    assert one.is_agreed
    assert two.disputed == ("cause",)
    assert two.description() == BRAIN


def test_slots_that_contradict_each_other_are_for_the_administrator_unless_most_gave_them_together():
    noise = replace(BRAIN, degradations=(NOISE,))
    good = replace(BRAIN, degradations=(), verdict=Verdict.GOOD)
    assert votes(BRAIN, noise, good).disputed == ("degradations", "verdict")  # usable, but nothing is wrong
    odd = replace(BRAIN, verdict=Verdict.REJECT)
    assert votes(odd, odd, BRAIN).description() == odd


DESCRIPTIONS = st.builds(
    lambda modality, anatomy, grades, cause: QualityDescription(
        modality,
        anatomy,
        tuple(Degradation(t, s) for t, s in grades.items() if t.modality is modality),
        cause,
        "impact",
        verdict_of(s for t, s in grades.items() if t.modality is modality),
    ),
    st.sampled_from(list(Modality)),
    st.sampled_from(list(Anatomy)[:3]),
    st.dictionaries(st.sampled_from(list(Task)), st.sampled_from(list(Severity)[1:]), max_size=3),
    st.sampled_from(["a", "b", "c"]),
)


@given(st.lists(DESCRIPTIONS, min_size=1, max_size=5))
def test_the_rule_holds_for_any_reviews(descriptions: list[QualityDescription]):
    settled = settle([ReviewEntry.of(one) for one in descriptions])
    given_slots = [slots_of(one) for one in descriptions]
    for slot in SLOTS:
        counts = {one[slot]: sum(other[slot] == one[slot] for other in given_slots) for one in given_slots}
        best = max(counts, key=lambda value: counts[value])
        has_majority = 2 * counts[best] > len(descriptions)
        assert (slot in settled.disputed) or has_majority
        if settled.is_agreed:
            assert slots_of(settled.description())[slot] == best
    assert settled.entry.cause in [one.cause for one in descriptions]


@given(DESCRIPTIONS)
def test_reviewers_who_all_agree_are_taken_at_their_word(description: QualityDescription):
    ordered = tuple(sorted(description.degradations, key=lambda one: list(Task).index(one.task)))
    same = replace(description, degradations=ordered)
    assert settle([ReviewEntry.of(same)] * 3).description() == same


@pytest.mark.parametrize("doubt", ASPECTS)
def test_every_aspect_can_be_doubted(doubt: str):
    assert votes(BRAIN, BRAIN, BRAIN, doubts=((doubt,), (doubt,), ())).disputed == (doubt,)
