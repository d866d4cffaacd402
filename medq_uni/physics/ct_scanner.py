"""Low-dose CT by the whole chain of a scanner: exposure, kernel, iterative reconstruction, another grid.

Parameters are drawn far beyond what one scanner does, so that what is learned does not hang on one texture of noise.
docs/physics.md has their ranges and sources.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics import ct
from medq_uni.physics.draws import Draws
from medq_uni.physics.operators import Radon, gaussian_blur
from medq_uni.physics.record import Params
from medq_uni.physics.spec import Scanner
from medq_uni.physics.spectra import (
    NoiseSpectrum,
    backprojected_power,
    filtered,
    frequencies,
    low_pass,
    own_cutoff,
    through_grid,
    through_grid_power,
)
from medq_uni.taxonomy import Severity

PEAK = (0.05, 0.45)
"""Peak of the noise power of a kernel, in cycles per pixel."""
CUTOFF = (1.3, 2.6)
"""Where the power has fallen to a tenth, as a multiple of the peak."""
RISE = (0.7, 2.5)
"""Exponent of the power below the peak: 1 is a ramp, more enhances edges."""
SLICES = 8
"""Most thin slices that are averaged into one."""
STARVATION, STARVATION_PATH = (0.3, 3.0), (4.5, 6.5)
"""Excess noise of starved rays for each unit of line integral, and the line integral where it begins."""
ITERATIVE = (0.2, 0.9)
"""Share of the fine noise that iterative reconstruction takes away in flat tissue."""
GRID_SCALE, GRID_ROTATION_DEG = (0.7, 1.6), 1.5
CHANCE = {"modulation": 0.7, "starvation": 0.3, "iterative": 0.5, "grid": 0.5, "softened": 0.5}
"""How often a step of the chain is there at all."""
SOFTENED_CLIP_SD = 1.5
"""How far a softer kernel moves an edge, as a multiple of the noise: the degradation stays one of noise."""
SOFTENED_SHARE = 0.5
"""Largest standard deviation that softening has in soft tissue, as a share of the noise asked for."""
EDGE_SD = 2.0
"""Slope of the image for each pixel, as a multiple of the noise, at which an edge keeps half of its noise."""
FEWEST_PIXELS = 64
TYPICAL_PIXEL_MM = 1.0
"""For which the standard deviation is drawn; the grade is measured."""


def draw_scan(severity: Severity, generator: torch.Generator) -> Params:
    """Return every parameter of the chain; the noise hides as much as that of the default would.

    So the standard deviation of a soft kernel's noise is lower, and that of a sharp kernel's higher. Severe noise goes
    up to the same standard deviation whatever its kernel.
    """
    params = ct.draw_low_dose(severity, generator)
    draws = Draws(18, generator)
    between, evenly = draws.between, draws.evenly

    def has(step: str) -> bool:
        return draws.has(CHANCE[step])

    peak = evenly(*PEAK)
    params |= {"kernel_peak": peak, "kernel_cutoff": peak * between(*CUTOFF), "kernel_rise": evenly(*RISE)}
    params["tube_modulation"] = has("modulation") * between(0.0, 1.0)
    params["starvation"] = has("starvation") * between(*STARVATION)
    params["starvation_path"] = between(*STARVATION_PATH)
    params["slices_averaged"] = math.floor(evenly(1, SLICES + 1))
    params["iterative"] = has("iterative") * between(*ITERATIVE)
    params["iterative_sigma_px"] = evenly(0.5, 1.5) / (2 * math.pi * peak)
    is_on_grid = has("grid")
    params["grid_scale"] = evenly(*GRID_SCALE) if is_on_grid else 1.0
    params["grid_rotation_deg"] = is_on_grid * between(-GRID_ROTATION_DEG, GRID_ROTATION_DEG)
    params["grid_cubic"] = int(between(0, 1) < 0.5)
    params["softened"] = has("softened") * between(0.0, 1.0)
    factor = ct.OBSERVER.factor(lambda frequency: noise_power(params, frequency), TYPICAL_PIXEL_MM)
    params["noise_sd_hu"] = _as_hiding(float(params["noise_sd_hu"]), factor, severity)
    return params


def _as_hiding(sd_hu: float, factor: float, severity: Severity) -> float:
    """Return the standard deviation of noise that hides ``factor`` times as much, from that drawn for the default."""
    if severity is Severity.SEVERE:
        least, most = ct.GRADES_HU[-1], ct.NOISIEST_HU
        place = math.log(sd_hu / least) / math.log(most / least)
        sd_hu = least * (most * max(1.0, factor) / least) ** place
    return min(sd_hu / factor, ct.NOISIEST_HU)


def scan(image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return a CT slice as another scanner would show it at a fraction of the tube current.

    Ray noise of the dose, with bow-tie, tube-current modulation and starved rays, is backprojected and shaped by a
    kernel; iterative reconstruction takes a part of it away and another grid correlates it. A kernel that is softer
    than the image itself also softens the image, by no more than the noise hides. The change has the recorded
    standard deviation in soft tissue.

    Args:
        image: (H, W) in HU; values outside the physical range pass through.
        params: As :func:`draw_scan` returns them.
        spacing_mm: Pixel spacing (row, column); the chain runs on square pixels of the smaller one.
        generator: Source of the noise.
    """
    target, side = float(params["noise_sd_hu"]), min(spacing_mm)
    if target <= 0 or float(params["dose_fraction"]) >= 1:
        return image
    size = (max(8, round(image.shape[0] * spacing_mm[0] / side)), max(8, round(image.shape[1] * spacing_mm[1] / side)))
    square = _resized(image.clamp(*ct.HU_RANGE)[None], size)[0]
    softened = _softening(square, params)
    noise = _textured(ray_noise(square, side, params, generator), square, params)
    noise, softened = _resized(noise, tuple(image.shape)), _resized(softened[None], tuple(image.shape))[0]
    return ct.add_in_range(image, _scaled(noise, softened, soft_tissue(image), params))


