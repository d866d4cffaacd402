import json

import pytest

from medq_uni.describers.client import Asked, ChatClient, ChatConfig, NoAnswer, ServerDown
from medq_uni.errors import MedQError


@pytest.fixture
def connect(chat):
    made = []

    def make(**changes) -> ChatClient:
        made.append(ChatClient(ChatConfig(**({"url": chat.url, "retries": 1} | changes)), sleep=lambda seconds: None))
        return made[-1]

    yield make
    for client in made:
        client.close()


QUESTION = [{"role": "user", "content": "how?"}]


def test_any_text_is_taken_without_a_schema(connect, chat):
    chat.reply = lambda request: "grainy"
    assert connect().ask(QUESTION, str.upper) == "GRAINY"
    (request,) = chat.requests
    assert "response_format" not in request
    assert request["temperature"] == 0


def test_limits_that_a_model_refuses_are_left_out_from_then_on(connect, chat):
    def strict(request):
        if "max_tokens" in request:
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {"Content-Type": "application/json"}, json.dumps({"error": {"message": said}}).encode()
        if "temperature" in request:
            said = "Unsupported value: 'temperature' does not support 0."
            return 400, {"Content-Type": "application/json"}, json.dumps({"error": {"message": said}}).encode()
        return "grainy"

    chat.reply = strict
    client = connect(max_tokens=77)
    assert client.ask(QUESTION, str) == "grainy"
    assert (len(chat.requests), chat.requests[-1]["max_completion_tokens"]) == (3, 77)
    assert client.ask(QUESTION, str) == "grainy"
    assert len(chat.requests) == 4


def test_what_is_read_may_be_nothing(connect, chat):
    chat.reply = lambda request: "null"
    assert connect().ask(QUESTION, lambda text: None) is None
    assert len(chat.requests) == 1


def test_every_attempt_is_kept_with_its_reason(connect, chat):
    def read(text: str) -> str:
        raise MedQError(f"{text} is not enough.")

    kept: list[Asked] = []
    chat.reply = lambda request: "little"
    with pytest.raises(NoAnswer, match="little is not enough"):
        connect().ask(QUESTION, read, keep=kept.append)
    assert [one.answer for one in kept] == ["little", "little"]
    assert all(one.error.endswith("little is not enough.") for one in kept)
    assert [len(one.messages) for one in kept] == [1, 3]
    assert "one JSON object" not in kept[1].messages[-1]["content"]


def test_the_key_comes_from_the_variable_that_is_named(connect, chat, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTHER_KEY", "sk-OTHER")
    chat.reply = lambda request: (401, {}, b"")
    with pytest.raises(ServerDown, match=r"Set \$OTHER_KEY"):
        connect(key_variable="OTHER_KEY").ask(QUESTION, str)
    assert chat.headers[0]["authorization"] == "Bearer sk-OTHER"
