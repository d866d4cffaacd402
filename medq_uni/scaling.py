"""The range of values that a network sees of a volume, and its two views.

The wide view holds the whole range, the window view magnifies the part where contrast is subtle. Both lie in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage, Units
from medq_uni.taxonomy import Modality

CT_RANGE_HU = (-1024.0, 3071.0)
CT_WINDOW_HU = (-160.0, 240.0)
PET_SUV_MAX = 20.0
PERCENTILE = 99.9
LOWER_FRACTION = 0.5
"""Upper end of the window view of MR, and of PET beside SUV, as a fraction of the range."""
PET_WINDOW_FRACTION = 0.25
KNEE = 0.75
"""Where, as a share of the range, a range that reaches beyond itself begins to bend."""
BLEND = 0.1
"""Width, in window units, of the band in which the merge goes from one view to the other."""


@dataclass(frozen=True)
class Scaling:
    """Linear maps between physical values and the two views of one volume."""

    low: float
    high: float
    window_low: float
    window_high: float

    @property
    def wide_span(self) -> float:
        """Physical values that the wide view would hold if it were linear as far as it is at its lower end."""
        return self.high - self.low

    def to_wide(self, values: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """Return the wide view of physical values, not clipped."""
        return 2 * (values - self.low) / (self.high - self.low) - 1

    def from_wide(self, wide: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """Return the physical values of a wide view."""
        return (wide + 1) / 2 * (self.high - self.low) + self.low

    def slope_from_wide(self, wide: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"] | float:
        """Return by how much the physical values change with the wide view."""
        return (self.high - self.low) / 2

    def to_views(self, values: Float[Tensor, "B H W"]) -> Float[Tensor, "B 2 H W"]:
        """Return the wide and the window view of physical values, clipped to [-1, 1]."""
        wide = self.to_wide(values)
        window = 2 * (values - self.window_low) / (self.window_high - self.window_low) - 1
        return torch.stack([wide, window], dim=1).clamp(-1, 1)

    def from_views(self, views: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B H W"]:
        """Merge two views into physical values.

        Inside the window the window view is exact and finer; outside, the wide view is the only one. The
        weight depends on the wide view alone and is continuous.
        """
        wide = self.from_wide(views[:, 0])
        window = (views[:, 1] + 1) / 2 * (self.window_high - self.window_low) + self.window_low
        weight = self._window_weight(wide)
        return weight * window + (1 - weight) * wide

    def spread_from_views(
        self, spread: Float[Tensor, "B 2 H W"], views: Float[Tensor, "B 2 H W"]
    ) -> Float[Tensor, "B H W"]:
        """Return a standard deviation in physical units from one per view, merged as :meth:`from_views`."""
        weight = self._window_weight(self.from_wide(views[:, 0]))
        wide = spread[:, 0] * self.slope_from_wide(views[:, 0])
        window = spread[:, 1] * (self.window_high - self.window_low) / 2
        return weight * window + (1 - weight) * wide

    def _window_weight(self, wide: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        position = 2 * (wide - self.window_low) / (self.window_high - self.window_low) - 1
        if self.window_low <= self.low:  # the window begins where the range begins: no seam there
            position = position.clamp(min=0)
        return ((1 - position.abs()) / BLEND).clamp(0, 1)


@dataclass(frozen=True)
class KneeScaling(Scaling):
    """A range that reaches to the maximum of a volume: linear up to a knee, logarithmic above.

        g(v) = v                                     for v <= knee
        g(v) = knee + softness * ln(1 + (v - knee) / softness)   above,   g(high) = linear_high

    The wide view is linear in g on [low, linear_high], so values below the knee look to a network as ever. The map is
    smooth and increasing, and inverted exactly.
    """

    linear_high: float
    softness: float

    @property
    def knee(self) -> float:
        """Physical value at which the logarithm begins."""
        return self.low + KNEE * (self.linear_high - self.low)

    @property
    def wide_span(self) -> float:
        """See :class:`Scaling`."""
        return self.linear_high - self.low

    def to_wide(self, values: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """See :class:`Scaling`."""
        above = self.softness * torch.log1p((values - self.knee).clamp(min=0) / self.softness)
        return 2 * (torch.clamp(values, max=self.knee) + above - self.low) / self.wide_span - 1

    def from_wide(self, wide: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """See :class:`Scaling`."""
        bent = (wide + 1) / 2 * self.wide_span + self.low
        return torch.clamp(bent, max=self.knee) + self.softness * torch.expm1(self._above(bent))

    def slope_from_wide(self, wide: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """See :class:`Scaling`."""
        return torch.exp(self._above((wide + 1) / 2 * self.wide_span + self.low)) * (self.wide_span / 2)

    def _above(self, bent: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        return torch.clamp(bent - self.knee, min=0, max=self.linear_high - self.knee) / self.softness


def scaling_of(image: MedicalImage) -> Scaling:
    """Return the network range of a volume.

    CT: [-1024, 3071] HU with the window [-160, 240]. PET in SUV: [0, 20] with [0, 5]. MR, and PET in other
    units: [0, 99.9th percentile of the volume]; the window is its lower half (a quarter for PET).

    Raises:
        MedQError: If the modality is unknown or the volume has no positive value.
    """
    if image.modality is None:
        raise MedQError("The image has no modality. Pass modality= (ct, mr or pet) when reading it.")
    if image.modality is Modality.CT:
        return Scaling(*CT_RANGE_HU, *CT_WINDOW_HU)
    if image.units is Units.SUV:
        return Scaling(0.0, PET_SUV_MAX, 0.0, PET_SUV_MAX * PET_WINDOW_FRACTION)
    values = image.voxels if image.padding is None else image.voxels[~image.padding]
    high = float(np.percentile(values, PERCENTILE)) if values.size else 0.0
    if not high > 0:
        high = float(values.max(initial=0.0))
    if not high > 0:
        raise MedQError(
            f"The {image.modality.value} volume has no value above 0 (99.9th percentile {high:g}); "
            "magnitude MR and PET images are positive. Check the rescale slope, or pass another modality."
        )
    fraction = PET_WINDOW_FRACTION if image.modality is Modality.PET else LOWER_FRACTION
    return Scaling(0.0, high, 0.0, fraction * high)


def reaching(scaling: Scaling, image: MedicalImage) -> Scaling:
    """Return the range, bent so that it reaches to the maximum of the volume where that lies above it.

    That of CT stays: what is denser than 3071 HU is metal. So does a range that holds the whole volume.
    """
    values = image.voxels if image.padding is None else image.voxels[~image.padding]
    top = float(values.max(initial=scaling.low))
    if image.modality is Modality.CT or top <= scaling.high:
        return scaling
    knee = scaling.low + KNEE * (scaling.high - scaling.low)
    softness = _softness(top - knee, scaling.high - knee)
    return KneeScaling(scaling.low, top, scaling.window_low, scaling.window_high, scaling.high, softness)


def _softness(length: float, room: float) -> float:
    """Return the s with s ln(1 + length / s) = room, for a length above the room."""
    low, high = 0.0, length * length / (length - room)
    for _ in range(200):
        middle = (low + high) / 2
        if middle * math.log1p(length / middle) < room:
            low = middle
        else:
            high = middle
    return high