def ray_noise(square: Tensor, pixel_mm: float, params: Params, generator: torch.Generator) -> Tensor:
    """Return backprojected quantum noise for I0 = 1 and electronic noise for I0^2 = 1, (2, H, W) in HU.

    Args:
        square: (H, W) in HU, of square pixels.
        pixel_mm: Their side.
        params: As :func:`draw_scan` returns them.
        generator: Source of the noise.
    """
    path = ct.line_integrals(square, pixel_mm)
    variances = torch.stack(ray_variances(path, params))
    rays = torch.randn(variances.shape, generator=generator) * variances.sqrt()
    to_hu = 1000 / ct.MU_WATER_PER_MM / pixel_mm
    return Radon(square.shape[0], square.shape[1], ct.VIEWS).filtered_backprojection(rays) * to_hu


def ray_variances(path: Tensor, params: Params) -> tuple[Tensor, Tensor]:
    """Return the variances of quantum noise for I0 = 1 and of electronic noise for I0^2 = 1, each (V, D).

    The tube current follows the most attenuated ray of every view, and rays beyond the path at which detectors
    starve get excess noise.
    """
    quantum, electronic = ct.noise_variances(path, params)
    thickest = path.amax(1, keepdim=True)
    current = torch.exp(float(params["tube_modulation"]) * (thickest - thickest.mean()))
    starved = 1 + float(params["starvation"]) * (path - float(params["starvation_path"])).clamp(min=0)
    return quantum / current * starved**2, electronic / current**2 * starved**2


def noise_power(params: Params, frequency: Tensor) -> Tensor:
    """Return the radial power spectrum (F,) that the noise has in flat tissue, up to a factor.

    Args:
        params: As :func:`draw_scan` returns them.
        frequency: (F,) in cycles per pixel.
    """
    power = _spectrum(params).power(frequency)
    power = power * (1 - float(params["iterative"]) * (1 - _gaussian(frequency, params))) ** 2
    if not _is_regridded(params):
        return power
    scale = float(params["grid_scale"])
    power = power * low_pass(frequency, _grid_limit(scale)) ** 2
    return power * through_grid_power(frequency, scale, is_cubic=bool(params["grid_cubic"]))


def soft_tissue(image: Tensor) -> Tensor:
    """Return where soft tissue is, (H, W) bool; where there is too little of it, the body, or else everything."""
    smooth = gaussian_blur(image[None], 1.5)[0]
    low, high = ct.SOFT_TISSUE_HU
    for found in ((smooth > low) & (smooth < high), image > ct.BODY_HU):
        if int(found.sum()) >= FEWEST_PIXELS:
            return found
    return torch.ones_like(image, dtype=torch.bool)


