"""What is compared: anything that turns a degraded slice into a restored one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from medq_uni.description import QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.systems.cases import Case

PRESERVED_DB = 45.0
"""A good image that comes back with at least this PSNR against the input is preserved."""


@dataclass(frozen=True, eq=False)
class Output:
    """What a system makes of one degraded slice."""

    image: MedicalImage
    """The restoration, in the units of the input."""
    uncertainty: MedicalImage | None = None
    """Predicted standard deviation of its error, where the system says one."""
    description: QualityDescription | None = None
    """What it says is wrong with the input, where it says so."""


class System(Protocol):
    """A restorer under test."""

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        ...

    @property
    def identity(self) -> str:
        """Return a hash of its weights, or its settings: results of another identity are not its own."""
        ...

    @property
    def parameters(self) -> int:
        """Return the number of its weights, 0 for a filter."""
        ...

    def restore(self, case: Case) -> Output:
        """Restore the degraded slice of a case; its reference must not be read.

        Classical filters that are tuned per task may read the task of the case.
        """
        ...


@runtime_checkable
class Steerable(System, Protocol):
    """A system that restores what it is told to restore."""

    def restore_told(self, case: Case, description: QualityDescription) -> Output:
        """Restore the degraded slice of a case under a description that somebody else gives, right or wrong.

        Something must be done whatever the description says: an image that it calls good does not come back as it is.
        """
        ...
