"""The chain from an object to the image that an MR scanner delivers; every task of MR passes through it.

The acquired matrix is smaller than the image's: the middle of k-space is cut out of the image, the task does there what
it does, and the result is windowed and filled up with zeros. So noise and artifacts have the texture of interpolated
images, and edges ring (Gibbs) as the cut makes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from medq_uni.physics.mr_fields import bias_field, smooth_phase, white_noise
from medq_uni.physics.operators import from_k_space, to_k_space
from medq_uni.physics.record import Params
from medq_uni.seeding import randint

FERMI_WIDTH = 0.06
"""Of the Fermi window's edge, as a fraction of the band."""
PHASE_BAND = 0.12
"""Standard deviation of the Gaussian low-pass that estimates the phase, as a fraction of the band."""
QUANTILE = 0.995
"""Of the magnitude: what amplitudes in records are fractions of."""


class Window(IntEnum):
    """Apodisation of k-space before the image is made."""

    NONE = 0
    FERMI = 1
    HAMMING = 2
    TUKEY = 3


class Combination(IntEnum):
    """How the images of several coils become one."""

    SUM_OF_SQUARES = 0
    """A magnitude, whose noise has the non-central chi distribution."""
    ADAPTIVE = 1
    """Weighted by the sensitivities: complex, its magnitude has the Rician distribution."""


