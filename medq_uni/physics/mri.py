"""MRI degradations: undersampling, motion and noise, made in k-space or on complex images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medq_uni.physics.mr_fields import smooth_phase
from medq_uni.physics.mr_movement import rotated
from medq_uni.physics.mr_sampling import equispaced_mask, line_mask
from medq_uni.physics.mr_scanner_motion import MOTION_SCANNER
from medq_uni.physics.mr_scanner_noise import NOISE_SCANNER
from medq_uni.physics.mr_scanner_sampling import SAMPLING_SCANNER
from medq_uni.physics.operators import Cartesian, from_k_space, to_k_space
from medq_uni.physics.record import Params
from medq_uni.physics.spec import DataConsistency, EffectScale, Stage, TaskSpec, nrmse, without_spacing
from medq_uni.physics.torchio_mr import torchio_ghosting, torchio_motion, torchio_noise
from medq_uni.seeding import randint
from medq_uni.taxonomy import Severity, Task

ACCELERATION = {Severity.MILD: (2, 4), Severity.MODERATE: (3, 7), Severity.SEVERE: (5, 10)}
"""Acceleration factor by grade, both ends included."""
MOTION = {
    Severity.MILD: (2, 4, 0.5, 1.0),
    Severity.MODERATE: (4, 8, 1.0, 3.0),
    Severity.SEVERE: (10, 16, 3.0, 7.0),
}
"""Fewest and most poses, and the range of their standard deviation in degrees and pixels, by grade."""
NOISE = {Severity.MILD: (0.018, 0.04), Severity.MODERATE: (0.04, 0.085), Severity.SEVERE: (0.08, 0.20)}
"""Noise standard deviation as a fraction of the 99.5th percentile of the image, by grade."""


def draw_undersampling(severity: Severity, generator: torch.Generator) -> Params:
    """Return acceleration, central fraction, phase-encoding axis and the strength of the object's phase."""
    low, high = ACCELERATION[severity]
    acceleration = int(torch.randint(low, high + 1, (1,), generator=generator))
    return {
        "acceleration": acceleration,
        "center_fraction": 0.08 if acceleration < 8 else 0.04,
        "phase_axis": randint(2, generator),
        "phase_strength": 0.5 + float(torch.rand(1, generator=generator)),
    }


def undersampling(image: Tensor, *, params: Params, generator: torch.Generator) -> Tensor:
    """Return the zero-filled image of a randomly undersampled Cartesian acquisition.

    Whole lines are kept: all of the center, and others without replacement with the density
    exp(-0.5 ((k - W/2) / (W/10))^2) + 1 / (2 R), N / R lines in all (Gaussian 1-D mask). The object gets a smooth
    phase, so that its k-space is not Hermitian.

    Args:
        image: (H, W) magnitude, or complex.
        params: As :func:`draw_undersampling` returns them.
        generator: Source of mask and phase.

    Returns:
        (H, W) complex; the image a scanner shows is its magnitude.
    """
    axis = int(params["phase_axis"])
    turned = image if axis == 1 else image.T
    restored = from_k_space(acquisition(turned.shape, params=params, generator=generator).forward(turned))
    return restored if axis == 1 else restored.T


def acquisition(shape: Sequence[int], *, params: Params, generator: torch.Generator) -> Cartesian:
    """Return the acquisition that :func:`undersampling` simulates: its mask and the phase of the object.

    Args:
        shape: Rows and columns of the image, turned so that phase encoding runs along columns.
        params: As :func:`draw_undersampling` returns them.
        generator: In the state in which :func:`undersampling` got it.
    """
    height, lines = shape
    mask = line_mask(lines, int(params["acceleration"]), float(params["center_fraction"]), generator)
    return Cartesian(mask, smooth_phase(height, lines, float(params["phase_strength"]), generator))


