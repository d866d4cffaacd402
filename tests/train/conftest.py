from itertools import count
from types import SimpleNamespace

import pytest

from tests.threads import one_thread

__all__ = ["one_thread", "ticking"]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let training's clock advance a second whenever it is read; return minutes that are enough for a few steps."""
    clock = count()
    for module in ("loop", "run"):
        monkeypatch.setattr(f"medq_uni.train.{module}.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    return 10 / 60
