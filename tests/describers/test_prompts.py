import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.describers.prompts import messages_for, read_answer, read_assessment, refusal_schema, tokens_of
from medq_uni.description import DescriptionError
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_what_a_model_says_a_little_untidily_is_taken(noise):
    values = noise.to_dict() | {
        "cause": " the tube current: reduced. ",
        "impact": "soft \u201ctissue\u201d \u2013 grainy. A lot.",
    }
    found = read_answer(json.dumps(values), Modality.CT)
    assert found.cause == "the tube current, reduced"
    assert found.impact == 'soft "tissue" - grainy; A lot'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "mr", "degradations": []}, "the image is ct, the answer speaks of mr"),
        ({"degradations": [{"task": "mr-noise", "severity": "mild"}]}, "does not occur in ct"),
        ({"degradations": [{"task": "ct-low-dose", "severity": "mild", "why": "x"}]}, "list of objects"),
        ({"degradations": {"task": "ct-low-dose"}}, "list of objects"),
        ({"cause": ["a"]}, "cause: needs text"),
        ({"cause": "x" * 200}, "1 to 160"),
        ({"cause": ""}, "1 to 160"),
        ({"patient": "Hans"}, "exactly the keys"),
        ({"verdict": "GOOD"}, "GOOD"),
    ],
)
def test_an_answer_that_the_schema_does_not_allow_is_refused(noise, changes: dict[str, object], message: str):
    with pytest.raises(DescriptionError, match=message):
        read_answer(json.dumps(noise.to_dict() | changes), Modality.CT)


@given(JSON_VALUES)
def test_any_json_is_a_description_or_refused(values: object):
    with pytest.raises(DescriptionError):
        read_answer(json.dumps(values), Modality.CT)


@given(st.text())
def test_any_text_is_a_description_or_refused(text: str):
    with pytest.raises(DescriptionError):
        read_answer(text, Modality.CT)


def test_free_text_of_any_kind_is_taken_or_refused_but_never_anything_else(noise):
    @given(st.text(max_size=170))
    def check(text: str) -> None:
        try:
            found = read_answer(json.dumps(noise.to_dict() | {"cause": text}), Modality.CT)
        except DescriptionError:
            return
        assert found == type(found).from_text(found.to_text())

    check()


def test_an_image_without_a_modality_cannot_be_asked_about(slice_ct: MedicalImage):
    with pytest.raises(ValueError, match="--modality"):
        messages_for(MedicalImage(slice_ct.voxels))


def test_tokens_grow_with_the_picture():
    import numpy as np

    small, large = (
        tokens_of(messages_for(MedicalImage(np.zeros((1, side, side), np.float32), modality=Modality.MR)))
        for side in (56, 560)
    )
    assert 400 < large - small < 500  # (20 + 1)^2 - (2 + 1)^2 = 432


def test_an_assessment_is_a_description_or_a_reason(noise):
    values = {"cannot_assess": "", "description": noise.to_dict()}
    assert set(refusal_schema()["required"]) == set(values)
    assert read_assessment(json.dumps(values)) == noise
    assert read_assessment('{"cannot_assess": " blank ", "description": null}') == "blank"
    assert read_assessment(json.dumps(values | {"cannot_assess": None})) == noise


@pytest.mark.parametrize(
    "changes",
    [{"cannot_assess": "blank"}, {"description": None}, {"cannot_assess": 3}, {"description": []}, {"more": 1}],
)
def test_an_assessment_of_both_or_neither_is_refused(noise, changes: dict):
    with pytest.raises(DescriptionError):
        read_assessment(json.dumps({"cannot_assess": "", "description": noise.to_dict()} | changes))


def test_a_prompt_says_that_refusing_is_allowed_only_where_it_is(slice_ct):
    plain, free = (json.dumps(messages_for(slice_ct, may_refuse=allowed)) for allowed in (False, True))
    assert "cannot_assess" in free
    assert "cannot_assess" not in plain