def undersampling_consistency(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> DataConsistency:
    """Return how images agree with the acquired lines: ||M F(x) - y|| / ||y||, the phase of the object being known.

    The sampling is a projection in k-space, so a change parts exactly into what it sees and what not.

    Args:
        image: (H, W) magnitude, the one that was degraded.
        params: As :func:`draw_undersampling` returns them.
        spacing_mm: Pixel spacing (row, column), which does not matter here.
        generator: In the state in which :func:`undersampling` got it.
    """

    def turned(one: Tensor) -> Tensor:
        return one if int(params["phase_axis"]) == 1 else one.T

    scan = acquisition(turned(image).shape, params=params, generator=generator)
    measured = scan.forward(turned(image))

    def misfit(restored: Tensor) -> float:
        residual = scan.forward(turned(restored)) - measured
        return float(residual.abs().square().sum().sqrt() / measured.abs().square().sum().sqrt().clamp(min=1e-12))

    def unseen_share(change: Tensor) -> float | None:
        total = float(change.square().sum())
        if total == 0:
            return None
        return max(0.0, 1 - float(scan.forward(turned(change)).abs().square().sum()) / total)

    return DataConsistency(misfit, unseen_share)


def equispaced(image: Tensor, *, params: Params, generator: torch.Generator) -> Tensor:
    """Return the zero-filled image of an acquisition that keeps every R-th line and the center, (H, W) complex.

    Args:
        image: (H, W) magnitude, or complex.
        params: As :func:`draw_undersampling` returns them.
        generator: Source of the offset and the object's phase.
    """
    axis, acceleration = int(params["phase_axis"]), int(params["acceleration"])
    turned = image if axis == 1 else image.T
    lines = turned.shape[1]
    mask = equispaced_mask(lines, acceleration, float(params["center_fraction"]), generator)
    phase = smooth_phase(turned.shape[0], lines, float(params["phase_strength"]), generator)
    restored = from_k_space(Cartesian(mask, phase).forward(turned))
    return restored if axis == 1 else restored.T


def draw_motion(severity: Severity, generator: torch.Generator) -> Params:
    """Return the number of poses, their size in degrees and pixels, the drift, and the phase-encoding axis."""
    fewest, most, low, high = MOTION[severity]
    size = low + (high - low) * torch.rand(2, generator=generator)
    drift = torch.rand(2, generator=generator) * size * float(torch.rand(1, generator=generator) < 0.5)
    return {
        "num_poses": int(torch.randint(fewest, most + 1, (1,), generator=generator)),
        "rotation_deg": float(size[0]),
        "translation_px": float(size[1]),
        "drift_deg": float(drift[0]),
        "drift_px": float(drift[1]),
        "phase_axis": randint(2, generator),
    }


def motion(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float] = (1.0, 1.0), generator: torch.Generator
) -> Tensor:
    """Return the image of an acquisition during which the object moved rigidly.

    The lines of k-space are acquired in order. The pose jumps between contiguous blocks of lines and drifts slowly
    over the whole scan; every line has its own translation, every block its own rotation. The pose at the center of
    k-space is the reference pose, so the result is registered to the input. Rotation is resampling, translation a
    phase ramp.

    Args:
        image: (H, W) magnitude.
        params: As :func:`draw_motion` returns them.
        spacing_mm: Pixel spacing (row, column); rotation is rigid in millimeters.
        generator: Source of the poses and of the moments at which they change.

    Returns:
        (H, W) complex; the image a scanner shows is its magnitude.
    """
    axis, count = int(params["phase_axis"]), int(params["num_poses"])
    turned = image if axis == 1 else image.T
    height, width = turned.shape
    count = min(count, width - 1)
    cuts = torch.sort(torch.randperm(width - 1, generator=generator)[: count - 1] + 1).values.tolist()
    bounds = [0, *cuts, width]
    degrees = torch.randn(count, generator=generator) * float(params["rotation_deg"])
    shifts = torch.randn(count, 2, generator=generator) * float(params["translation_px"])
    reference = next(i for i in range(count) if bounds[i] <= width // 2 < bounds[i + 1])
    degrees, shifts = degrees - degrees[reference], shifts - shifts[reference]
    drift = (torch.arange(width) - width // 2) * (2 / width)  # -1 to 1 over the scan, 0 at the center of k-space
    frequency = [torch.fft.fftshift(torch.fft.fftfreq(n)) for n in (height, width)]
    aspect = spacing_mm[0] / spacing_mm[1]
    ratio = (height / width) * (aspect if axis == 1 else 1 / aspect)
    k_space = torch.zeros(height, width, dtype=torch.complex64)
    for pose in range(count):
        lines = slice(bounds[pose], bounds[pose + 1])
        block_drift = 0.0 if pose == reference else float(drift[lines].mean()) * float(params.get("drift_deg", 0))
        moved = to_k_space(rotated(turned, float(degrees[pose]) + block_drift, ratio))[:, lines]
        along = shifts[pose] + drift[lines, None] * float(params.get("drift_px", 0))
        ramp = frequency[0][:, None] * along[:, 0] + frequency[1][None, lines] * along[:, 1]
        k_space[:, lines] = moved * torch.exp(-2j * math.pi * ramp)
    restored = from_k_space(k_space)
    return restored if axis == 1 else restored.T


def draw_noise(severity: Severity, generator: torch.Generator) -> Params:
    """Return the noise standard deviation as a fraction of the 99.5th percentile of the image."""
    low, high = NOISE[severity]
    return {"sigma_fraction": low + (high - low) * float(torch.rand(1, generator=generator))}


def noise(image: Tensor, *, params: Params, generator: torch.Generator) -> Tensor:
    """Return the image with complex Gaussian noise, x + n1 + i n2; its magnitude has the Rician distribution.

    Args:
        image: (..., H, W) magnitude, or complex.
        params: As :func:`draw_noise` returns them.
        generator: Source of the noise.

    Returns:
        (..., H, W) complex; the image a scanner shows is its magnitude.
    """
    sigma = float(params["sigma_fraction"]) * float(torch.quantile(image.abs(), 0.995))
    real, imaginary = sigma * torch.randn(2, *image.shape, generator=generator)
    return image + torch.complex(real, imaginary)


SPECS = (
    TaskSpec(
        task=Task.MR_UNDERSAMPLING,
        stage=Stage.SAMPLING,
        draw=draw_undersampling,
        default=without_spacing(undersampling),
        alternatives={"equispaced": without_spacing(equispaced)},
        effect=EffectScale("NRMSE", nrmse, (0.04, 0.15, 0.21)),
        limits={"acceleration": (1, 64)},
        beyond={"acceleration": 16, "center_fraction": 0.03},
        consistency=undersampling_consistency,
        scanner=SAMPLING_SCANNER,
    ),
    TaskSpec(
        task=Task.MR_MOTION,
        stage=Stage.MOVEMENT,
        draw=draw_motion,
        default=motion,
        alternatives={"torchio-motion": torchio_motion, "torchio-ghosting": torchio_ghosting},
        effect=EffectScale("NRMSE", nrmse, (0.02, 0.10, 0.21)),
        limits={"num_poses": (1, 4096)},
        beyond={"num_poses": 24, "rotation_deg": 12.0, "translation_px": 12.0},
        scanner=MOTION_SCANNER,
    ),
    TaskSpec(
        task=Task.MR_NOISE,
        stage=Stage.DETECTION,
        draw=draw_noise,
        default=without_spacing(noise),
        alternatives={"torchio-noise": without_spacing(torchio_noise)},
        effect=EffectScale("NRMSE", nrmse, (0.03, 0.085, 0.17)),
        limits={"sigma_fraction": (0.0, 10.0)},
        beyond={"sigma_fraction": 0.35},
        scanner=NOISE_SCANNER,
    ),
)
