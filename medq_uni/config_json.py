"""The JSON form of frozen configurations: written in full, read strictly."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from medq_uni.config import ConfigError
from medq_uni.files import read_text
from medq_uni.json_text import JsonTooLarge, parse_json

T = TypeVar("T")
RENAMED = {
    "layout": "objective",
    "second_way": "alternative",
    "peer": "baseline",
    "refining": "refinement",
    "guide_width": "film_width",
}
"""Keys of version 0.1 and their names since. A file that has one of them is refused, and told the new name."""


def to_json(config: Any) -> str:
    """Return the configuration as indented JSON; :func:`from_json` reads it back equal."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def chosen(config: Any) -> dict[str, Any]:
    """Return the values of a configuration that are not its defaults: a new key with a default does not change them."""
    found: dict[str, Any] = {}
    for key in dataclasses.fields(config):
        value = getattr(config, key.name)
        made = key.default_factory() if key.default_factory is not dataclasses.MISSING else key.default
        if value != made:
            found[key.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return chosen(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def from_json(cls: type[T], text: str) -> T:
    """Read a configuration of type ``cls`` from JSON.

    Raises:
        ConfigError: If the text is not JSON, or a key is missing, unknown, given twice or of the wrong type;
            the message names the key, and the nearest valid one, or what it is called since version 0.1.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    _forbid_unknown_keys(cls, ConfigDict(extra="forbid"), set())
    try:
        with contextlib.suppress(json.JSONDecodeError):  # whose place the validation names
            parse_json(text, pairs=_once)
        return TypeAdapter(cls).validate_json(text)
    except JsonTooLarge as error:
        raise ConfigError(f"{cls.__name__}: {error}") from None
    except ValidationError as error:
        raise ConfigError(_fault(cls, error.errors())) from None


def _fault(cls: type, errors: list[Any]) -> str:
    """Return what is wrong with a text, of several faults the one that most helps."""
    import difflib

    # of several kinds of object that it may be, the kind with the fewest faults is meant
    faults = Counter(one["loc"][:-1] for one in errors)
    errors.sort(key=lambda one: faults[one["loc"][:-1]])
    unknown = [one for one in errors if one["type"] == "unexpected_keyword_argument"]
    old = [one for one in unknown if one["loc"][-1] in RENAMED]
    first = next(iter(old or unknown or errors))
    key = ".".join(str(part) for part in first["loc"])
    hint = ""
    if old:
        names = dict.fromkeys(str(one["loc"][-1]) for one in old)
        hint = f" Since version 0.1, {', '.join(f'{name!r} is called {RENAMED[name]!r}' for name in names)}."
    elif unknown:
        valid = [f.name for c in _nested_dataclasses(cls, set()) for f in dataclasses.fields(c)]
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{cls.__name__}: {key or 'JSON'}: {first['msg'].removesuffix('.')}.{hint}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the keys and values of a JSON object, which else would lose the first of two values in silence."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice!r} is given twice in one object. Keep one of the two.")
    return dict(pairs)


def read_json(cls: type[T], path: str | Path, *, where: str) -> T:
    """Read a configuration of type ``cls`` from a JSON file.

    Args:
        cls: What to read.
        path: The file.
        where: Where such files are, for the message when there is none.

    Raises:
        ConfigError: If the file is missing, or as :func:`from_json`.
        MedQError: If it is no text.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Give one recipe file, such as those in {where}.")
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe. The ones that come with the project are in {where}.")
    try:
        return from_json(cls, read_text(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _nested_dataclasses(cls: Any, seen: set[type]) -> set[type]:
    import typing

    if dataclasses.is_dataclass(cls) and isinstance(cls, type):
        if cls not in seen:
            seen.add(cls)
            for hint in typing.get_type_hints(cls).values():
                _nested_dataclasses(hint, seen)
    else:
        for part in typing.get_args(cls):
            _nested_dataclasses(part, seen)
    return seen


def _forbid_unknown_keys(cls: Any, settings: Any, seen: set[type]) -> None:
    for nested in _nested_dataclasses(cls, seen):
        nested.__pydantic_config__ = settings  # type: ignore[attr-defined]
