"""What conftest.py checks shapes with, and where: in every module that annotates them, as long as tests run."""

from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "medq_uni").rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
"""The checks cost half as much again where every module has them; of plain types mypy is the judge."""
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Beartype, to which an int is a float too, as PEP 484 has it."""
