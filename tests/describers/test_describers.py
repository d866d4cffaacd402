import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.describers.cache import Answer, AnswerCache, Outcome
from medq_uni.describers.chat import ChatClient, ChatConfig
from medq_uni.describers.describers import (
    PATIENCE,
    ChatDescriber,
    MajorityDescriber,
    ModelDescriber,
    Subject,
    TruthDescriber,
    chat_config,
    describe_all,
    open_describers,
    truth_of,
)
from medq_uni.description import QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Modality, Severity, Task
from tests.chat import ChatServer


@pytest.fixture
def subjects(cases: list[Case], truths: list[QualityDescription]) -> list[Subject]:
    return [Subject(case.degraded, truth) for case, truth in zip(cases, truths, strict=True)]


@pytest.fixture
def connect(chat: ChatServer, tmp_path: Path):
    made = []

    def make(retries: int = 0, timeout_s: float = 5.0, threads: int = 1) -> ChatDescriber:
        config = ChatConfig(url=chat.url, retries=retries, timeout_s=timeout_s)
        made.append(ChatClient(config, sleep=lambda seconds: None))
        return ChatDescriber(made[-1], AnswerCache(tmp_path / "cache"), threads=threads)

    yield make
    for client in made:
        client.close()


def described(words: QualityDescription) -> dict:
    return {"cannot_assess": "", "description": words.to_dict()}


def test_the_truth_of_a_case_follows_from_its_records(cases: list[Case], truths: list[QualityDescription]):
    for case, truth in zip(cases, truths, strict=True):
        assert truth == truth_of(case)
        assert (truth.worst, truth.anatomy, truth.modality) == (case.severity, case.anatomy, case.task.modality)
        assert truth.validate() == []


def test_the_record_says_the_truth_and_nothing_where_there_is_none(subjects: list[Subject]):
    assert [one.description for one in describe_all(TruthDescriber(), subjects)] == [s.truth for s in subjects]
    assert TruthDescriber()(Subject(subjects[0].image)).outcome is Outcome.REFUSED


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


def test_a_model_of_ours_describes_refuses_doubts_and_is_asked_once(
    cases: list[Case], tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
):
    model = ModelDescriber("nano", AnswerCache(tmp_path), device="cpu")
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

    monkeypatch.setattr(model._restorer, "assess", fail)
    assert model(Subject(degraded)) == first
    assert "looks like PET" in model(mistaken).warning


def test_a_chat_model_describes_in_the_form_of_a_description(connect, chat: ChatServer, subjects, truths):
    chat.reply = lambda request: described(truths[0])
    answer = connect()(subjects[0])
    assert answer == Answer.described(truths[0])
    (request,) = chat.requests
    assert request["temperature"] == 0
    assert set(request["response_format"]["json_schema"]["schema"]["properties"]) == {"cannot_assess", "description"}
    text, url = request["messages"][-1]["content"][0]["text"], request["messages"][-1]["content"][-1]
    assert f"Modality: {subjects[0].image.modality.value}" in text
    assert base64.b64decode(url["image_url"]["url"].partition(",")[2]).startswith(b"\x89PNG")
    assert connect()(subjects[0]) == answer
    assert len(chat.requests) == 1


def test_a_chat_model_may_refuse_and_may_name_another_modality(connect, chat: ChatServer, subjects, truths):
    chat.reply = lambda request: {"cannot_assess": "this is a photograph", "description": None}
    assert connect()(subjects[0]) == Answer(Outcome.REFUSED, reason="this is a photograph")
    other = next(t for t in truths if t.modality is not subjects[1].image.modality)
    chat.reply = lambda request: described(other)
    assert connect()(subjects[1]).description.modality is other.modality


def test_of_a_volume_the_middle_slice_is_shown(connect, chat: ChatServer, subjects, truths):
    chat.reply = lambda request: described(truths[0])
    image = subjects[0].image
    other = np.zeros_like(image.voxels)
    volume = replace(image, voxels=np.concatenate([other, image.voxels, other]))
    describer = connect()
    assert describer(Subject(volume)) == describer(subjects[0])
    assert len(chat.requests) == 1


HTML = (200, {"Content-Type": "text/html"}, b"<html>login</html>")


@pytest.mark.parametrize(
    ("reply", "reason", "is_final"),
    [
        (HTML, "no chat answer", False),
        ((429, {}, b"{}"), "HTTP 429", False),
        ((400, {}, b"{}"), "HTTP 400", True),
        ("The image is noisy.", "no JSON", True),
        ({"cannot_assess": "", "description": None}, "either a description or", True),
        (None, "empty", True),
    ],
)
def test_a_failure_is_an_answer_with_its_reason(connect, chat, subjects, reply, reason: str, is_final: bool):
    chat.reply = lambda request: reply
    answer = connect()(subjects[0])
    assert (answer.outcome, answer.description, answer.is_final) == (Outcome.FAILED, None, is_final)
    assert reason in answer.reason
    asked = len(chat.requests)
    connect()(subjects[0])
    assert len(chat.requests) == asked + (not is_final)


def test_a_slow_server_fails_in_time(connect, chat: ChatServer, subjects):
    describer = connect(timeout_s=0.5)
    chat.delay_s = 0.2
    chat.reply = lambda request: "late"
    answer = describer(subjects[0])
    assert answer.outcome is Outcome.FAILED
    assert "longer than 0.5 s" in answer.reason


def test_a_dead_server_is_not_asked_for_ever(connect, chat: ChatServer, subjects):
    answers = describe_all(connect(threads=2), subjects)
    assert len(answers) == len(subjects)
    assert all(answer.outcome is Outcome.FAILED for answer in answers)
    assert PATIENCE <= len(chat.requests) <= PATIENCE + 1
    assert "not asked" in answers[-1].reason


def test_answers_survive_json_and_damage(truths, tmp_path: Path):
    cache = AnswerCache(tmp_path)
    answer = Answer.described(truths[0], warning="looks like PET")
    cache.put("ab12", answer.to_dict())
    assert cache.answer("ab12") == answer
    (tmp_path / "ab" / "ab12.json").write_text("{")
    assert cache.answer("ab12") is None
    cache.put("ab12", json.loads('{"outcome": "unheard of", "description": null, "reason": "", "warning": ""}'))
    assert cache.answer("ab12") is None
    assert cache.answer("cd") is None


def test_describers_are_named(truths, tmp_path: Path, chat: ChatServer):
    url = f"openai:@{chat.url}"
    found = open_describers(["record", "majority", url], truths, tmp_path, timeout_s=3.0)
    assert [one.name for one in found] == ["record", "majority", "openai:qwen3-vl"]
    assert found[2].chat.config.timeout_s == 3
    found[2].chat.close()
    with pytest.raises(ConfigError, match="twice"):
        open_describers(["record", "record"], truths, tmp_path)
    assert chat_config("nano") is None
    assert chat_config("openai:org/m@v2@http://h:1/v1").model == "org/m@v2"
    with pytest.raises(ConfigError, match="openai:MODEL@http"):
        chat_config("openai:gpt")
