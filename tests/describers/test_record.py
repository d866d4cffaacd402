import pytest

from medq_uni.describers.describer import Outcome, Subject, describe_all
from medq_uni.describers.record import MajorityDescriber, RecordDescriber, truth_of
from medq_uni.description import QualityDescription
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Modality


@pytest.fixture
def subjects(cases: list[Case], truths: list[QualityDescription]) -> list[Subject]:
    return [Subject(case.degraded, truth) for case, truth in zip(cases, truths, strict=True)]


def test_the_truth_of_a_case_follows_from_its_records(cases: list[Case], truths: list[QualityDescription]):
    for case, truth in zip(cases, truths, strict=True):
        assert truth == truth_of(case)
        assert (truth.worst, truth.anatomy, truth.modality) == (case.severity, case.anatomy, case.task.modality)
        assert truth.validate() == []


def test_the_record_says_the_truth_and_nothing_where_there_is_none(subjects: list[Subject]):
    assert [one.description for one in describe_all(RecordDescriber(), subjects)] == [s.truth for s in subjects]
    assert RecordDescriber()(Subject(subjects[0].image)).outcome is Outcome.REFUSED


def test_the_majority_says_what_is_most_frequent_whatever_it_is_shown(
    subjects: list[Subject], truths: list[QualityDescription]
):
    majority = MajorityDescriber(truths)
    for modality in Modality:
        mine = [truth for truth in truths if truth.modality is modality]
        said = {majority(s).description for s in subjects if s.image.modality is modality}
        (guess,) = said
        most = max(sum(truth.verdict is other.verdict for truth in mine) for other in mine)
        assert sum(truth.verdict is guess.verdict for truth in mine) == most
        assert guess.validate() == []
    only_ct = MajorityDescriber([truth for truth in truths if truth.modality is Modality.CT])
    mr = next(s for s in subjects if s.image.modality is Modality.MR)
    assert only_ct(mr).outcome is Outcome.REFUSED
