"""Restorers made of a function, cases and safety cases for the tests of several folders."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from medq_uni.data.pairs import PairsConfig
from medq_uni.describers.record import truth_of
from medq_uni.description import Degradation, QualityDescription
from medq_uni.image import MedicalImage, Units
from medq_uni.restorer import Restorer
from medq_uni.safety.output_cache import OutputCache, SafetyCase, SafetySettings, safety_cases_of
from medq_uni.systems.cases import Case, drawn_cases
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict
from tests.chat import ChatServer

NOISE = QualityDescription(
    Modality.CT,
    Anatomy.CHEST,
    (Degradation(Task.CT_LOW_DOSE, Severity.MILD),),
    "the tube current was reduced",
    "soft tissue is a little grainy",
    Verdict.USABLE,
)


@pytest.fixture
def noise() -> QualityDescription:
    """A valid description of a CT slice with mild noise."""
    return NOISE


@pytest.fixture
def slice_ct() -> MedicalImage:
    """A CT slice of 32 x 48 pixels with air, water and bone."""
    voxels = np.full((1, 32, 48), -1000.0, np.float32)
    voxels[0, 8:24, 8:40] = 40
    voxels[0, 14:18, 20:26] = 900
    return MedicalImage(voxels, modality=Modality.CT, units=Units.HU)


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    return list(drawn_cases(PairsConfig(count=20, seed=5, phantom_sizes=(64,), grades=tuple(Severity))))


@pytest.fixture(scope="session")
def truths(cases: list[Case]) -> list[QualityDescription]:
    return [truth_of(case) for case in cases]


@pytest.fixture(scope="session")
def restorer() -> Restorer:
    return Restorer.from_pretrained("nano", device="cpu")


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    """A server that has one model, answers nothing until told what, and records what it was asked."""
    server = ChatServer(lambda request: (503, {}, b"busy"))
    yield server
    server.stop()


SMALL = SafetySettings(
    size_px=128, per_grade=1, lesion_radii_px=(3.0, 5.0), edge_radius_px=9.0, roi_px=16, shift_count=1
)


@dataclass
class Simple:
    """A system made of a function."""

    function: Callable[[Case], MedicalImage]
    name: str = "simple"
    identity: str = "one"
    parameters: int = 0
    calls: int = 0

    def restore(self, case: Case) -> Output:
        self.calls += 1
        return Output(self.function(case))


@pytest.fixture(scope="session")
def safety_cases() -> list[SafetyCase]:
    return safety_cases_of(SMALL)


@pytest.fixture
def oracle() -> OutputCache:
    return OutputCache(Simple(lambda case: case.reference, "oracle"))


@pytest.fixture
def unchanged() -> OutputCache:
    return OutputCache(Simple(lambda case: case.degraded, "unchanged"))
