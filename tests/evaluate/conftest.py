import pytest

from medq_uni.evaluate.sets import Case, phantom_cases
from medq_uni.pipeline import Restorer


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(phantom_cases(1, size=64))


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained("nano", device="cpu")