@dataclass(frozen=True)
class Chain:
    """Parameters of the chain that all tasks of MR share; the values here change nothing."""

    interpolation_y: float = 1.0
    """Rows of the image over rows acquired."""
    interpolation_x: float = 1.0
    limits_image: int = 1
    """1: the image is acquired on the smaller matrix too; 0: it was interpolated before, only the change is limited."""
    partial_fourier: float = 1.0
    """Fraction of the lines that is acquired, from one side."""
    conjugate: int = 0
    """1: the missing lines are filled by conjugate symmetry (homodyne); 0: by zeros."""
    phase_axis: int = 1
    """0 where rows are encoded by phase, else 1."""
    window: int = Window.NONE
    window_edge: float = 0.9
    """Where a Fermi window has fallen to half and a Tukey window begins to fall, as a fraction of the band."""
    phase_strength: float = 0.0
    """Of the object's smooth phase, in radians."""
    bias_strength: float = 0.0
    """Logarithm of the largest shading of the receiving coil."""
    bias_left: int = 0
    """1: the image is shaded; 0: the scanner has corrected the shading, which shades the noise instead."""
    spikes: int = 0
    """Number of wrong samples of k-space."""
    spike_amplitude: float = 0.0
    """Of a spike's stripes, as a fraction of the 99.5th percentile."""
    zipper_amplitude: float = 0.0
    """Standard deviation along the line that a radio leaves, as a fraction of the 99.5th percentile."""

    @classmethod
    def of(cls, params: Params) -> Chain:
        """Return the chain of a record's parameters; what they do not name changes nothing."""
        known = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {name: _as(known[name], value) for name, value in params.items() if name in known}
        return cls(**values)

    def params(self) -> Params:
        """Return the chain as parameters of a record."""
        return {name: _as(int if isinstance(value, int) else float, value) for name, value in asdict(self).items()}

    def matrix(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the acquired matrix."""
        return max(2, round(height / self.interpolation_y)), max(2, round(width / self.interpolation_x))


CHAIN_LIMITS: Mapping[str, tuple[float, float]] = {
    "interpolation_y": (1.0, 4.0),
    "interpolation_x": (1.0, 4.0),
    "limits_image": (0, 1),
    "partial_fourier": (0.55, 1.0),
    "conjugate": (0, 1),
    "phase_axis": (0, 1),
    "window": (0, max(Window)),
    "window_edge": (0.0, 1.5),
    "phase_strength": (0.0, 20.0),
    "bias_strength": (0.0, 2.0),
    "bias_left": (0, 1),
    "spikes": (0, 64),
    "spike_amplitude": (0.0, 2.0),
    "zipper_amplitude": (0.0, 2.0),
}


def _as(kind: type, value: float) -> float | int:
    return int(value) if issubclass(kind, int) else float(value)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Return a number drawn uniformly from an interval."""
    return low + (high - low) * float(torch.rand(1, generator=generator))


def chance(probability: float, generator: torch.Generator) -> bool:
    """Return True with a probability."""
    return float(torch.rand(1, generator=generator)) < probability


def draw_chain(generator: torch.Generator) -> Chain:
    """Return a chain drawn far beyond what one scanner does; ``docs/physics.md`` gives ranges and sources."""
    interpolated = chance(0.75, generator)
    factors = [uniform(1.0, 2.0, generator) if interpolated else 1.0 for _ in range(2)]
    partial = uniform(5 / 8, 1.0, generator) if chance(0.3, generator) else 1.0
    window = Window(randint(4, generator)) if chance(0.6, generator) else Window.NONE
    left = chance(0.2, generator)
    spiky, zipped = chance(0.04, generator), chance(0.04, generator)
    return Chain(
        interpolation_y=factors[0],
        interpolation_x=factors[1],
        limits_image=int(chance(0.5, generator)),
        partial_fourier=partial,
        conjugate=randint(2, generator) if partial < 1 else 0,
        phase_axis=randint(2, generator),
        window=window,
        window_edge=uniform(0.75, 1.0, generator) if window is Window.FERMI else uniform(0.3, 0.95, generator),
        phase_strength=uniform(0.2, 1.5, generator),
        bias_strength=uniform(0.0, 0.05 if left else 0.5, generator),
        bias_left=int(left),
        spikes=1 + randint(3, generator) if spiky else 0,
        spike_amplitude=uniform(0.01, 0.05, generator) if spiky else 0.0,
        zipper_amplitude=uniform(0.03, 0.3, generator) if zipped else 0.0,
    )


@dataclass(frozen=True)
class Scene:
    """What lies in the scanner before a task acts on it.

    Attributes:
        base: Image with the phase of the object and the shading that is left, (H, W) complex.
        small: The same, low-passed to the acquired matrix, (h, w) complex.
        correction: What the scanner multiplies the acquired image by against shading, (h, w).
        peak: 99.5th percentile of the magnitude.
    """

    base: Tensor
    small: Tensor
    correction: Tensor
    peak: float


def scene_of(image: Tensor, chain: Chain, generator: torch.Generator) -> Scene:
    """Return what lies in the scanner: an image (H, W), real or complex, with a phase and a shading."""
    height, width = image.shape
    phase = smooth_phase(height, width, chain.phase_strength, generator).to(image.device)
    coefficients = torch.randn(5, generator=generator).to(image.device)
    base = image * torch.polar(torch.ones_like(phase), phase)
    matrix = chain.matrix(height, width)
    correction = torch.ones(matrix, device=image.device)
    if chain.bias_strength > 0 and chain.bias_left:
        base = base * bias_field(height, width, coefficients, chain.bias_strength)
    elif chain.bias_strength > 0:
        correction = 1 / bias_field(*matrix, coefficients, chain.bias_strength)
    peak = float(torch.quantile(image.abs(), QUANTILE))
    return Scene(base, acquired(base, matrix), correction, peak)


def acquired(image: Tensor, matrix: tuple[int, int]) -> Tensor:
    """Return the image low-passed to the middle of its k-space, on that many pixels, (..., h, w); values stay."""
    height, width = image.shape[-2:]
    if (height, width) == matrix:
        return image
    top, left = height // 2 - matrix[0] // 2, width // 2 - matrix[1] // 2
    middle = to_k_space(image)[..., top : top + matrix[0], left : left + matrix[1]]
    return from_k_space(middle) * math.sqrt(matrix[0] * matrix[1] / (height * width))


def filled(small: Tensor, chain: Chain, shape: tuple[int, int]) -> Tensor:
    """Return an acquired image windowed and interpolated by filling its k-space with zeros, (..., H, W) complex."""
    matrix = (small.shape[-2], small.shape[-1])
    weights = window_weights(chain, matrix, small)
    if matrix == shape and weights is None:
        return small
    k_space = to_k_space(small)
    if weights is not None:
        k_space = k_space * weights
    top, left = shape[0] // 2 - matrix[0] // 2, shape[1] // 2 - matrix[1] // 2
    padding = (left, shape[1] - matrix[1] - left, top, shape[0] - matrix[0] - top)
    padded = torch.nn.functional.pad(k_space, padding)
    return from_k_space(padded) * math.sqrt(shape[0] * shape[1] / (matrix[0] * matrix[1]))


def window_weights(chain: Chain, matrix: tuple[int, int], like: Tensor) -> Tensor | None:
    """Return the window over the acquired band, (h, w), on the device of ``like``; None where there is none."""
    y, x = ((torch.arange(n, device=like.device) - n // 2).abs() / max(n / 2, 1) for n in matrix)
    if chain.window == Window.FERMI:
        radius = (y[:, None] ** 2 + x[None] ** 2).sqrt()
        return torch.sigmoid((chain.window_edge - radius) / FERMI_WIDTH)
    if chain.window == Window.HAMMING:
        sides = [0.54 + 0.46 * torch.cos(math.pi * u) for u in (y, x)]
    elif chain.window == Window.TUKEY:
        taper = max(1 - chain.window_edge, 1e-3)
        sides = [0.5 + 0.5 * torch.cos(math.pi * ((u - chain.window_edge) / taper).clamp(0, 1)) for u in (y, x)]
    else:
        return None
    return sides[0][:, None] * sides[1][None]


def partial_weights(chain: Chain, matrix: tuple[int, int], like: Tensor) -> Tensor | None:
    """Return what partial Fourier does to the lines, broadcasting to (h, w); None where all lines are acquired.

    Zero filling keeps the acquired lines. Homodyne reconstruction (Noll et al. 1991, IEEE TMI 10:154) weights them by a
    ramp from 0 to 2 through the part that is acquired on both sides.
    """
    lines = matrix[chain.phase_axis]
    first = lines - math.ceil(chain.partial_fourier * lines)
    if first <= 0:
        return None
    place = torch.arange(lines, device=like.device)
    weights = (place >= first).float()
    if chain.conjugate:
        weights = (1 + (place - lines // 2) / max(lines // 2 - first, 1)).clamp(0, 2)
    return weights[:, None] if chain.phase_axis == 0 else weights[None]


def partially_sampled(small: Tensor, chain: Chain) -> Tensor:
    """Return an acquired image (..., h, w) as partial Fourier makes it, complex."""
    weights = partial_weights(chain, (small.shape[-2], small.shape[-1]), small)
    if weights is None:
        return small
    weighted = from_k_space(to_k_space(small) * weights)
    if not chain.conjugate:
        return weighted
    direction = smooth_direction(small)
    return (weighted * direction.conj()).real * direction


def smooth_direction(image: Tensor) -> Tensor:
    """Return exp(i phase) of the low-passed image (..., h, w): what a scanner takes for the phase."""
    y, x = ((torch.arange(n, device=image.device) - n // 2) / n for n in image.shape[-2:])
    low = torch.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2) / (PHASE_BAND / 2) ** 2)
    smooth = from_k_space(to_k_space(image) * low)
    return torch.polar(torch.ones_like(smooth.real), smooth.angle())


def noise_gain(chain: Chain, matrix: tuple[int, int], like: Tensor) -> float:
    """Return the SD of white noise on the acquired matrix after partial Fourier, window and zero filling."""
    weights = torch.ones(matrix, device=like.device)
    for factor in (window_weights(chain, matrix, like), partial_weights(chain, matrix, like)):
        weights = weights if factor is None else weights * factor
    return float(weights.square().mean().sqrt())


def developed(scene: Scene, chain: Chain, clean: Tensor, changed: Tensor, base: Tensor | None = None) -> Tensor:
    """Return the image (..., H, W) that a scanner delivers where a task has changed the acquired one.

    Args:
        scene: What lay in the scanner.
        chain: How the image is made.
        clean: Acquired image before the change, (..., h, w).
        changed: And after.
        base: Image of the full matrix that ``clean`` is the middle of; by default the scene's.
    """
    base = scene.base if base is None else base
    shape = (base.shape[-2], base.shape[-1])
    return filled(changed, chain, shape) if chain.limits_image else base + filled(changed - clean, chain, shape)


def with_extras(small: Tensor, chain: Chain, peak: float, generator: torch.Generator) -> Tensor:
    """Return an acquired image (h, w) with spikes of k-space and the line of a radio (zipper), where there are any.

    A spike is one wrong sample: stripes over the whole image. A radio of one frequency leaves a noisy line along the
    phase encoding.
    """
    height, width = small.shape[-2:]
    if chain.spikes and chain.spike_amplitude > 0:
        k_space = to_k_space(small)
        for _ in range(chain.spikes):
            row, column = randint(height, generator), randint(width, generator)
            angle = uniform(0.0, 2 * math.pi, generator)
            amplitude = chain.spike_amplitude * peak * math.sqrt(height * width)
            k_space[..., row, column] += complex(math.cos(angle), math.sin(angle)) * amplitude
        small = from_k_space(k_space)
    if chain.zipper_amplitude > 0:
        line = white_noise((small.shape[-1 if chain.phase_axis == 1 else -2],), generator, small)
        line = line * (chain.zipper_amplitude * peak)
        small = small.clone()
        if chain.phase_axis == 1:
            small[..., randint(height, generator), :] += line
        else:
            small[..., :, randint(width, generator)] += line
    return small
