"""Low-count PET: thinned coincidences of a two-dimensional scanner model, reconstructed by OSEM."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics.observer import Observer, smoothed_noise
from medq_uni.physics.operators import ALL_VIEWS, Radon, gaussian_blur
from medq_uni.physics.record import Params
from medq_uni.physics.spec import DataConsistency, EffectScale, Stage, TaskSpec, nrmse
from medq_uni.taxonomy import Severity, Task

REDUCTION = {Severity.MILD: (2.0, 6.0), Severity.MODERATE: (6.0, 25.0), Severity.SEVERE: (25.0, 100.0)}
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
LINEAR_COUNTS = 8.0
"""How many more counts a linear reconstruction gets, so that the grades stay comparable."""
KNOWN_FWHM_MM = 6.0
"""Of the Gaussian filter behind which white noise is like that of the default (``python -m experiments.grades``)."""
RESOLUTION_MM, POST_FILTER_MM = 4.5, 4.0
"""Full widths at half maximum of the detector response and of the filter after reconstruction."""
OBSERVER = Observer(discs_mm=(10.0, 17.0), contrast=1.0, known=smoothed_noise(KNOWN_FWHM_MM))
"""Looks for discs like two spheres of the NEMA NU 2 phantom, in noise like that of the default."""


def draw_low_count(severity: Severity, generator: torch.Generator) -> Params:
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
    params: Params,
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
    coarse, pixel_mm = on_grid(image, spacing_mm)
    return reconstructed(image, acquire(coarse, pixel_mm, params=params, generator=generator))


def reconstructed(image: Tensor, scan: Scan) -> Tensor:
    """Return a PET slice (H, W) plus the difference of the thinned and the full reconstruction of its scan."""
    counts = torch.cat([scan.full, scan.thinned])
    factor = torch.tensor([1.0, scan.keep]).view(2, 1, 1)
    images = scan.scanner.osem(counts / (scan.gain * factor), scan.randoms / scan.gain)
    images = gaussian_blur(images, sigma_px(POST_FILTER_MM, scan.scanner.pixel_mm))
    difference = F.interpolate((images[1:] - images[:1])[None], size=tuple(image.shape), mode="bicubic")[0, 0]
    return (image + difference).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Scan:
    """Counts of one full-dose scan and of its thinning, each (1, V, D), and what is expected of them."""

    scanner: Scanner
    gain: float
    """Full-dose counts for each unit of the scanner's expected trues."""
    randoms: float
    """Expected full-dose randoms and scatter of every bin."""
    full: Tensor
    thinned: Tensor
    keep: float
    """Share of the counts that the thinning keeps."""


def acquire(coarse: Tensor, pixel_mm: float, *, params: Params, generator: torch.Generator) -> Scan:
    """Return the counts that :func:`low_count` reconstructs.

    Args:
        coarse: Activity (1, h, w), as :func:`on_grid` returns it.
        pixel_mm: Side of its pixels.
        params: As :func:`draw_low_count` returns them.
        generator: In the state in which :func:`low_count` got it.
    """
    scanner = Scanner(coarse, pixel_mm)
    expected, gain, randoms = scanner.exposure(coarse, float(params["counts_per_pixel"]))
    full = torch.poisson(gain * expected + randoms, generator=generator)
    keep = 1 / float(params["dose_reduction"])
    thinned = torch.binomial(full, torch.full_like(full, keep), generator=generator)
    return Scan(scanner, gain, randoms, full, thinned, keep)


def with_added(scan: Scan, added: Tensor, generator: torch.Generator) -> Scan:
    """Return the same scan with the coincidences of more activity.

    A sum of Poisson variables is one, so the counts have the distribution of a scan of both activities, and share the
    noise of the scan without.

    Args:
        scan: Without.
        added: Activity (1, h, w) on the scan's grid, not negative.
        generator: Source of the additional counts.
    """
    more = torch.poisson(scan.gain * scan.scanner.forward(added), generator=generator)
    kept = torch.binomial(more, torch.full_like(more, scan.keep), generator=generator)
    return replace(scan, full=scan.full + more, thinned=scan.thinned + kept)


