"""Low-dose CT: the noise of a lower dose, made in the sinogram and added to the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics.operators import Radon
from medq_uni.physics.record import Parameter
from medq_uni.taxonomy import EFFECT_BOUNDS, Severity, Task

MU_WATER_PER_MM = 0.0195
"""Linear attenuation of water at about 70 keV."""
HU_RANGE = (-1024.0, 3071.0)
BODY_HU = -500.0
"""The body begins here."""
DOSE = {Severity.MILD: (0.4, 0.6), Severity.MODERATE: (0.2, 0.3), Severity.SEVERE: (0.05, 0.1)}
"""Dose fraction by grade."""
NOISIEST_HU = 120.0
"""Largest standard deviation that is drawn; the grades begin at ``taxonomy.EFFECT_BOUNDS``."""
BOWTIE_CHANCE = 0.5
COARSE = 96
"""Side of the image from which line integrals are taken; they are smooth."""
VIEWS = 240


def draw_low_dose(severity: Severity, generator: torch.Generator) -> dict[str, Parameter]:
    """Return dose fraction, added noise in HU, electronic noise in counts, and the strength of the bow-tie filter."""
    dose = _log_uniform(*DOSE[severity], generator)
    bounds = (*EFFECT_BOUNDS[Task.CT_LOW_DOSE], NOISIEST_HU)
    noise = _log_uniform(bounds[severity.level - 1], bounds[severity.level], generator)
    electronic = 5 + 10 * float(torch.rand(1, generator=generator))
    bowtie = torch.rand(2, generator=generator).tolist()
    return {
        "dose_fraction": dose,
        "noise_sd_hu": noise,
        "electronic_counts": electronic,
        "bowtie": bowtie[1] if bowtie[0] < BOWTIE_CHANCE else 0.0,
    }


def low_dose(
    image: Tensor,
    *,
    params: dict[str, Parameter],
    spacing_mm: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Return a CT slice as it would look at a fraction of the tube current.

    A detector with expected full-dose count I0 exp(-p) measures at dose d a line integral whose variance is
    larger by

        (1 / d - 1) exp(p) / I0  +  (1 / d^2 - 1) s_e^2 exp(2 p) / I0^2

    (quantum and electronic noise). A bow-tie filter takes photons away from the rays that cross less of the body, in
    proportion to its strength: 1 makes the detector's exposure even. Noise of that variance is drawn in the sinogram,
    reconstructed by filtered backprojection and added, so that the anatomy keeps the sharpness of its own
    reconstruction. I0 is chosen so that the noise has the recorded standard deviation inside the body, whatever its
    size.

    Args:
        image: (H, W) in HU; values outside the physical range pass through.
        params: As :func:`draw_low_dose` returns them.
        spacing_mm: Pixel spacing (row, column); their mean is used for path lengths.
        generator: Source of the noise.
    """
    exposure, _ = _parallel_exposure(image, params, spacing_mm, generator)
    return add_in_range(image, exposure.scaled(exposure.image))


