"""Low-dose CT: the noise of a lower dose, made in the sinogram and added to the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from medq_uni.physics.observer import Observer, ramp_noise
from medq_uni.physics.operators import FanBeam, Radon
from medq_uni.physics.record import Params
from medq_uni.physics.spec import DataConsistency, EffectScale, Stage, TaskSpec, standard_deviation
from medq_uni.taxonomy import Severity, Task

MU_WATER_PER_MM = 0.0195
"""Linear attenuation of water at about 70 keV."""
HU_RANGE = (-1024.0, 3071.0)
BODY_HU = -500.0
"""The body begins here."""
SOFT_TISSUE_HU = (-50.0, 200.0)
DOSE = {Severity.MILD: (0.4, 0.6), Severity.MODERATE: (0.2, 0.3), Severity.SEVERE: (0.05, 0.1)}
"""Dose fraction by grade."""
GRADES_HU = (12.0, 25.0, 50.0)
"""Least standard deviation of the noise of mild, moderate and severe."""
OBSERVER = Observer(discs_mm=(5.0, 10.0), contrast=20.0, known=ramp_noise)
"""Looks for discs like small metastases of the liver, in noise like that of the default."""
NOISIEST_HU = 120.0
"""Largest standard deviation that is drawn."""
BOWTIE_CHANCE = 0.5
COARSE = 96
"""Side of the image from which line integrals are taken; they are smooth."""
VIEWS = 240
SOURCE_MM = 595.0
"""Distance from the X-ray source to the center of rotation of the fan-beam scanner."""
FAN_VIEWS = 360
ELECTRONIC_FLOOR = 1.0
"""Fewest counts whose logarithm is taken."""
BODY_MARGIN_PX = 3
"""How far outside the body an image is still compared with what was measured."""
FEWEST_CROSSED_PX = 10.0
"""Rays that cross less of the body are not compared."""


def draw_low_dose(severity: Severity, generator: torch.Generator) -> Params:
    """Return dose fraction, added noise in HU, electronic noise in counts, and the strength of the bow-tie filter."""
    dose = _log_uniform(*DOSE[severity], generator)
    bounds = (*GRADES_HU, NOISIEST_HU)
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
    params: Params,
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
    params: Params,
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


def low_dose_consistency(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> DataConsistency:
    """Return how images agree with the low-dose line integrals: chi-square over that of the truth, minus 1.

        chi^2(x) = mean((y - A x)^2 / var y)

    Below 0 the image follows the noise, at 0 it is as far from the measurement as the truth is, above it contradicts
    it. Rays that cross the body are taken, and outside of it the truth: air is stored no lower than -1024 HU, which
    turns its noise into a bias that these precise rays would see.

    Args:
        image: (H, W) in HU, the one that was degraded.
        params: As :func:`draw_low_dose` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: In the state in which :func:`low_dose` got it.
    """
    noise, variance = ray_noise(image, params=params, spacing_mm=spacing_mm, generator=generator)
    radon = Radon(image.shape[0], image.shape[1], VIEWS)
    scale = MU_WATER_PER_MM / 1000 * sum(spacing_mm) / 2
    inside = image > BODY_HU
    body = torch.from_numpy(ndimage.binary_dilation(inside.numpy(), iterations=BODY_MARGIN_PX))
    crossing = radon.forward(inside.float()[None])[0] > FEWEST_CROSSED_PX

    def chi_square(residual: Tensor) -> float:
        return float((residual.square() / variance)[crossing].mean())

    def misfit(restored: Tensor) -> float:
        change = torch.where(body, restored - image, 0.0)
        return chi_square(noise - radon.forward(change[None])[0] * scale) / chi_square(noise) - 1

    return DataConsistency(misfit)


def photon_counts(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return a CT slice with noise from counted photons of a fan-beam scanner.

    The full scan counts Poisson(I0 exp(-p)) photons, the low-dose scan is its binomial thinning; both get electronic
    noise and the logarithm, and the difference of their filtered backprojections is added to the image. Unlike the
    default, noise is neither Gaussian nor unbiased where photons are few. I0 is chosen as in the default.

    Args:
        image: (H, W) in HU.
        params: As :func:`draw_low_dose` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of the counts.
    """
    pixel = sum(spacing_mm) / 2
    source = max(SOURCE_MM / pixel, 0.7 * math.hypot(*image.shape) + 4)
    fan = FanBeam(image.shape[0], image.shape[1], FAN_VIEWS, source)
    attenuation, scale = coarse_attenuation(image.clamp(*HU_RANGE))
    coarse = FanBeam(attenuation.shape[-2], attenuation.shape[-1], FAN_VIEWS, source * scale)
    sinogram = coarse.forward(attenuation)[0] * (pixel / scale)
    place = fan.gamma(image) / coarse.step + (coarse.num_detectors - 1) / 2
    path = resample_detectors(sinogram, place).clamp(0, 12)
    to_hu = 1000 / MU_WATER_PER_MM / pixel
    exposed = expose(image, path, params, lambda rays: fan.filtered_backprojection(rays) * to_hu, generator)
    dose, readout = float(params["dose_fraction"]), float(params["electronic_counts"])
    full = torch.poisson(exposed.photons * torch.exp(-path), generator=generator)
    low = torch.binomial(full, torch.full_like(full, dose), generator=generator)
    counts = torch.stack([full, low]) + readout * torch.randn(2, *path.shape, generator=generator)
    logs = -torch.log(counts.clamp(min=ELECTRONIC_FLOOR) / torch.tensor([1.0, dose])[:, None, None])
    return add_in_range(image, fan.filtered_backprojection((logs[1] - logs[0])[None])[0] * to_hu)


def _parallel_exposure(
    image: Tensor, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> tuple[Exposure, Tensor]:
    """Return the exposure of a parallel-beam scan, and its line integrals (V, D)."""
    height, width = image.shape
    pixel = sum(spacing_mm) / 2
    path = line_integrals(image.clamp(*HU_RANGE), pixel)
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
    params: Params,
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


def line_integrals(image: Tensor, spacing_mm: float) -> Tensor:
    """Return the attenuation along every ray, (V, D) of the full-size sinogram, from a coarse image.

    Args:
        image: (H, W) in HU.
        spacing_mm: Side of its pixels.
    """
    attenuation, scale = coarse_attenuation(image)
    sinogram = Radon(attenuation.shape[-2], attenuation.shape[-1], VIEWS).forward(attenuation)[0] * (spacing_mm / scale)
    detectors = Radon(image.shape[0], image.shape[1], VIEWS).num_detectors
    place = (torch.arange(detectors) - (detectors - 1) / 2) * scale + (sinogram.shape[-1] - 1) / 2
    return resample_detectors(sinogram, place).clamp(0, 12)


def noise_variances(path: Tensor, params: Params) -> tuple[Tensor, Tensor]:
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


SPECS = (
    TaskSpec(
        task=Task.CT_LOW_DOSE,
        stage=Stage.DETECTION,
        draw=draw_low_dose,
        default=low_dose,
        alternatives={"counts": photon_counts},
        effect=EffectScale("HU", standard_deviation, GRADES_HU, OBSERVER),
        limits={"dose_fraction": (0.001, 1.0), "noise_sd_hu": (0.0, 2000.0)},
        beyond={"dose_fraction": 0.02, "noise_sd_hu": 200.0},
        params_of_dose=lambda reduction: {"dose_fraction": 1 / reduction},
        consistency=low_dose_consistency,
    ),
)
