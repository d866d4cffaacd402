"""Undersampling as MR scanners make it: masks, coils, zero filling or SENSE, partial Fourier, interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from medq_uni.physics.mr_fields import Coils, coordinates, white_noise
from medq_uni.physics.mr_sampling import Mask, equispaced_mask, line_mask, poisson_disc_mask
from medq_uni.physics.mr_scanner import (
    CHAIN_LIMITS,
    Chain,
    Combination,
    chance,
    developed,
    draw_chain,
    partial_weights,
    partially_sampled,
    scene_of,
    uniform,
    with_extras,
)
from medq_uni.physics.record import Params
from medq_uni.physics.spec import Scanner
from medq_uni.seeding import randint
from medq_uni.taxonomy import Severity


class Reconstruction(IntEnum):
    """How missing samples are dealt with."""

    ZERO_FILLED = 0
    SENSE = 1
    """A few steps of conjugate gradients with the sensitivities (Pruessmann et al. 2001, MRM 46:638)."""


ACCELERATION = {Severity.MILD: (2, 3), Severity.MODERATE: (3, 6), Severity.SEVERE: (5, 8)}
"""Acceleration factor by grade, both ends included."""
WIDEST_CENTER = {Severity.MILD: 0.18, Severity.MODERATE: 0.12, Severity.SEVERE: 0.08}
"""Largest fraction of the lines that the fully sampled center has, by grade; the smallest is 0.3 of it."""
SENSE_NOISE = {Severity.MILD: (0.004, 0.015), Severity.MODERATE: (0.01, 0.035), Severity.SEVERE: (0.02, 0.07)}
"""Noise of a fully sampled coil as a fraction of the 99.5th percentile, which parallel imaging then amplifies."""
SENSE_ERROR = {Severity.MILD: (0.05, 0.2), Severity.MODERATE: (0.2, 0.5), Severity.SEVERE: (0.4, 0.9)}
"""Relative error of the sensitivities, as of a calibration that does not fit: it leaves some of the aliasing."""
SENSE_COILS = 8
REGULARISATION = 1e-3


def draw_scanner_sampling(severity: Severity, generator: torch.Generator) -> Params:
    """Return mask, acceleration, center, coils, reconstruction with its noise and error, and the chain."""
    chain = draw_chain(generator)
    low, high = ACCELERATION[severity]
    acceleration = low + randint(high - low + 1, generator)
    sense = chance(0.4, generator)
    coils = 4 + randint(SENSE_COILS - 3, generator) if sense else 2 ** randint(6, generator)
    mixed = sense or coils == 1 or chance(0.5, generator)
    if not mixed:
        chain = Chain.of(chain.params() | {"conjugate": 0})
    share = 1.0 if sense else 0.3
    return chain.params() | {
        "acceleration": acceleration,
        "center_fraction": uniform(0.3, 1.0, generator) * WIDEST_CENTER[severity],
        "mask": randint(3, generator),
        "coils": coils,
        "combination": int(Combination.ADAPTIVE if mixed else Combination.SUM_OF_SQUARES),
        "coil_correlation": uniform(0.0, 0.5, generator) if chance(0.6, generator) else 0.0,
        "reconstruction": int(Reconstruction.SENSE if sense else Reconstruction.ZERO_FILLED),
        "iterations": 4 + randint(4, generator) if sense else 0,
        "sensitivity_error": uniform(*SENSE_ERROR[severity], generator) if sense else 0.0,
        "noise_fraction": share * uniform(*SENSE_NOISE[severity], generator),
    }


SAMPLING_LIMITS = {
    **CHAIN_LIMITS,
    "acceleration": (1, 64),
    "center_fraction": (0.0, 1.0),
    "mask": (0, max(Mask)),
    "coils": (1, 64),
    "combination": (0, max(Combination)),
    "coil_correlation": (0.0, 0.95),
    "reconstruction": (0, max(Reconstruction)),
    "iterations": (0, 100),
    "sensitivity_error": (0.0, 5.0),
    "noise_fraction": (0.0, 10.0),
}


def scanner_sampling(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return the image of an undersampled acquisition with coils, reconstructed and interpolated as scanners do.

    Args:
        image: (H, W) magnitude, or complex.
        params: As :func:`draw_scanner_sampling` returns them; what they do not name changes nothing.
        spacing_mm: Pixel spacing (row, column), which does not matter here.
        generator: Source of mask, coils, noise, phase and shading.

    Returns:
        (H, W): complex of adaptively combined coils; not negative, without a phase, of sums of squares.
    """
    chain = Chain.of(params)
    coils = Coils(int(params.get("coils", 1)), float(params.get("coil_correlation", 0.0)), generator)
    scene = scene_of(image, chain, generator)
    matrix = (scene.small.shape[0], scene.small.shape[1])
    mask = sampling_mask(matrix, chain, params, generator).to(image.device)
    maps = coils.sensitivities(*matrix, scene.small)
    fourier = _Fourier(mask, chain.phase_axis)
    measured = fourier.forward(maps * (scene.small / scene.correction))
    amplitude = float(params.get("noise_fraction", 0.0)) * scene.peak
    if amplitude > 0:
        measured = measured + amplitude * fourier.mask * coils.noise(*matrix, generator, scene.small)
    summed = params.get("combination", Combination.ADAPTIVE) == Combination.SUM_OF_SQUARES
    if summed:
        made = partially_sampled(fourier.adjoint(measured), chain).abs().square().sum(0).sqrt()
    else:
        if params.get("reconstruction", 0) == Reconstruction.SENSE:
            made = _sense(measured, maps, fourier, params, generator)
        else:
            made = (maps.conj() * fourier.adjoint(measured)).sum(0)
        made = partially_sampled(made, chain)
    made = with_extras(made * scene.correction + 0j, chain, scene.peak, generator)
    if not summed:
        return developed(scene, chain, scene.small, made)
    return developed(scene, chain, scene.small.abs(), made.abs(), scene.base.abs()).abs()


