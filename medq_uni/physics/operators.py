"""Linear operators of imaging, with their adjoints: Fourier, Radon, Gaussian resolution.

All are plain torch: batched, differentiable, on any device. ``<A x, y> = <x, A* y>`` holds for each pair.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

ALL_VIEWS = slice(None)


def to_k_space(image: Tensor) -> Complex[Tensor, "*B H W"]:
    """Return the centered orthonormal 2-D Fourier transform; its adjoint is :func:`from_k_space`."""
    axes = (-2, -1)
    shifted = torch.fft.ifftshift(image, dim=axes)
    return torch.fft.fftshift(torch.fft.fft2(shifted, dim=axes, norm="ortho"), dim=axes)


def from_k_space(k_space: Complex[Tensor, "*B H W"]) -> Complex[Tensor, "*B H W"]:
    """Return the inverse (and adjoint) of :func:`to_k_space`."""
    axes = (-2, -1)
    shifted = torch.fft.ifftshift(k_space, dim=axes)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, dim=axes, norm="ortho"), dim=axes)


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
            image = image + row[:, index] * (1 - weight) + row[:, index + 1] * weight
        return image.unflatten(1, (self.height, self.width))

    def _split(self, views: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        lower, fraction = _geometry(self.height, self.width, self.num_views, self.num_detectors)
        return lower[views].to(like.device), fraction[views].to(like)

    def filtered_backprojection(self, sinogram: Float[Tensor, "B V D"]) -> Float[Tensor, "B H W"]:
        """Return the image whose sinogram this is (Ram-Lak filter; Kak and Slaney 1988, ch. 3)."""
        size = 2 ** math.ceil(math.log2(2 * self.num_detectors))
        place = torch.arange(size, dtype=sinogram.dtype, device=sinogram.device)
        place = torch.minimum(place, size - place)
        kernel = torch.where(place % 2 == 1, -1 / (math.pi * place.clamp(min=1)) ** 2, 0.0)
        kernel[0] = 0.25
        response = torch.fft.rfft(kernel).real
        filtered = torch.fft.irfft(torch.fft.rfft(sinogram, size) * response, size)
        return self.adjoint(filtered[..., : self.num_detectors]) * (math.pi / self.num_views)


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
