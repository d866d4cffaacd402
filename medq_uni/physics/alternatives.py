"""A second, independent way of simulating each degradation: a test of what happens when the simulation shifts.

TorchIO (Perez-Garcia et al. 2021) where it has one; it comes with ``pip install "medq-uni[torchio]"``. The parameters
and seeds are ours, so a record replays without any global random state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.physics import ct, mri, pet
from medq_uni.physics.operators import Cartesian, FanBeam, from_k_space, gaussian_blur
from medq_uni.physics.record import Parameter
from medq_uni.taxonomy import Task

Params = dict[str, Parameter]
SOURCE_MM = 595.0
"""Distance from the X-ray source to the center of rotation."""
FAN_VIEWS = 360
LINEAR_COUNTS = 8.0
"""How many more counts a linear reconstruction gets, so that the grades stay comparable."""
ELECTRONIC_FLOOR = 1.0
"""Fewest counts whose logarithm is taken."""


def ct_counts(image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return a CT slice with noise from counted photons of a fan-beam scanner.

    The full scan counts Poisson(I0 exp(-p)) photons, the low-dose scan is its binomial thinning; both get electronic
    noise and the logarithm, and the difference of their filtered backprojections is added to the image. Unlike the
    default, noise is neither Gaussian nor unbiased where photons are few. I0 is chosen as in the default.

    Args:
        image: (H, W) in HU.
        params: As :func:`medq_uni.physics.ct.draw_low_dose` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of the counts.
    """
    pixel = sum(spacing_mm) / 2
    source = max(SOURCE_MM / pixel, 0.7 * math.hypot(*image.shape) + 4)
    fan = FanBeam(image.shape[0], image.shape[1], FAN_VIEWS, source)
    attenuation, scale = ct.coarse_attenuation(image.clamp(*ct.HU_RANGE))
    coarse = FanBeam(attenuation.shape[-2], attenuation.shape[-1], FAN_VIEWS, source * scale)
    sinogram = coarse.forward(attenuation)[0] * (pixel / scale)
    place = fan.gamma(image) / coarse.step + (coarse.num_detectors - 1) / 2
    path = ct.resample_detectors(sinogram, place).clamp(0, 12)
    to_hu = 1000 / ct.MU_WATER_PER_MM / pixel
    exposed = ct.expose(image, path, params, lambda rays: fan.filtered_backprojection(rays) * to_hu, generator)
    dose, readout = float(params["dose_fraction"]), float(params["electronic_counts"])
    full = torch.poisson(exposed.photons * torch.exp(-path), generator=generator)
    low = torch.binomial(full, torch.full_like(full, dose), generator=generator)
    counts = torch.stack([full, low]) + readout * torch.randn(2, *path.shape, generator=generator)
    logs = -torch.log(counts.clamp(min=ELECTRONIC_FLOOR) / torch.tensor([1.0, dose])[:, None, None])
    return ct.add_in_range(image, fan.filtered_backprojection((logs[1] - logs[0])[None])[0] * to_hu)


