"""Linear operators of imaging, with their adjoints: Fourier, parallel- and fan-beam Radon, Gaussian resolution.

All are plain torch: batched, differentiable, on any device. ``<A x, y> = <x, A* y>`` holds for each pair.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from medq_uni.errors import MedQError

ALL_VIEWS = slice(None)


def to_k_space(image: Tensor) -> Complex[Tensor, "*B H W"]:
    """Return the centered orthonormal 2-D Fourier transform; its adjoint is :func:`from_k_space`."""
    axes = (-2, -1)
    shifted = torch.fft.ifftshift(image, dim=axes)
    k_space: Tensor = torch.fft.fftshift(torch.fft.fft2(shifted, dim=axes, norm="ortho"), dim=axes)
    return k_space


def from_k_space(k_space: Complex[Tensor, "*B H W"]) -> Complex[Tensor, "*B H W"]:
    """Return the inverse (and adjoint) of :func:`to_k_space`."""
    axes = (-2, -1)
    shifted = torch.fft.ifftshift(k_space, dim=axes)
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(shifted, dim=axes, norm="ortho"), dim=axes)
    return image


class Cartesian:
    """Coil-free Cartesian acquisition of an image with a known phase: whole lines of k-space, the others zero.

    Args:
        mask: 1 for acquired samples and 0 for the others; broadcasts to (H, W).
        phase: Of the object in radians, (H, W); None means a real image.
    """

    def __init__(self, mask: Tensor, phase: Tensor | None = None) -> None:
        self.mask, self.phase = mask, phase

    def forward(self, image: Tensor) -> Complex[Tensor, "*B H W"]:
        """Return the acquired k-space of a real or complex image."""
        return to_k_space(image if self.phase is None else image * torch.exp(1j * self.phase)) * self.mask

    def adjoint(self, k_space: Complex[Tensor, "*B H W"]) -> Complex[Tensor, "*B H W"]:
        """Return the zero-filled image, the phase of the object taken out."""
        image = from_k_space(k_space * self.mask)
        return image if self.phase is None else image * torch.exp(-1j * self.phase)


def gaussian_blur(image: Float[Tensor, "B H W"], sigma_px: float) -> Float[Tensor, "B H W"]:
    """Return the image convolved with a Gaussian, zero beyond its edges; self-adjoint.

    Args:
        image: Any values.
        sigma_px: Standard deviation in pixels; 0 returns the image.
    """
    if sigma_px <= 0:
        return image
    radius = max(1, math.ceil(3 * sigma_px))
    place = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (place / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    x = image[:, None]
    x = F.conv2d(x, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(x, kernel.view(1, 1, 1, -1), padding=(0, radius))[:, 0]


class Radon:
    """Parallel-beam Radon transform of an H x W image over 180 degrees, with exact adjoint.

    The sinogram sample at view theta and detector s is the line integral, in pixels, along
    ``x cos(theta) + y sin(theta) = s``. Pixels are split linearly between neighboring detectors
    (pixel-driven), so projection and backprojection are one sparse matrix and its transpose.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        num_views: Number of angles, evenly spread over [0, pi).
    """

    def __init__(self, height: int, width: int, num_views: int) -> None:
        self.height, self.width, self.num_views = height, width, num_views
        self.num_detectors = math.ceil(math.hypot(height, width)) + 3

    def forward(self, image: Float[Tensor, "B H W"], views: slice = ALL_VIEWS) -> Float[Tensor, "B V D"]:
        """Return the sinogram, or some views of it."""
        lower, fraction = self._split(views, image)
        flat = image.flatten(1)
        sinograms = []
        for index, weight in zip(lower, fraction, strict=True):
            sinogram = flat.new_zeros(len(flat), self.num_detectors)
            sinogram = sinogram.index_add(1, index, flat * (1 - weight))
            sinograms.append(sinogram.index_add(1, index + 1, flat * weight))
        return torch.stack(sinograms, dim=1)

    def adjoint(self, sinogram: Float[Tensor, "B V D"], views: slice = ALL_VIEWS) -> Float[Tensor, "B H W"]:
        """Return the backprojection, the exact transpose of :meth:`forward`."""
        lower, fraction = self._split(views, sinogram)
        image = sinogram.new_zeros(len(sinogram), self.height * self.width)
        for view, (index, weight) in enumerate(zip(lower, fraction, strict=True)):
            row = sinogram[:, view]
            image += row.index_select(1, index) * (1 - weight)
            image += row[:, 1:].index_select(1, index) * weight
        return image.reshape(len(sinogram), self.height, self.width)

    def _split(self, views: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        lower, fraction = _geometry(self.height, self.width, self.num_views, self.num_detectors)
        return lower[views].to(like.device), fraction[views].to(like)

    def filtered_backprojection(self, sinogram: Float[Tensor, "B V D"]) -> Float[Tensor, "B H W"]:
        """Return the image whose sinogram this is (Ram-Lak filter; Kak and Slaney 1988, ch. 3)."""
        return self.adjoint(ramp_filtered(sinogram)) * (math.pi / self.num_views)


class FanBeam:
    """Equiangular fan-beam transform of an H x W image over a full turn, with exact adjoint.

    The sample at view beta and detector gamma is the line integral, in pixels, along the ray from the source at
    ``source_px (cos beta, sin beta)`` whose angle with the central ray is gamma. Rays step through rows or columns,
    whichever they cross more of, with linear interpolation (Joseph 1982, IEEE TMI 1:192).

    Args:
        height: Rows of the image.
        width: Columns of the image.
        num_views: Number of source positions, evenly spread over [0, 2 pi).
        source_px: Distance from the source to the center of rotation, in pixels; the image must lie well inside.
        num_detectors: Number of rays; None samples the center as finely as the pixels.

    Raises:
        MedQError: If the source would be inside the image, or too close to it.
    """

    def __init__(
        self, height: int, width: int, num_views: int, source_px: float, num_detectors: int | None = None
    ) -> None:
        radius = math.hypot(height, width) / 2 + 1
        if source_px < 1.1 * radius:
            raise MedQError(
                f"The source is {source_px:.0f} pixels from the center, inside or too close to an image of "
                f"{height} x {width} pixels. It needs at least {1.1 * radius:.0f}."
            )
        self.height, self.width, self.num_views, self.source_px = height, width, num_views, source_px
        half_fan = math.asin(radius / source_px)
        self.num_detectors = num_detectors or 2 * math.ceil(half_fan * source_px) + 1
        self.step = 2 * half_fan / (self.num_detectors - 1)
        """Angle between neighboring rays, in radians."""

    def gamma(self, like: Tensor) -> Float[Tensor, " D"]:
        """Return the angle of every ray with the central one, in radians."""
        place = torch.arange(self.num_detectors, dtype=like.dtype, device=like.device)
        return (place - (self.num_detectors - 1) / 2) * self.step

    def forward(self, image: Float[Tensor, "B H W"]) -> Float[Tensor, "B V D"]:
        """Return the sinogram."""
        flat = image.flatten(1)
        sinogram = flat.new_zeros(len(flat), self.num_views, self.num_detectors)
        for view in range(self.num_views):
            for rays, index, weight in self._rays(view, image):
                sinogram[:, view, rays] = (flat[:, index] * weight).sum(-1)
        return sinogram

    def adjoint(self, sinogram: Float[Tensor, "B V D"]) -> Float[Tensor, "B H W"]:
        """Return the backprojection, the exact transpose of :meth:`forward`."""
        image = sinogram.new_zeros(len(sinogram), self.height * self.width)
        for view in range(self.num_views):
            for rays, index, weight in self._rays(view, sinogram):
                image = image.index_add(1, index.flatten(), (sinogram[:, view, rays, None] * weight).flatten(1))
        return image.reshape(len(sinogram), self.height, self.width)

    def _rays(self, view: int, like: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (rays, flat pixel index (R, N), weight (R, N)) of the steep and of the flat rays of a view."""
        beta = 2 * math.pi * view / self.num_views
        source = (self.source_px * math.cos(beta), self.source_px * math.sin(beta))
        angle = self.gamma(like) + (beta + math.pi)
        direction = (angle.cos(), angle.sin())
        along_x = direction[0].abs() >= direction[1].abs()
        found = []
        for major, rays in ((0, along_x), (1, ~along_x)):
            rays = rays.nonzero()[:, 0]
            counts = (self.width, self.height) if major == 0 else (self.height, self.width)
            steps = torch.arange(counts[0], dtype=like.dtype, device=like.device) - (counts[0] - 1) / 2
            forward, across = direction[major][rays, None], direction[1 - major][rays, None]
            place = source[1 - major] + (steps - source[major]) * (across / forward) + (counts[1] - 1) / 2
            lower = place.floor()
            fraction = place - lower
            index = torch.stack([lower, lower + 1], -1).long()
            weight = torch.stack([1 - fraction, fraction], -1) / forward.abs()[..., None]
            weight = weight * ((index >= 0) & (index < counts[1]))
            index = index.clamp(0, counts[1] - 1)
            column = torch.arange(counts[0], device=like.device)[:, None]
            flat = index * self.width + column if major == 0 else column * self.width + index
            found.append((rays, flat.flatten(1), weight.flatten(1)))
        return found

    def filtered_backprojection(self, sinogram: Float[Tensor, "B V D"]) -> Float[Tensor, "B H W"]:
        """Return the image whose sinogram this is (Kak and Slaney 1988, ch. 3.4.1)."""
        place = _filter_places(self.num_detectors, sinogram)
        odd = -1 / (2 * math.pi**2 * torch.sin(place.clamp(1, self.num_detectors - 1) * self.step) ** 2)
        kernel = torch.where(place % 2 == 1, odd, 0.0)
        kernel[0] = 1 / (8 * self.step**2)
        weighted = sinogram * (self.source_px * self.gamma(sinogram).cos())
        filtered = _filtered(weighted, kernel) * self.step
        y = torch.arange(self.height, dtype=sinogram.dtype, device=sinogram.device)[:, None] - (self.height - 1) / 2
        x = torch.arange(self.width, dtype=sinogram.dtype, device=sinogram.device)[None] - (self.width - 1) / 2
        image = sinogram.new_zeros(len(sinogram), self.height, self.width)
        for view in range(self.num_views):
            beta = 2 * math.pi * view / self.num_views
            depth = self.source_px - (x * math.cos(beta) + y * math.sin(beta))
            side = x * math.sin(beta) - y * math.cos(beta)
            place = torch.atan2(side, depth) / self.step + (self.num_detectors - 1) / 2
            lower = place.floor().clamp(0, self.num_detectors - 2)
            fraction, index = place - lower, lower.long()
            row = filtered[:, view]
            value = row[:, index] * (1 - fraction) + row[:, index + 1] * fraction
            image = image + value / (depth**2 + side**2)
        return image * (2 * math.pi / self.num_views)


