"""Describers by the names that a command takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medq_uni.config import ConfigError
from medq_uni.describers.cache import AnswerCache
from medq_uni.describers.chat import ChatDescriber
from medq_uni.describers.client import ChatClient, ChatConfig
from medq_uni.describers.describer import Describer
from medq_uni.describers.model import ModelDescriber
from medq_uni.describers.record import MajorityDescriber, RecordDescriber
from medq_uni.description import QualityDescription
from medq_uni.restorer import Restorer

_EXTERNAL = re.compile(r"openai:(?P<model>.*?)@(?P<url>https?://\S+)")


def chat_config(words: str, **limits: object) -> ChatConfig | None:
    """Return the server that ``openai:MODEL@URL`` names; None where the words have another form.

    Without MODEL the only one of the server is taken.

    Args:
        words: Name of a describer.
        limits: Further fields of :class:`medq_uni.describers.client.ChatConfig`.

    Raises:
        ConfigError: If the URL or a limit is wrong.
    """
    if not words.startswith("openai:"):
        return None
    named = _EXTERNAL.fullmatch(words)
    if named is None:
        raise ConfigError(f"{words!r}: a chat server is named openai:MODEL@http(s)://HOST[:PORT]/v1.")
    return ChatConfig(url=named["url"], model=named["model"] or None, **limits)  # type: ignore[arg-type]


def open_describers(
    names: Sequence[str],
    truths: Sequence[QualityDescription],
    folder: Path,
    *,
    device: str | None = None,
    threads: int = 4,
    **limits: object,
) -> list[Describer]:
    """Return the describers of names, in order.

    Args:
        names: ``record``, ``majority``, ``openai:MODEL@URL``; anything else is a model of ours: ``nano``, a folder of
            weights, or OWNER/NAME[@REVISION].
        truths: Answers of the benchmark, from which the majority guesses.
        folder: Where answers are kept.
        device: Where models of ours compute.
        threads: Questions to a server at a time.
        limits: Fields of :class:`medq_uni.describers.client.ChatConfig` for the servers.

    Raises:
        ConfigError: If a name comes twice, or a server is named wrongly.
        ServerDown: If a server does not answer.
        WeightsMismatch: If there is no such model.
    """
    cache = AnswerCache(folder)
    found: list[Describer] = []
    for name in names:
        if name == RecordDescriber.name:
            found.append(RecordDescriber())
        elif name == MajorityDescriber.name:
            found.append(MajorityDescriber(truths))
        elif (config := chat_config(name, **limits)) is not None:
            found.append(ChatDescriber(ChatClient(config), cache, threads=threads))
        else:
            plain, _, revision = name.partition("@")
            restorer = Restorer.from_pretrained(plain, device=device, revision=revision or None)
            found.append(ModelDescriber(name, restorer, cache))
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is named twice among the describers.")
    return found
