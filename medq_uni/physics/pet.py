"""Low-count PET: thinned coincidences of a two-dimensional scanner model, reconstructed by OSEM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics.operators import Radon, gaussian_blur
from medq_uni.physics.record import Parameter
from medq_uni.taxonomy import Severity

REDUCTION = {Severity.MILD: (2.0, 4.0), Severity.MODERATE: (10.0, 20.0), Severity.SEVERE: (50.0, 100.0)}
"""Dose-reduction factor by grade."""
MU_WATER_PER_MM = 0.0096
"""Linear attenuation of water at 511 keV."""
FULL_COUNTS_PER_PIXEL = 120.0
"""Expected full-dose coincidences for each pixel of the body."""
RANDOMS_FRACTION = 1 / 3
"""Share of the full-dose prompts that are randoms and scatter."""
GRID = 128
"""Largest side of the reconstruction; larger images get their noise from it by interpolation."""
VIEWS, SUBSETS, ITERATIONS = 96, 8, 2
RESOLUTION_MM, POST_FILTER_MM = 4.5, 4.0
"""Full widths at half maximum of the detector response and of the filter after reconstruction."""


def draw_low_count(severity: Severity, generator: torch.Generator) -> dict[str, Parameter]:
    """Return the dose-reduction factor and the full-dose counts per pixel."""
    low, high = REDUCTION[severity]
    draws = torch.rand(2, generator=generator).tolist()
    return {
        "dose_reduction": math.exp(math.log(low) + draws[0] * math.log(high / low)),
        "counts_per_pixel": FULL_COUNTS_PER_PIXEL * 2 ** (2 * draws[1] - 1),
    }


def low_count(
    image: Tensor,
    *,
    params: dict[str, Parameter],
    spacing_mm: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Return a PET slice as it would look with a fraction of the counts.

    Prompts y ~ Poisson(attenuation * Radon(G x) + randoms) are thinned binomially to 1 / reduction, so full and low
    dose are correlated as in a real list mode file. Both are reconstructed by the same OSEM with a post-filter, and
    the difference of the reconstructions is added to the image, which keeps its own resolution.

    Args:
        image: (H, W), not negative.
        params: As :func:`draw_low_count` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of counts and thinning.
    """
    height, width = image.shape
    scale = min(1.0, GRID / max(height, width))
    size = (max(round(height * scale), 8), max(round(width * scale), 8))
    coarse = F.interpolate(image[None, None], size=size, mode="area")[0]
    pixel_mm = sum(spacing_mm) / 2 / scale
    scanner = _Scanner(coarse, pixel_mm)
    expected = scanner.project(coarse)
    body_pixels = float((coarse > 0.02 * coarse.max()).sum())
    gain = float(params["counts_per_pixel"]) * body_pixels / float(expected.sum().clamp(min=1e-6))
    randoms = gain * float(expected.mean()) * RANDOMS_FRACTION / (1 - RANDOMS_FRACTION)
    full = torch.poisson(gain * expected + randoms, generator=generator)
    keep = 1 / float(params["dose_reduction"])
    thinned = torch.binomial(full, torch.full_like(full, keep), generator=generator)
    counts = torch.cat([full, thinned])
    factor = torch.tensor([1.0, keep]).view(2, 1, 1)
    images = scanner.osem(counts / (gain * factor), randoms / gain)
    images = gaussian_blur(images, _sigma(POST_FILTER_MM, pixel_mm))
    difference = F.interpolate((images[1:] - images[:1])[None], size=(height, width), mode="bicubic")[0, 0]
    return (image + difference).clamp(min=0)


class _Scanner:
    """System model: resolution, then line integrals, then attenuation by the body outline."""

    def __init__(self, image: Tensor, pixel_mm: float) -> None:
        self.radon = Radon(image.shape[-2], image.shape[-1], VIEWS)
        self.sigma = _sigma(RESOLUTION_MM, pixel_mm)
        outline = gaussian_blur((image > 0.02 * image.max()).float(), 2.0) > 0.5
        self.attenuation = torch.exp(-MU_WATER_PER_MM * pixel_mm * self.radon.forward(outline.float()))

    def project(self, image: Tensor) -> Tensor:
        return self.attenuation * self.radon.forward(gaussian_blur(image, self.sigma))

    def osem(self, sinogram: Tensor, background: float) -> Tensor:
        """Return the ordered-subsets EM reconstruction (Hudson and Larkin 1994) of (B, V, D)."""
        height, width = self.radon.height, self.radon.width
        subsets = [SubsetRadon(self.radon, start, SUBSETS) for start in _bit_reversed(SUBSETS)]
        image = sinogram.new_ones(len(sinogram), height, width)
        for subset in subsets * ITERATIONS:
            attenuation = self.attenuation[:, subset.views]
            expected = attenuation * subset.forward(gaussian_blur(image, self.sigma)) + background
            ratio = sinogram[:, subset.views] / expected.clamp(min=1e-6)
            sensitivity = subset.adjoint(attenuation)
            update = gaussian_blur(subset.adjoint(attenuation * ratio), self.sigma)
            image = image * update / gaussian_blur(sensitivity, self.sigma).clamp(min=1e-6)
        return image


class SubsetRadon:
    """Every ``step``-th view of a Radon transform, from view ``start``."""

    def __init__(self, radon: Radon, start: int, step: int) -> None:
        self.radon, self.views = radon, slice(start, None, step)

    def forward(self, image: Tensor) -> Tensor:
        """Return the sinogram of these views."""
        return self.radon.forward(image, self.views)

    def adjoint(self, sinogram: Tensor) -> Tensor:
        """Return the backprojection of these views."""
        return self.radon.adjoint(sinogram, self.views)


def _bit_reversed(count: int) -> list[int]:
    """Return 0 to count - 1 (a power of two) so that successive views lie far apart."""
    bits = count.bit_length() - 1
    return [int(f"{i:0{bits}b}"[::-1], 2) for i in range(count)]


def _sigma(fwhm_mm: float, pixel_mm: float) -> float:
    return fwhm_mm / pixel_mm / (2 * math.sqrt(2 * math.log(2)))
