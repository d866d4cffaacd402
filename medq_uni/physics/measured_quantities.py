"""The quantities of a pair: of its noise measured on the difference to the reference, the others from its records."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medq_uni.measurement import Quantity
from medq_uni.physics.record import DegradationRecord
from medq_uni.physics.spectra import radial
from medq_uni.quantities import Quantities, known_with
from medq_uni.taxonomy import Modality, Task

PATCH = 32
"""Side of the squares over which noise spectra are averaged, in pixels."""
INSIDE = 0.6
"""Share of a square that the body must fill."""
FEWEST_PIXELS = 64


def quantities_of(
    modality: Modality,
    records: Sequence[DegradationRecord],
    noise: Float[Tensor, "H W"],
    inside: Bool[Tensor, "H W"],
) -> Quantities:
    """Return what is known about a degraded slice whose reference is at hand.

    The standard deviation and the spectrum of the noise are known where noise is all that was added.

    Args:
        modality: Of the slice.
        records: What was done to the slice; none for an image that was left as it is.
        noise: Degraded minus reference slice, as fractions of the network range.
        inside: Where the body is.
    """
    known = known_with([record.task for record in records])
    values: dict[Quantity, float] = {}
    if Quantity.NOISE_SD in known:
        values[Quantity.NOISE_SD] = noise_sd(noise, inside)
    if Quantity.NOISE_FREQUENCY in known and values[Quantity.NOISE_SD] > 0:
        values[Quantity.NOISE_FREQUENCY] = mean_frequency(noise, inside)
    for record in records:
        values |= _stated(record)
    return Quantities(modality, values)


def _stated(record: DegradationRecord) -> dict[Quantity, float]:
    """Return what a record says, whatever the method that made it."""
    params = record.params
    if record.task is Task.MR_UNDERSAMPLING and "acceleration" in params:
        return {Quantity.ACCELERATION: float(params["acceleration"])}
    if record.task is Task.MR_MOTION and "rotation_deg" in params:
        shift = params.get("translation_px", params.get("translation_mm", 0.0))
        return {Quantity.MOTION: abs(float(params["rotation_deg"])) + abs(float(shift))}
    if "dose_reduction" in params:
        return {Quantity.DOSE_REDUCTION: float(params["dose_reduction"])}
    if params.get("dose_fraction"):
        return {Quantity.DOSE_REDUCTION: 1 / float(params["dose_fraction"])}
    return {}


def noise_sd(noise: Float[Tensor, "H W"], inside: Bool[Tensor, "H W"]) -> float:
    """Return the standard deviation of noise inside the body, or of all of it where hardly any body is seen."""
    chosen = noise[inside] if int(inside.sum()) >= FEWEST_PIXELS else noise.flatten()
    return float(chosen.std()) if float(chosen.abs().max()) > 0 else 0.0


def mean_frequency(noise: Float[Tensor, "H W"], inside: Bool[Tensor, "H W"]) -> float:
    """Return the mean frequency of a noise power spectrum in cycles per pixel: f_av of AAPM TG-233.

    The spectrum is that of squares that the body fills mostly, each with its mean taken off and a Hann window; its
    radial mean up to 0.5 cycles per pixel is weighted by frequency.
    """
    weight = inside.float() if int(inside.sum()) >= FEWEST_PIXELS else torch.ones_like(noise)
    side = min(PATCH, *noise.shape)
    squares, filled = (x.unfold(0, side, side // 2).unfold(1, side, side // 2).flatten(0, 1) for x in (noise, weight))
    share = filled.mean(dim=(1, 2))
    kept = share >= min(INSIDE, float(share.max()))
    hann = torch.hann_window(side, periodic=False)
    chosen = squares[kept]
    chosen = (chosen - chosen.mean(dim=(1, 2), keepdim=True)) * (hann[:, None] * hann)
    power = torch.fft.fft2(chosen).abs().square().mean(dim=0)
    frequencies, profile = radial(power.numpy())
    return float((profile * frequencies).sum() / max(float(profile.sum()), 1e-30))
