"""Artifacts of MR as TorchIO simulates them (Perez-Garcia et al. 2021): alternatives to the ones of :mod:`mri`.

TorchIO comes with ``pip install "medq-uni[torchio]"``. Parameters and seeds are ours, so a record replays without any
global random state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.physics.record import Params
from medq_uni.seeding import randint


def torchio_motion(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return the image with TorchIO's motion artifact (Shaw et al. 2019), (H, W).

    Args:
        image: (H, W) magnitude.
        params: As :func:`medq_uni.physics.mri.draw_motion` returns them; poses beyond ten change nothing more.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of poses and times.
    """
    count = min(int(params["num_poses"]), 10)
    sizes = (float(params["rotation_deg"]), float(params["translation_px"]))
    degrees, translation = np.zeros((count, 3)), np.zeros((count, 3))
    degrees[:, 0] = sizes[0] * torch.randn(count, generator=generator).numpy()
    translation[:, 1:] = sizes[1] * torch.randn(count, 2, generator=generator).numpy()
    times = np.sort(torch.rand(count, generator=generator).numpy())
    transform = _torchio().Motion(degrees, translation, times, "linear")
    return _in_torchio(image, int(params["phase_axis"]), spacing_mm, transform)


def torchio_ghosting(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return the image with TorchIO's periodic ghosts, (H, W); the larger the movement, the stronger they are.

    Args:
        image: (H, W) magnitude.
        params: As :func:`medq_uni.physics.mri.draw_motion` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of the number of ghosts.
    """
    ghosts = 2 + randint(7, generator)
    intensity = 1 - math.exp(-0.35 * float(params["translation_px"]))
    transform = _torchio().Ghosting(ghosts, 2, intensity, 0.02)
    return _in_torchio(image, int(params["phase_axis"]), spacing_mm, transform)


def torchio_noise(image: Tensor, *, params: Params, generator: torch.Generator) -> Tensor:
    """Return the image with TorchIO's additive Gaussian noise, (H, W): without the Rician floor of magnitudes.

    Args:
        image: (H, W) magnitude.
        params: As :func:`medq_uni.physics.mri.draw_noise` returns them.
        generator: Source of the seed.
    """
    sigma = float(params["sigma_fraction"]) * float(torch.quantile(image.abs(), 0.995))
    seed = randint(2**31 - 1, generator)
    return _in_torchio(image, 1, (1.0, 1.0), _torchio().Noise(0.0, sigma, seed)).clamp(min=0)


@functools.cache
def _torchio() -> ModuleType:
    try:
        import torchio
    except ImportError as error:
        raise MedQError('this method needs TorchIO. Install it: pip install "medq-uni[torchio]"') from error
    return torchio


def _in_torchio(
    image: Tensor, phase_axis: int, spacing_mm: tuple[float, float], transform: Callable[[Any], Any]
) -> Tensor:
    """Return the image transformed by TorchIO, whose third axis is the phase-encoding one, rotated about its center."""
    turned = image if phase_axis == 1 else image.T
    aspect = spacing_mm[0] / spacing_mm[1]
    spacing = (aspect, 1.0) if phase_axis == 1 else (1.0, aspect)
    affine = np.diag([1.0, *spacing, 1.0])
    affine[1:3, 3] = [-spacing[i] * turned.shape[i] / 2 for i in range(2)]
    scalar = _torchio().ScalarImage(tensor=turned[None, None].abs().contiguous(), affine=affine)
    result: Tensor = transform(scalar).data[0, 0].abs().float()
    return result if phase_axis == 1 else result.T
