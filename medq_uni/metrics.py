"""PSNR and SSIM: the function that is trained with is the function that is reported.

Both take the data range explicitly and compute in the dtype that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr(
    image: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], *, data_range: float | Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return the peak signal-to-noise ratio of each image in dB.

        PSNR = 10 log10(data_range ** 2 / mean((image - reference) ** 2))

    Args:
        image: Images to score.
        reference: True images, same units.
        data_range: Difference between the largest and smallest value that the scale allows,
            for example 400 for HU in [-160, 240]; one for all images, or one for each. It has no default: two
            ranges shift the same images by many dB.

    Returns:
        One value per image; infinite where the images are equal.
    """
    mse = (image - reference).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / mse)


def ssim(
    image: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], *, data_range: float
) -> Float[Tensor, " B"]:
    """Return the mean structural similarity of each image, in [-1, 1].

    Wang et al. 2004: Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance.
    Windows that would leave the image are not used, as in scikit-image; images smaller than the window use
    the largest odd window that fits.

    Args:
        image: Images to score.
        reference: True images, same units.
        data_range: See :func:`psnr`.
    """
    return ssim_maps(image, reference, data_ranges=(data_range,))[0].mean(dim=(1, 2, 3))


def ssim_maps(
    image: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], *, data_ranges: Sequence[float | Tensor]
) -> list[Float[Tensor, "B C h w"]]:
    """Return the structural similarity of each window, at the place of its middle, for several data ranges.

    A map is smaller than the image by half a window (``SSIM_WINDOW // 2`` pixels, less in images smaller than the
    window) on every side; :func:`ssim` is its mean. All come from the same local means and variances.

    Args:
        image: Images to score.
        reference: True images, same units.
        data_ranges: Each one for all images, or a tensor (B, 1, 1, 1) with one for each.
    """
    with torch.autocast(image.device.type, enabled=False):  # half precision cannot hold a local variance
        return _ssim_maps(image, reference, data_ranges)


def _ssim_maps(image: Tensor, reference: Tensor, data_ranges: Sequence[float | Tensor]) -> list[Tensor]:
    size = min(SSIM_WINDOW, *(side - 1 + side % 2 for side in image.shape[-2:]))
    coordinate = torch.arange(size, dtype=image.dtype, device=image.device) - size // 2
    window = torch.exp(-0.5 * (coordinate / SSIM_SIGMA) ** 2)
    window = window / window.sum()

    def smooth(x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.conv2d(x, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean_x, mean_y = smooth(image), smooth(reference)
    var_x = smooth(image.square()) - mean_x.square()
    var_y = smooth(reference.square()) - mean_y.square()
    covariance = smooth(image * reference) - mean_x * mean_y
    product, squares, variances = 2 * mean_x * mean_y, mean_x.square() + mean_y.square(), var_x + var_y
    maps = []
    for data_range in data_ranges:
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        maps.append((product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2)))
    return maps
