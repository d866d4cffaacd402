import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.description import Degradation, DescriptionError, QualityDescription, degradation_options, json_schema
from medq_uni.measurement import Measurement, Quantity
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict, tasks_of, verdict_of

GRADES = list(Severity)[1:]
free_text = st.text(
    st.sampled_from("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789 ,;%()/-"), min_size=1, max_size=160
).filter(lambda text: text == text.strip())


@st.composite
def descriptions(draw) -> QualityDescription:
    modality = draw(st.sampled_from(list(Modality)))
    tasks = draw(st.lists(st.sampled_from(tasks_of(modality)), unique=True, max_size=2))
    found = tuple(Degradation(task, draw(st.sampled_from(GRADES))) for task in tasks)
    return QualityDescription(
        modality,
        draw(st.sampled_from(list(Anatomy))),
        found,
        draw(free_text),
        draw(free_text),
        draw(st.sampled_from(list(Verdict))),
    )


EXAMPLE = QualityDescription(
    Modality.MR,
    Anatomy.BRAIN,
    (Degradation(Task.MR_MOTION, Severity.MODERATE),),
    "the patient moved",
    "edges are doubled",
    Verdict.USABLE,
)


@settings(max_examples=200)
@given(descriptions())
def test_text_dict_and_json_come_back_without_loss(description: QualityDescription):
    assert QualityDescription.from_text(description.to_text()) == description
    if "  " not in description.to_text():  # the lenient parser forgives spacing, so it cannot keep it
        assert QualityDescription.from_text(description.to_text(), strict=False) == description
    assert QualityDescription.from_dict(description.to_dict()) == description
    assert QualityDescription.from_json(description.to_json()) == description


@pytest.mark.parametrize(
    "text",
    [
        "image: mri of the BRAIN.  degradation: Moderate Motion Artifact. cause: the patient moved. "
        "impact: edges are doubled. verdict: Usable",
        "Verdict: usable. Image: MR of the brain. Cause: the patient moved. Impact: edges are doubled.\n"
        "Degradation: moderate motion artifact.",
        "Image: MR scan of the brain.\nDegradation: moderate motion artifact.\nCause: the patient moved.\n"
        "Impact: edges are doubled. Overall, the quality of this image is usable.",
    ],
)
def test_the_lenient_parser_forgives_case_order_spacing_and_synonyms(text: str):
    assert QualityDescription.from_text(text, strict=False) == EXAMPLE
    with pytest.raises(DescriptionError):
        QualityDescription.from_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Verdict: usable", "Verdict: usible"), "Did you mean 'usable'"),
        (("moderate", "modrate"), "Degradation.*Did you mean 'moderate'"),
        (("motion artifact", "moton artifact"), "Did you mean 'motion artifact'"),
        (("MR of the brain", "XR of the brain"), "Image: needs one of ct, mr, pet"),
        (("MR of the brain", "MR brain"), "of the"),
        (("Impact: edges are doubled. ", ""), "no Impact"),
        (("Cause:", "Impact: x. Cause:"), "appears twice"),
        (("the patient moved", "x" * 200), "1 to 160"),
    ],
)
def test_an_error_names_the_aspect_and_what_is_needed(change: tuple[str, str], message: str):
    with pytest.raises(DescriptionError, match=message):
        QualityDescription.from_text(EXAMPLE.to_text().replace(*change), strict=False)


@pytest.mark.parametrize("text", ["", " x", "x ", "a: b", "line\nbreak", "ends.", "two. sentences", "caf\u00e9"])
def test_free_text_that_would_break_the_form_is_refused(text: str):
    with pytest.raises(DescriptionError, match="cause"):
        QualityDescription(Modality.CT, Anatomy.CHEST, (), text, "x", Verdict.GOOD)


def test_a_degradation_needs_a_grade_and_is_named_once():
    with pytest.raises(DescriptionError, match="above none"):
        Degradation(Task.MR_NOISE, Severity.NONE)
    twice = (Degradation(Task.MR_NOISE, Severity.MILD),) * 2
    with pytest.raises(DescriptionError, match="twice"):
        QualityDescription(Modality.MR, Anatomy.BRAIN, twice, "x", "y", Verdict.USABLE)