def low_count_consistency(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> DataConsistency:
    """Return how images agree with the thinned coincidences: chi-square over that of the truth, minus 1.

        chi^2(x) = mean((y - E[y | x])^2 / E[y | truth])

    Below 0 the image follows the noise, at 0 it is as far from the measurement as the truth is, above it contradicts
    it.

    Args:
        image: (H, W), the one that was degraded.
        params: As :func:`draw_low_count` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: In the state in which :func:`low_count` got it.
    """
    coarse, pixel_mm = on_grid(image, spacing_mm)
    scan = acquire(coarse, pixel_mm, params=params, generator=generator)

    def expected(activity: Tensor) -> Tensor:
        return scan.keep * (scan.gain * scan.scanner.forward(activity) + scan.randoms)

    variance = expected(coarse).clamp(min=1e-9)
    truth = float(((scan.thinned - variance).square() / variance).mean())

    def misfit(restored: Tensor) -> float:
        residual = scan.thinned - expected(on_grid(restored, spacing_mm)[0])
        return float((residual.square() / variance).mean()) / truth - 1

    return DataConsistency(misfit)


def independent_scan(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return a PET slice with noise of an independent low-count scan, reconstructed by filtered backprojection.

    Unlike the default, the low-count scan shares no coincidence with the full one, randoms are subtracted, and the
    reconstruction is linear, so that noise spreads in streaks over the whole image.

    Args:
        image: (H, W), not negative.
        params: As :func:`draw_low_count` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of the counts.
    """
    coarse, pixel_mm = on_grid(image, spacing_mm)
    scanner = Scanner(coarse, pixel_mm)
    expected, gain, randoms = scanner.exposure(coarse, LINEAR_COUNTS * float(params["counts_per_pixel"]))
    scale = gain / float(params["dose_reduction"])
    counts = torch.poisson(scale * expected + randoms * scale / gain, generator=generator)
    error = (counts - randoms * scale / gain) / scale - expected
    noise = scanner.radon.filtered_backprojection(error / scanner.attenuation)
    noise = gaussian_blur(noise, sigma_px(POST_FILTER_MM, pixel_mm))
    return (image + F.interpolate(noise[None], size=tuple(image.shape), mode="bicubic")[0, 0]).clamp(min=0)


def on_grid(image: Tensor, spacing_mm: tuple[float, float]) -> tuple[Tensor, float]:
    """Return the image (1, h, w) on a grid of at most :data:`GRID` pixels, and the side of its pixels in mm."""
    height, width = image.shape
    scale = min(1.0, GRID / max(height, width))
    size = (max(round(height * scale), 8), max(round(width * scale), 8))
    return F.interpolate(image[None, None], size=size, mode="area")[0], sum(spacing_mm) / 2 / scale


class Scanner:
    """System model of a two-dimensional scanner: resolution, then line integrals, then attenuation.

    Args:
        image: (1, H, W), from which the outline of the attenuating body is taken.
        pixel_mm: Side of a pixel.
    """

    def __init__(self, image: Tensor, pixel_mm: float) -> None:
        self.radon = Radon(image.shape[-2], image.shape[-1], VIEWS)
        self.pixel_mm = pixel_mm
        self.sigma = sigma_px(RESOLUTION_MM, pixel_mm)
        outline = gaussian_blur((image > 0.02 * image.max()).to(image), 2.0) > 0.5
        self.attenuation = torch.exp(-MU_WATER_PER_MM * pixel_mm * self.radon.forward(outline.to(image)))

    def forward(self, image: Tensor, views: slice = ALL_VIEWS) -> Tensor:
        """Return the expected true coincidences (B, V, D) of an activity (B, H, W), in some or all views."""
        return self.attenuation[:, views] * self.radon.forward(gaussian_blur(image, self.sigma), views)

    def adjoint(self, sinogram: Tensor, views: slice = ALL_VIEWS) -> Tensor:
        """Return the exact transpose of :meth:`forward`."""
        return gaussian_blur(self.radon.adjoint(self.attenuation[:, views] * sinogram, views), self.sigma)

    def exposure(self, image: Tensor, counts_per_pixel: float) -> tuple[Tensor, float, float]:
        """Return the expected trues, the counts per unit of them, and the randoms and scatter in every bin.

        Args:
            image: Activity, (1, H, W).
            counts_per_pixel: Full-dose trues for each pixel of the body.
        """
        expected = self.forward(image)
        body_pixels = float((image > 0.02 * image.max()).sum())
        gain = counts_per_pixel * body_pixels / float(expected.sum().clamp(min=1e-6))
        return expected, gain, gain * float(expected.mean()) * RANDOMS_FRACTION / (1 - RANDOMS_FRACTION)

    def osem(self, sinogram: Tensor, background: float) -> Tensor:
        """Return the ordered-subsets EM reconstruction (Hudson and Larkin 1994) of counts (B, V, D).

        Args:
            sinogram: Measured coincidences, scaled like :meth:`forward`.
            background: Expected randoms and scatter in every bin, likewise scaled.
        """
        image = sinogram.new_ones(len(sinogram), self.radon.height, self.radon.width)
        subsets = [slice(start, None, SUBSETS) for start in bit_reversed(SUBSETS)]
        unit = torch.ones_like(sinogram[:1])
        sensitivity = [self.adjoint(unit[:, views], views).clamp(min=1e-6) for views in subsets]
        for _ in range(ITERATIONS):
            for views, sensed in zip(subsets, sensitivity, strict=True):
                expected = self.forward(image, views) + background
                image = image * self.adjoint(sinogram[:, views] / expected.clamp(min=1e-6), views) / sensed
        return image


def bit_reversed(count: int) -> list[int]:
    """Return 0 to count - 1 (a power of two) so that successive views lie far apart."""
    bits = count.bit_length() - 1
    return [int(f"{i:0{bits}b}"[::-1], 2) for i in range(count)]


def sigma_px(fwhm_mm: float, pixel_mm: float) -> float:
    """Return the standard deviation in pixels of a Gaussian of a full width at half maximum in mm."""
    return fwhm_mm / pixel_mm / (2 * math.sqrt(2 * math.log(2)))


SPECS = (
    TaskSpec(
        task=Task.PET_LOW_COUNT,
        stage=Stage.DETECTION,
        draw=draw_low_count,
        default=low_count,
        alternatives={"independent": independent_scan},
        effect=EffectScale("NRMSE", nrmse, (0.04, 0.15, 0.36), OBSERVER, is_relative=True),
        limits={"dose_reduction": (1.0, 1000.0), "counts_per_pixel": (1e-3, 1e9)},
        beyond={"dose_reduction": 300.0},
        params_of_dose=lambda reduction: {"dose_reduction": reduction},
        consistency=low_count_consistency,
    ),
)
