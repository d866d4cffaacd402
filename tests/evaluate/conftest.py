import pytest

from medq_uni.data.pairs import PairsConfig
from medq_uni.evaluate.sets import Case, drawn_cases
from medq_uni.pipeline import Restorer
from medq_uni.taxonomy import Severity


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(drawn_cases(PairsConfig(count=20, seed=5, phantom_sizes=(64,), grades=tuple(Severity))))


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained("nano", device="cpu")
