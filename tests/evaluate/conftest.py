from collections.abc import Iterator

import pytest
import torch

from medq_uni.data.pairs import PairsConfig
from medq_uni.description import QualityDescription
from medq_uni.evaluate.describers import truth_of
from medq_uni.evaluate.sets import Case, drawn_cases
from medq_uni.pipeline import Restorer
from medq_uni.taxonomy import Severity
from tests.chat import ChatServer


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(drawn_cases(PairsConfig(count=20, seed=5, phantom_sizes=(64,), grades=tuple(Severity))))


@pytest.fixture(scope="module")
def truths(cases: list[Case]) -> list[QualityDescription]:
    return [truth_of(case) for case in cases]


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained("nano", device="cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    """A server that has one model, answers nothing until told what, and records what it was asked."""
    server = ChatServer(lambda request: (503, {}, b"busy"))
    yield server
    server.stop()