def sampling_mask(matrix: tuple[int, int], chain: Chain, params: Params, generator: torch.Generator) -> Tensor:
    """Return 1 for acquired samples and 0 for the others; broadcasts to the matrix (h, w)."""
    acceleration, center = int(params.get("acceleration", 1)), float(params.get("center_fraction", 0.08))
    lines = matrix[chain.phase_axis]
    kind = int(params.get("mask", Mask.GAUSSIAN))
    if acceleration <= 1:
        mask = torch.ones(1, 1)
    elif kind == Mask.POISSON_DISC:
        mask = poisson_disc_mask(*matrix, acceleration, center, generator)
    else:
        along = (line_mask if kind == Mask.GAUSSIAN else equispaced_mask)(lines, acceleration, center, generator)
        mask = along[:, None] if chain.phase_axis == 0 else along[None]
    partial = partial_weights(chain, matrix, mask)
    return mask if partial is None else mask * (partial > 0)


@dataclass(frozen=True)
class _Fourier:
    """Masked Fourier transform; where whole lines are skipped, along the phase encoding alone, which is faster."""

    mask: Tensor
    phase_axis: int

    @property
    def axes(self) -> tuple[int, ...]:
        return (-2, -1) if min(self.mask.shape) > 1 else (self.phase_axis - 2,)

    def forward(self, images: Tensor) -> Tensor:
        shifted = torch.fft.ifftshift(images, dim=self.axes)
        k_space: Tensor = torch.fft.fftshift(torch.fft.fftn(shifted, dim=self.axes, norm="ortho"), dim=self.axes)
        measured: Tensor = k_space * self.mask
        return measured

    def adjoint(self, k_space: Tensor) -> Tensor:
        shifted = torch.fft.ifftshift(k_space * self.mask, dim=self.axes)
        images: Tensor = torch.fft.fftshift(torch.fft.ifftn(shifted, dim=self.axes, norm="ortho"), dim=self.axes)
        return images


def _sense(measured: Tensor, maps: Tensor, fourier: _Fourier, params: Params, generator: torch.Generator) -> Tensor:
    """Return the image (h, w) after some steps of conjugate gradients, with sensitivities that are not quite right."""
    known = _misjudged(maps, float(params.get("sensitivity_error", 0.0)), generator)

    def normal(image: Tensor) -> Tensor:
        return (known.conj() * fourier.adjoint(fourier.forward(known * image))).sum(0) + REGULARISATION * image

    return conjugate_gradients(normal, (known.conj() * fourier.adjoint(measured)).sum(0), int(params["iterations"]))


def conjugate_gradients(normal: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Return the solution of ``normal(x) = right`` after some steps from zero.

    Args:
        normal: Self-adjoint, positive definite operator on complex images.
        right: Right-hand side, complex.
        iterations: Number of steps.
    """
    solution, residual = torch.zeros_like(right), right
    direction, energy = residual, residual.abs().square().sum()
    for _ in range(iterations):
        applied = normal(direction)
        step = energy / (direction.conj() * applied).real.sum().clamp(min=1e-20)
        solution, residual = solution + step * direction, residual - step * applied
        before, energy = energy, residual.abs().square().sum()
        direction = residual + (energy / before.clamp(min=1e-20)) * direction
    return solution


def _misjudged(maps: Tensor, error: float, generator: torch.Generator) -> Tensor:
    """Return sensitivities with a smooth relative error of every coil, (C, h, w), and the sum of squares 1."""
    wave = torch.randn(3, len(maps), generator=generator)
    amplitude = white_noise((len(maps), 1, 1), generator, maps) / math.sqrt(2)
    if error == 0:
        return maps
    y, x = coordinates(maps.shape[-2], maps.shape[-1], maps)
    across, along, start = (math.pi * wave.to(maps.device))[..., None, None]
    wrong = maps * (1 + error * amplitude * torch.cos(across * y + along * x + start))
    return wrong / wrong.abs().square().sum(0).sqrt().clamp(min=1e-6)


SAMPLING_SCANNER = Scanner(draw_scanner_sampling, scanner_sampling, SAMPLING_LIMITS)