def ray_noise(
    image: Tensor,
    *,
    params: dict[str, Parameter],
    spacing_mm: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the noise that :func:`low_dose` adds to the line integrals, and its variance, each (V, D).

    Args:
        image: (H, W) in HU, the one that is degraded.
        params: As :func:`draw_low_dose` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: In the state in which :func:`low_dose` got it.
    """
    exposure, path = _parallel_exposure(image, params, spacing_mm, generator)
    quantum, electronic = noise_variances(path, params)
    return exposure.scaled(exposure.rays), quantum / exposure.photons + electronic / exposure.photons**2


def _parallel_exposure(
    image: Tensor, params: dict[str, Parameter], spacing_mm: tuple[float, float], generator: torch.Generator
) -> tuple[Exposure, Tensor]:
    """Return the exposure of a parallel-beam scan, and its line integrals (V, D)."""
    height, width = image.shape
    pixel = sum(spacing_mm) / 2
    path = _line_integrals(image.clamp(*HU_RANGE), pixel)
    radon = Radon(height, width, VIEWS)
    to_hu = 1000 / MU_WATER_PER_MM / pixel
    return expose(image, path, params, lambda rays: radon.filtered_backprojection(rays) * to_hu, generator), path


@dataclass(frozen=True, eq=False)
class Exposure:
    """Noise of one exposure; quantum noise for I0 = 1 and electronic noise for I0^2 = 1 come one after the other."""

    rays: Tensor
    """Of the line integrals, (2, V, D)."""
    image: Tensor
    """Reconstructed, (2, H, W) in HU."""
    photons: float
    """I0, expected photons of a ray through air at full dose."""

    def scaled(self, parts: Tensor) -> Tensor:
        """Return the sum of quantum and electronic noise at I0."""
        return parts[0] / math.sqrt(self.photons) + parts[1] / self.photons


def expose(
    image: Tensor,
    path: Tensor,
    params: dict[str, Parameter],
    reconstruct: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Exposure:
    """Return noise in sinogram and image, and the I0 that brings it to the recorded standard deviation in the body.

    Args:
        image: (H, W) in HU.
        path: Line integrals (V, D).
        params: As :func:`draw_low_dose` returns them.
        reconstruct: Filtered backprojection of (2, V, D) into (2, H, W) in HU.
        generator: Source of the noise.
    """
    variances = torch.stack(noise_variances(path, params))
    rays = torch.randn(2, *path.shape, generator=generator) * variances.sqrt()
    noise = reconstruct(rays)
    body = image > BODY_HU
    if not bool(body.any()):
        body = torch.ones_like(body)
    photons = photons_for(float(noise[0][body].var()), float(noise[1][body].var()), float(params["noise_sd_hu"]))
    return Exposure(rays, noise, photons)


def add_in_range(image: Tensor, added: Tensor) -> Tensor:
    """Return image plus noise, held within :data:`HU_RANGE`; values that were outside it stay as they are."""
    inside = (image >= HU_RANGE[0]) & (image <= HU_RANGE[1])
    return torch.where(inside, (image + added).clamp(*HU_RANGE), image)


def coarse_attenuation(image: Tensor) -> tuple[Tensor, float]:
    """Return the attenuation per mm (1, h, w) of an image in HU, at most :data:`COARSE` pixels wide, and the scale."""
    scale = min(1.0, COARSE / max(image.shape))
    coarse = F.interpolate(image[None, None], scale_factor=scale, mode="area")[0]
    return MU_WATER_PER_MM * (1 + coarse.clamp(-1000, 2000) / 1000), scale


def resample_detectors(sinogram: Tensor, place: Tensor) -> Tensor:
    """Return a sinogram (V, D) at fractional detector positions (E,), linearly interpolated: (V, E)."""
    views, detectors = sinogram.shape
    center = (detectors - 1) / 2
    rows = torch.linspace(-1, 1, views)[:, None].expand(-1, len(place))
    grid = torch.stack([(place / center - 1).expand(views, -1), rows], -1)
    return F.grid_sample(sinogram[None, None], grid[None], align_corners=True)[0, 0]


def _line_integrals(image: Tensor, spacing_mm: float) -> Tensor:
    """Return the attenuation along every ray, (V, D) of the full-size sinogram, from a coarse image."""
    attenuation, scale = coarse_attenuation(image)
    sinogram = Radon(attenuation.shape[-2], attenuation.shape[-1], VIEWS).forward(attenuation)[0] * (spacing_mm / scale)
    detectors = Radon(image.shape[0], image.shape[1], VIEWS).num_detectors
    place = (torch.arange(detectors) - (detectors - 1) / 2) * scale + (sinogram.shape[-1] - 1) / 2
    return resample_detectors(sinogram, place).clamp(0, 12)


def noise_variances(path: Tensor, params: dict[str, Parameter]) -> tuple[Tensor, Tensor]:
    """Return the variances of quantum noise for I0 = 1 and of electronic noise for I0^2 = 1, each (V, D)."""
    dose, counts = float(params["dose_fraction"]), float(params["electronic_counts"])
    # the filter passes the whole beam where the body is thickest; its profile is the same in every view
    profile = path.mean(0)
    missing = float(params.get("bowtie", 0.0)) * (profile.max() - profile)
    arriving = path + missing
    quantum = (1 / dose - 1) * torch.exp(arriving)
    electronic = (1 / dose**2 - 1) * counts**2 * torch.exp(2 * arriving)
    return quantum, electronic


def photons_for(quantum: float, electronic: float, target_hu: float) -> float:
    """Return the I0 for which quantum / I0 + electronic / I0^2 = target^2."""
    inverse = (-quantum + math.sqrt(quantum**2 + 4 * electronic * target_hu**2)) / (2 * electronic)
    return 1 / max(inverse, 1e-12)


def _log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    draw = float(torch.rand(1, generator=generator))
    return math.exp(math.log(low) + draw * (math.log(high) - math.log(low)))
