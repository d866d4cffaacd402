"""What conftest.py checks shapes with, and where: in every module that annotates them, as long as tests run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "medq_uni").rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
"""The checks cost half as much again where every module has them; of plain types mypy is the judge."""
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Beartype, to which an int is a float too, as PEP 484 has it."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that jaxtyping made, with checks.

    It makes two of every function: one is called with the arguments before, the other with them and the result ``ret``
    after. The second need not check the arguments again; the sizes that they have are still known.
    """
    hints = function.__annotations__
    is_after = any(name.startswith("ret") and hint is Any for name, hint in hints.items() if name != "return")
    if is_after and hints.get("return", Any) is not Any:
        function.__annotations__ = {"return": hints["return"]}
    return _checked(function)
