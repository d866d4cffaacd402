import numpy as np

from medq_uni.describers.cache import AnswerCache
from medq_uni.describers.describer import Answer, Outcome, describe_all
from medq_uni.describers.model import ModelDescriber
from medq_uni.judge.out_of_scope import (
    OutOfScopeCase,
    out_of_scope_cases,
    out_of_scope_markdown,
    out_of_scope_subjects,
    out_of_scope_table,
)
from medq_uni.taxonomy import Modality


def test_the_set_holds_every_kind_in_every_modality_and_is_the_same_every_time():
    cases = out_of_scope_cases()
    for kind in ("blank", "pure noise", "ultrasound-like", "photograph or page"):
        mine = [case.image for case in cases if case.kind == kind]
        assert {image.modality for image in mine} == set(Modality)
        assert kind == "blank" or min(np.ptp(image.voxels) for image in mine) > 0
    assert {case.image.modality for case in cases if case.kind == "CT said to be MR"} == {Modality.MR}
    for one, other in zip(cases, out_of_scope_cases(), strict=True):
        assert np.array_equal(one.image.voxels, other.image.voxels)


def test_shares_of_what_becomes_of_the_images(truths):
    ct = next(truth for truth in truths if truth.modality is Modality.CT)
    image = next(case.image for case in out_of_scope_cases() if case.image.modality is Modality.CT)
    other = next(truth for truth in truths if truth.modality is Modality.PET)
    answers = [
        Answer(Outcome.REFUSED, reason="no"),
        Answer.described(ct, warning="looks like PET"),
        Answer.described(other),
        Answer.described(ct),
        Answer(Outcome.FAILED, reason="slow"),
    ]
    (row, total) = out_of_scope_table([OutOfScopeCase("kind", image)] * 5, {"x": answers})
    assert (row.refused, row.warned, row.judged, row.failed) == (0.2, 0.4, 0.2, 0.2)
    assert (total.kind, total.count, total.warned) == ("out of scope, all", 5, 0.4)
    assert "| kind | x | 5 | 20 % | 40 % | 20 % | 20 % |" in out_of_scope_markdown([row])


def test_our_model_refuses_what_holds_nothing(tmp_path, restorer):
    cases = [case for case in out_of_scope_cases() if case.kind == "blank"]
    model = ModelDescriber("nano", restorer, AnswerCache(tmp_path))
    (row, _) = out_of_scope_table(cases, {"nano": describe_all(model, out_of_scope_subjects(cases))})
    assert row.refused == 1