def test_validate_finds_contradictions():
    assert EXAMPLE.validate() == []
    foreign = (Degradation(Task.CT_LOW_DOSE, Severity.SEVERE),)
    wrong = QualityDescription(Modality.MR, Anatomy.BRAIN, foreign, "x", "y", Verdict.GOOD)
    assert len(wrong.validate()) == 2


def test_diff_names_what_differs():
    worse = EXAMPLE.with_severity("severe")
    assert worse == EXAMPLE.with_severity(Severity.SEVERE)
    with pytest.raises(ValueError, match="awful"):
        EXAMPLE.with_severity("awful")
    assert EXAMPLE.diff(EXAMPLE) == []
    assert [name for name, *_ in EXAMPLE.diff(worse)] == ["degradations", "verdict"]


@pytest.mark.parametrize("severity", list(Severity))
def test_another_severity_brings_its_verdict(severity: Severity):
    changed = EXAMPLE.with_severity(severity)
    assert changed.worst is severity
    assert changed.verdict is verdict_of([severity])
    assert changed.validate() == []


@pytest.mark.parametrize("values", [{}, {"modality": "xr"}, EXAMPLE.to_dict() | {"verdict": "fine"}])
def test_a_wrong_dictionary_is_refused(values: dict):
    with pytest.raises(DescriptionError, match="needs"):
        QualityDescription.from_dict(values)
    with pytest.raises(DescriptionError, match="not JSON"):
        QualityDescription.from_json("{")


def test_the_schema_lists_every_key_of_a_dictionary():
    schema = json_schema()
    json.dumps(schema)
    assert schema["required"] == list(EXAMPLE.to_dict())
    assert EXAMPLE.verdict.value in schema["properties"]["verdict"]["enum"]


def test_degradation_options_are_read_back():
    for modality in Modality:
        for words in degradation_options(modality):
            text = EXAMPLE.to_text().replace("moderate motion artifact", words)
            assert len(QualityDescription.from_text(text).degradations) == (
                0 if words == "none" else words.count(" and ") + 1
            )


SD = Measurement(Quantity.NOISE_SD, 35.0, "HU", 30.0, 41.0)


def test_figures_are_a_sentence_and_a_key_of_their_own_and_leave_the_rest_alone():
    measured = replace(EXAMPLE, measurements=(SD, Measurement(Quantity.NOISE_FREQUENCY, 0.21, "per pixel")))
    assert measured.to_text() == (
        EXAMPLE.to_text() + " Measured: noise SD 35 HU (30 to 41); mean noise frequency 0.21 per pixel."
    )
    for back in (
        QualityDescription.from_text(measured.to_text()),
        QualityDescription.from_text(measured.to_text().lower(), strict=False),
        QualityDescription.from_json(measured.to_json()),
    ):
        assert back.measurements == measured.measurements
    assert replace(measured, measurements=()) == EXAMPLE
    assert "measurements" not in EXAMPLE.to_dict()
    schema = json_schema(measured=True)
    assert set(schema["properties"]) == set(measured.to_dict())
    assert set(SD.to_dict()) == set(schema["properties"]["measurements"]["items"]["properties"])
    assert set(json_schema()["properties"]) == set(EXAMPLE.to_dict())
    assert schema["required"] == json_schema()["required"]
    assert [name for name, _, _ in EXAMPLE.diff(measured)] == ["measurements"]


def test_a_figure_is_stated_once():
    with pytest.raises(DescriptionError, match="one figure twice"):
        replace(EXAMPLE, measurements=(SD, SD))


def test_a_wrong_figure_is_an_error_of_the_description():
    with pytest.raises(DescriptionError, match="noise SD 35 HU"):
        QualityDescription.from_text(EXAMPLE.to_text() + " Measured: much noise.")
    with pytest.raises(DescriptionError, match="measurement"):
        QualityDescription.from_dict(EXAMPLE.to_dict() | {"measurements": [{"quantity": "noise_sd"}]})