def mr_equispaced(image: Tensor, *, params: Params, generator: torch.Generator) -> Tensor:
    """Return the zero-filled image of an acquisition that keeps every R-th line and the center, (H, W) complex.

    Args:
        image: (H, W) magnitude, or complex.
        params: As :func:`medq_uni.physics.mri.draw_undersampling` returns them.
        generator: Source of the offset and the object's phase.
    """
    axis, acceleration = int(params["phase_axis"]), int(params["acceleration"])
    turned = image if axis == 1 else image.T
    lines = turned.shape[1]
    offset = int(torch.randint(acceleration, (1,), generator=generator))
    half = max(1, round(lines * float(params["center_fraction"]) / 2))
    place = torch.arange(lines)
    mask = ((place % acceleration == offset) | ((place - lines // 2).abs() <= half)).float()
    phase = mri.smooth_phase(turned.shape[0], lines, float(params["phase_strength"]), generator)
    restored = from_k_space(Cartesian(mask, phase).forward(turned))
    return restored if axis == 1 else restored.T


def torchio_motion(image: Tensor, *, params: Params, aspect: float, generator: torch.Generator) -> Tensor:
    """Return the image with TorchIO's motion artifact (Shaw et al. 2019), (H, W).

    Args:
        image: (H, W) magnitude.
        params: As :func:`medq_uni.physics.mri.draw_motion` returns them; poses beyond ten change nothing more.
        aspect: Row spacing over column spacing.
        generator: Source of poses and times.
    """
    count = min(int(params["num_poses"]), 10)
    sizes = (float(params["rotation_deg"]), float(params["translation_px"]))
    degrees, translation = np.zeros((count, 3)), np.zeros((count, 3))
    degrees[:, 0] = sizes[0] * torch.randn(count, generator=generator).numpy()
    translation[:, 1:] = sizes[1] * torch.randn(count, 2, generator=generator).numpy()
    times = np.sort(torch.rand(count, generator=generator).numpy())
    transform = _torchio().Motion(degrees, translation, times, "linear")
    return _in_torchio(image, int(params["phase_axis"]), aspect, transform)


def torchio_ghosting(image: Tensor, *, params: Params, aspect: float, generator: torch.Generator) -> Tensor:
    """Return the image with TorchIO's periodic ghosts, (H, W); the larger the movement, the stronger they are.

    Args:
        image: (H, W) magnitude.
        params: As :func:`medq_uni.physics.mri.draw_motion` returns them.
        aspect: Row spacing over column spacing.
        generator: Source of the number of ghosts.
    """
    ghosts = 2 + int(torch.randint(7, (1,), generator=generator))
    intensity = 1 - math.exp(-0.35 * float(params["translation_px"]))
    transform = _torchio().Ghosting(ghosts, 2, intensity, 0.02)
    return _in_torchio(image, int(params["phase_axis"]), aspect, transform)


def torchio_noise(image: Tensor, *, params: Params, generator: torch.Generator) -> Tensor:
    """Return the image with TorchIO's additive Gaussian noise, (H, W): without the Rician floor of magnitudes.

    Args:
        image: (H, W) magnitude.
        params: As :func:`medq_uni.physics.mri.draw_noise` returns them.
        generator: Source of the seed.
    """
    sigma = float(params["sigma_fraction"]) * float(torch.quantile(image.abs(), 0.995))
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    return _in_torchio(image, 1, 1.0, _torchio().Noise(0.0, sigma, seed)).clamp(min=0)


def pet_independent(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return a PET slice with noise of an independent low-count scan, reconstructed by filtered backprojection.

    Unlike the default, the low-count scan shares no coincidence with the full one, randoms are subtracted, and the
    reconstruction is linear, so that noise spreads in streaks over the whole image.

    Args:
        image: (H, W), not negative.
        params: As :func:`medq_uni.physics.pet.draw_low_count` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of the counts.
    """
    coarse, pixel_mm = pet.on_grid(image, spacing_mm)
    scanner = pet.Scanner(coarse, pixel_mm)
    expected, gain, randoms = scanner.exposure(coarse, LINEAR_COUNTS * float(params["counts_per_pixel"]))
    scale = gain / float(params["dose_reduction"])
    counts = torch.poisson(scale * expected + randoms * scale / gain, generator=generator)
    error = (counts - randoms * scale / gain) / scale - expected
    noise = scanner.radon.filtered_backprojection(error / scanner.attenuation)
    noise = gaussian_blur(noise, pet.sigma_px(pet.POST_FILTER_MM, pixel_mm))
    return (image + F.interpolate(noise[None], size=tuple(image.shape), mode="bicubic")[0, 0]).clamp(min=0)


ALTERNATIVES: dict[Task, dict[str, Callable[..., Tensor]]] = {
    Task.CT_LOW_DOSE: {"counts": ct_counts},
    Task.MR_UNDERSAMPLING: {"equispaced": mr_equispaced},
    Task.MR_MOTION: {"torchio-motion": torchio_motion, "torchio-ghosting": torchio_ghosting},
    Task.MR_NOISE: {"torchio-noise": torchio_noise},
    Task.PET_LOW_COUNT: {"independent": pet_independent},
}
"""The other methods of every task, by the name that a record states."""


@functools.cache
def _torchio() -> ModuleType:
    try:
        import torchio
    except ImportError as error:
        raise MedQError('this method needs TorchIO. Install it: pip install "medq-uni[torchio]"') from error
    return torchio


def _in_torchio(image: Tensor, phase_axis: int, aspect: float, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the image transformed by TorchIO, whose third axis is the phase-encoding one, rotated about its center."""
    turned = image if phase_axis == 1 else image.T
    spacing = (aspect, 1.0) if phase_axis == 1 else (1.0, aspect)
    affine = np.diag([1.0, *spacing, 1.0])
    affine[1:3, 3] = [-spacing[i] * turned.shape[i] / 2 for i in range(2)]
    scalar = _torchio().ScalarImage(tensor=turned[None, None].abs().contiguous(), affine=affine)
    result = transform(scalar).data[0, 0].abs().float()  # type: ignore[attr-defined, arg-type]
    return result if phase_axis == 1 else result.T
