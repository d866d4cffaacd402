"""Noise as MR scanners make it: from one coil or many, parallel imaging, interpolation, magnitude or real image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medq_uni.physics.mr_fields import Coils, g_factor, white_noise
from medq_uni.physics.mr_scanner import (
    CHAIN_LIMITS,
    Chain,
    Combination,
    Scene,
    chance,
    developed,
    draw_chain,
    noise_gain,
    partially_sampled,
    scene_of,
    smooth_direction,
    uniform,
    with_extras,
)
from medq_uni.physics.record import Params
from medq_uni.physics.spec import Scanner
from medq_uni.seeding import randint
from medq_uni.taxonomy import Severity

NOISE = {Severity.MILD: (0.018, 0.04), Severity.MODERATE: (0.04, 0.085), Severity.SEVERE: (0.085, 0.22)}
"""Standard deviation as a fraction of the 99.5th percentile of the image, by grade, where noise does not shift it."""
BRIGHT = 0.3
"""Bright tissue, whose noise has the standard deviation asked for, begins at this fraction of the 99.5th percentile."""
MOST_COILS = 32
STEPS = 12
"""Of the fixed point that finds the noise of the coils."""


def draw_scanner_noise(severity: Severity, generator: torch.Generator) -> Params:
    """Return the noise SD in bright tissue (fraction of the 99.5th percentile), coils, g-factor and the chain.

    Sums of squares of many coils raise dark tissue, so that their noise is drawn lower.
    """
    chain = draw_chain(generator)
    coils = _drawn_coils(generator)
    combination = Combination(randint(2, generator)) if coils > 1 else Combination.ADAPTIVE
    accelerated = chance(0.5, generator)
    folds = 1 + randint(4, generator) if accelerated else 1
    sigma = uniform(*NOISE[severity], generator)
    if combination is Combination.SUM_OF_SQUARES:
        sigma *= coils**-0.25
        chain = Chain.of(chain.params() | {"conjugate": 0})
    return chain.params() | {
        "sigma_fraction": sigma,
        "coils": coils,
        "combination": int(combination),
        "coil_correlation": uniform(0.0, 0.5, generator) if chance(0.6, generator) else 0.0,
        "g_peak": uniform(1.1, 3.0, generator) if accelerated else 1.0,
        "g_folds": folds,
        "real": int(combination is Combination.ADAPTIVE and chance(0.15, generator)),
    }


NOISE_LIMITS = {
    **CHAIN_LIMITS,
    "sigma_fraction": (0.0, 10.0),
    "coils": (1, 64),
    "combination": (0, max(Combination)),
    "coil_correlation": (0.0, 0.95),
    "g_peak": (1.0, 20.0),
    "g_folds": (1, 16),
    "real": (0, 1),
}


def _drawn_coils(generator: torch.Generator) -> int:
    """Return 1 to 32 coils, every doubling equally likely."""
    return max(1, round(math.pow(MOST_COILS, uniform(0.0, 1.0, generator))))


def scanner_noise(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return the image with noise that went through the chain of a scanner.

    Every coil receives white complex Gaussian noise, correlated between coils and amplified by g-factor and correction
    of shading. Coils are combined, lines filled and windowed, the matrix interpolated. The root mean square, over
    bright tissue, of the final noise's standard deviation is ``sigma_fraction`` of the 99.5th percentile.

    Args:
        image: (H, W) magnitude, or complex.
        params: As :func:`draw_scanner_noise` returns them; what they do not name changes nothing.
        spacing_mm: Pixel spacing (row, column), which does not matter here.
        generator: Source of noise, coils, phase and shading.

    Returns:
        (H, W): complex of adaptively combined coils; not negative, without a phase, of sums of squares and real images.
    """
    chain = Chain.of(params)
    coils = Coils(int(params.get("coils", 1)), float(params.get("coil_correlation", 0.0)), generator)
    scene = scene_of(image, chain, generator)
    amplitude = _amplitude(scene, chain, coils, params)
    if _sums_squares(params):
        return _sum_of_squares(scene, chain, coils, amplitude, generator)
    matrix = (amplitude.shape[0], amplitude.shape[1])
    noise = white_noise(matrix, generator, scene.small) * amplitude * coils.combined_noise(*matrix, scene.small)
    noisy = with_extras(scene.small + noise, chain, scene.peak, generator)
    made = developed(scene, chain, partially_sampled(scene.small, chain), partially_sampled(noisy, chain))
    if not params.get("real", 0):
        return made
    return (made * smooth_direction(made).conj()).real.clamp(min=0)  # what is negative is stored as 0


def _amplitude(scene: Scene, chain: Chain, coils: Coils, params: Params) -> Tensor:
    """Return the SD of the acquired noise of one coil, (h, w), that gives the final one asked for."""
    matrix = (scene.small.shape[0], scene.small.shape[1])
    peak, folds = float(params.get("g_peak", 1.0)), int(params.get("g_folds", 1))
    shape = scene.correction * g_factor(*matrix, peak=peak, folds=folds, phase_axis=chain.phase_axis, like=scene.small)
    final = shape * coils.combined_noise(*matrix, scene.small) * noise_gain(chain, matrix, scene.small)
    signal = scene.small.abs()
    bright = signal >= BRIGHT * scene.peak
    if not bright.any():
        bright = torch.ones_like(bright)
    count = len(coils.width) if _sums_squares(params) else 0
    return shape * _scale(float(params["sigma_fraction"]) * scene.peak, final[bright].square(), signal[bright], count)


def _scale(sigma: float, variance: Tensor, signal: Tensor, coils: int) -> float:
    """Return by what noise of a variance must be multiplied to have the SD ``sigma`` in the image of a signal.

    The magnitude of a sum of squares of n coils varies by (x^2 + n s^2) / (x^2 + 2 n s^2) of the variance s^2 of its
    noise (first order of the square root). One complex channel counts by its noise itself, as the task's default does.

    Args:
        sigma: Standard deviation that is wanted.
        variance: Of the noise before scaling, (n,).
        signal: Of the same pixels, (n,).
        coils: Number of coils whose squares are summed; 0 for a complex image.
    """
    scale = sigma / float(variance.mean().sqrt().clamp(min=1e-12))
    for _ in range(STEPS if coils > 1 and sigma > 0 else 0):
        noise = variance * scale**2
        share = (signal**2 + coils * noise) / (signal**2 + 2 * coils * noise).clamp(min=1e-12)
        scale *= sigma / float((noise * share).mean().sqrt())
    return scale


def _sums_squares(params: Params) -> bool:
    return params.get("combination", Combination.ADAPTIVE) == Combination.SUM_OF_SQUARES


def _sum_of_squares(scene: Scene, chain: Chain, coils: Coils, amplitude: Tensor, generator: torch.Generator) -> Tensor:
    matrix = (amplitude.shape[0], amplitude.shape[1])
    shape = (scene.base.shape[0], scene.base.shape[1])
    clean = coils.sensitivities(*matrix, scene.small) * scene.small
    noisy = clean + coils.noise(*matrix, generator, scene.small) * amplitude
    noisy = with_extras(noisy, chain, scene.peak / len(noisy) ** 0.5, generator)
    base = scene.base if chain.limits_image else coils.sensitivities(*shape, scene.base) * scene.base
    made = developed(scene, chain, partially_sampled(clean, chain), partially_sampled(noisy, chain), base)
    return made.abs().square().sum(0).sqrt()


NOISE_SCANNER = Scanner(draw_scanner_noise, scanner_noise, NOISE_LIMITS)
