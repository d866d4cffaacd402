import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.describers.cache import AnswerCache
from medq_uni.describers.chat import ChatDescriber
from medq_uni.describers.client import ChatClient, ChatConfig
from medq_uni.describers.describer import PATIENCE, Answer, Outcome, Subject, describe_all
from medq_uni.describers.prompts import Example, messages_for, tokens_of
from medq_uni.description import QualityDescription
from medq_uni.systems.cases import Case
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


def test_the_estimate_counts_every_question_with_its_examples(connect, subjects: list[Subject], truths):
    plain = connect()
    few = plain.estimate(subjects[:3])
    assert few.questions == 3
    wanted = sum(tokens_of(messages_for(subject.image, may_refuse=True)) for subject in subjects[:3])
    assert (few.tokens_in, few.tokens_out) == (wanted, 3 * plain.chat.config.max_tokens)
    many = plain.estimate(subjects[:1], count=10)
    assert (many.questions, many.tokens_in) == (10, 10 * plain.estimate(subjects[:1]).tokens_in)
    example = Example("other", subjects[0].image, truths[0])
    shown = ChatDescriber(plain.chat, plain._memory, examples=lambda key, modality: [example])
    wanted = tokens_of(messages_for(subjects[0].image, [example], may_refuse=True))
    assert shown.estimate(subjects[:1]).tokens_in == wanted
