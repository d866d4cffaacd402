"""Low-dose CT: the noise of a lower dose, made in the sinogram and added to the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics.operators import Radon
from medq_uni.physics.record import Parameter
from medq_uni.taxonomy import Severity

MU_WATER_PER_MM = 0.0195
"""Linear attenuation of water at about 70 keV."""
HU_RANGE = (-1024.0, 3071.0)
DOSE = {Severity.MILD: (0.4, 0.6), Severity.MODERATE: (0.2, 0.3), Severity.SEVERE: (0.05, 0.1)}
"""Dose fraction by grade."""
NOISE_HU = {Severity.MILD: (12.0, 25.0), Severity.MODERATE: (25.0, 50.0), Severity.SEVERE: (50.0, 120.0)}
"""Standard deviation of the added noise inside the body, by grade."""
COARSE = 96
"""Side of the image from which line integrals are taken; they are smooth."""
VIEWS = 240


def draw_low_dose(severity: Severity, generator: torch.Generator) -> dict[str, Parameter]:
    """Return dose fraction, added noise in HU, and electronic noise in counts."""
    dose = _log_uniform(*DOSE[severity], generator)
    noise = _log_uniform(*NOISE_HU[severity], generator)
    electronic = 5 + 10 * float(torch.rand(1, generator=generator))
    return {"dose_fraction": dose, "noise_sd_hu": noise, "electronic_counts": electronic}


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

    (quantum and electronic noise). Noise of that variance is drawn in the sinogram, reconstructed by filtered
    backprojection and added, so that the anatomy keeps the sharpness of its own reconstruction. I0 is chosen so
    that the noise has the recorded standard deviation inside the body, whatever its size.

    Args:
        image: (H, W) in HU.
        params: As :func:`draw_low_dose` returns them.
        spacing_mm: Pixel spacing (row, column); their mean is used for path lengths.
        generator: Source of the noise.
    """
    height, width = image.shape
    body = image > -500
    if not bool(body.any()):
        body = torch.ones_like(body)
    target_hu = float(params["noise_sd_hu"])
    path = _line_integrals(image, sum(spacing_mm) / 2)
    quantum, electronic = _variances(path, params)
    radon = Radon(height, width, VIEWS)
    white = torch.randn(2, VIEWS, radon.num_detectors, generator=generator)
    noise = radon.filtered_backprojection(white * torch.stack([quantum, electronic]).sqrt())
    noise = noise * (1000 / MU_WATER_PER_MM / (sum(spacing_mm) / 2))
    photons = _photons(float(noise[0][body].var()), float(noise[1][body].var()), target_hu)
    added = noise[0] / math.sqrt(photons) + noise[1] / photons
    return (image + added).clamp(*HU_RANGE)


def _line_integrals(image: Tensor, spacing_mm: float) -> Tensor:
    """Return the attenuation along every ray, (V, D) of the full-size sinogram, from a coarse image."""
    height, width = image.shape
    scale = min(1.0, COARSE / max(height, width))
    coarse = F.interpolate(image[None, None], scale_factor=scale, mode="area")[0]
    attenuation = MU_WATER_PER_MM * (1 + coarse.clamp(-1000, 2000) / 1000)
    sinogram = Radon(coarse.shape[-2], coarse.shape[-1], VIEWS).forward(attenuation)[0] * (spacing_mm / scale)
    detectors = Radon(height, width, VIEWS).num_detectors
    center = (sinogram.shape[-1] - 1) / 2
    place = ((torch.arange(detectors) - (detectors - 1) / 2) * scale + center) / center - 1
    grid = torch.stack([place.expand(VIEWS, -1), torch.linspace(-1, 1, VIEWS)[:, None].expand(-1, detectors)], -1)
    return F.grid_sample(sinogram[None, None], grid[None], align_corners=True)[0, 0].clamp(0, 12)


def _variances(path: Tensor, params: dict[str, Parameter]) -> tuple[Tensor, Tensor]:
    dose, counts = float(params["dose_fraction"]), float(params["electronic_counts"])
    quantum = (1 / dose - 1) * torch.exp(path)
    electronic = (1 / dose**2 - 1) * counts**2 * torch.exp(2 * path)
    return quantum, electronic


def _photons(quantum: float, electronic: float, target_hu: float) -> float:
    """Return I0 for which quantum / I0 + electronic / I0^2 = target^2."""
    inverse = (-quantum + math.sqrt(quantum**2 + 4 * electronic * target_hu**2)) / (2 * electronic)
    return 1 / max(inverse, 1e-12)


def _log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    draw = float(torch.rand(1, generator=generator))
    return math.exp(math.log(low) + draw * (math.log(high) - math.log(low)))