def ramp_filtered(sinogram: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Return parallel projections filtered by a ramp up to the Nyquist frequency (Ram-Lak)."""
    place = _filter_places(sinogram.shape[-1], sinogram)
    kernel = torch.where(place % 2 == 1, -1 / (math.pi * place.clamp(min=1)) ** 2, 0.0)
    kernel[0] = 0.25
    return _filtered(sinogram, kernel)


def _filter_places(num_detectors: int, like: Tensor) -> Tensor:
    """Return the distance of every tap of a circular filter from its center, long enough not to wrap around."""
    size = 2 ** math.ceil(math.log2(2 * num_detectors))
    place = torch.arange(size, dtype=like.dtype, device=like.device)
    return torch.minimum(place, size - place)


def _filtered(sinogram: Tensor, kernel: Tensor) -> Tensor:
    """Return the sinogram convolved along its detectors with an even kernel."""
    response = torch.fft.rfft(kernel).real
    spectrum = torch.fft.rfft(sinogram, len(kernel)) * response
    filtered: Tensor = torch.fft.irfft(spectrum, len(kernel))
    return filtered[..., : sinogram.shape[-1]]


@functools.lru_cache(maxsize=8)
def _geometry(height: int, width: int, num_views: int, num_detectors: int) -> tuple[Tensor, Tensor]:
    """Return the lower detector (V, P) and the fraction that goes to the next one."""
    angle = torch.arange(num_views) * (math.pi / num_views)
    y = torch.arange(height) - (height - 1) / 2
    x = torch.arange(width) - (width - 1) / 2
    position = x[None, None, :] * angle.cos()[:, None, None] + y[None, :, None] * angle.sin()[:, None, None]
    position = position.flatten(1) + (num_detectors - 1) / 2
    lower = position.floor()
    return lower.long(), (position - lower).float()