def _textured(noise: Tensor, square: Tensor, params: Params) -> Tensor:
    """Return noise (2, H, W) with the texture of kernel, iterative reconstruction and grid."""
    height, width = square.shape
    frequency = frequencies(height, width)
    gain = (_spectrum(params).power(frequency) / backprojected_power(height, width)).sqrt()
    gain = gain.clamp(max=float(gain[frequency <= 0.5].max()))  # backprojection leaves little beyond
    scale = float(params["grid_scale"])
    if _is_regridded(params):
        gain = gain * low_pass(frequency, _grid_limit(scale))
    noise = filtered(noise, gain)
    strength = float(params["iterative"])
    if strength > 0:
        fine = noise - filtered(noise, _gaussian(frequency, params))
        noise = noise - strength * _flatness(square, float(params["noise_sd_hu"])) * fine
    if _is_regridded(params):
        turn = float(params["grid_rotation_deg"])
        noise = through_grid(noise, scale, turn, is_cubic=bool(params["grid_cubic"]))
    return noise


def _flatness(square: Tensor, sd_hu: float) -> Tensor:
    """Return 1 in flat tissue and less at edges that stand out of the noise, (H, W)."""
    down, right = torch.gradient(gaussian_blur(square[None], 1.0)[0])
    return 1 / (1 + (down.square() + right.square()) / (EDGE_SD * sd_hu) ** 2)


def _softening(square: Tensor, params: Params) -> Tensor:
    """Return the change (H, W) that a kernel softer than the image makes to the image itself."""
    share, spectrum, own = float(params["softened"]), _spectrum(params), own_cutoff(square)
    cutoff = float(params["kernel_cutoff"])
    if share <= 0 or cutoff >= own:
        return torch.zeros_like(square)
    margin = min(16, min(square.shape) - 1)
    padded = F.pad(square[None, None], [margin] * 4, mode="reflect")[0]
    frequency = frequencies(*padded.shape[1:])
    has = torch.exp(-math.log(10) / 2 * (frequency / own) ** 2)
    lost = 1 - (spectrum.transfer(frequency) / has).clamp(max=1)
    change = -filtered(padded, lost)[0, margin:-margin, margin:-margin]
    limit = SOFTENED_CLIP_SD * float(params["noise_sd_hu"])
    return share * change.clamp(-limit, limit)


def _scaled(parts: Tensor, softened: Tensor, tissue: Tensor, params: Params) -> Tensor:
    """Return the sum of noise and softening (H, W) that has the recorded standard deviation in the tissue."""
    target = float(params["noise_sd_hu"])
    spread = float(softened[tissue].std())
    softened = softened * min(1.0, SOFTENED_SHARE * target / max(spread, 1e-9))
    slices = math.sqrt(float(params["slices_averaged"]))  # one of them has fewer photons, hence more electronic noise
    quantum, electronic = (float(part[tissue].var()) for part in parts)
    photons = ct.photons_for(quantum, electronic, target * slices)
    noise = (parts[0] / math.sqrt(photons) + parts[1] / photons) / slices
    both = torch.stack([noise[tissue], softened[tissue]])
    (own, shared), (_, moved) = torch.cov(both.double()).tolist()
    if own <= 0:
        return softened
    factor: float = (math.sqrt(shared**2 - own * (moved - target**2)) - shared) / own
    return factor * noise + softened


def _spectrum(params: Params) -> NoiseSpectrum:
    return NoiseSpectrum.of(*(float(params[f"kernel_{name}"]) for name in ("peak", "cutoff", "rise")))


def _gaussian(frequency: Tensor, params: Params) -> Tensor:
    return torch.exp(-2 * (math.pi * float(params["iterative_sigma_px"]) * frequency) ** 2)


def _is_regridded(params: Params) -> bool:
    return float(params["grid_scale"]) != 1 or float(params["grid_rotation_deg"]) != 0


def _grid_limit(scale: float) -> float:
    """Return the highest frequency that the coarser of both grids holds."""
    return 0.75 if scale >= 1 else 0.5 * scale


def _resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return images (B, H, W) on a grid of another size over the same field."""
    if tuple(images.shape[1:]) == tuple(size):
        return images
    return F.interpolate(images[:, None], size=size, mode="bilinear", antialias=True)[:, 0]


SCANNER = Scanner(
    draw=draw_scan,
    method=scan,
    limits={
        "dose_fraction": (0.001, 1.0),
        "noise_sd_hu": (0.0, 2000.0),
        "kernel_peak": (0.01, 0.6),
        "kernel_cutoff": (0.012, 2.0),
        "kernel_rise": (0.1, 10.0),
        "slices_averaged": (1, 100),
        "grid_scale": (0.2, 4.0),
    },
)
"""The method ``scanner`` of low-dose CT."""
