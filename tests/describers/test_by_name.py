from pathlib import Path

import pytest

from medq_uni.config import ConfigError
from medq_uni.describers.by_name import chat_config, open_describers
from tests.chat import ChatServer


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
