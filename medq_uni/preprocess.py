"""MedicalImage <-> network tensor, with an exact inverse.

The network sees two views of a slice, both linear in physical units and both in [-1, 1]: the wide view
holds the whole range, the window view magnifies the part where contrast is subtle. Their merge is the image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from medq_uni.config import ModelConfig, VisionConfig
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage, Units
from medq_uni.scaling import Scaling, reaching, scaling_of
from medq_uni.taxonomy import Modality
from medq_uni.tiles import ALIGN

TILE_SIZE = 256
"""Largest side, in pixels, of what our networks are trained on, and so of a tile."""
PADDED_SIDE = 128
"""Smaller slices are padded to this side by repeating their edge, as in training."""
MOST_VIEW_PIXELS = 14 * 14 * 9 * 1024
"""Pixels of the largest image that the base model's encoder sees."""
MIN_SIDE = 16
"""Smallest side, in pixels, that can be assessed."""


class CannotAssess(MedQError):  # noqa: N818 - the verdict on such an image, in the words of the report
    """The verdict on an image that holds nothing to judge, or is not what the model was made for."""


@dataclass(frozen=True, eq=False)
class Inverse:
    """What :func:`to_image` needs to bring a tensor back to the image that it came from."""

    image: MedicalImage
    scaling: Scaling
    passthrough: np.ndarray
    """bool (Z, Y, X): voxels that come back bit-identical (padding, and values outside the range)."""


def to_tensor(
    image: MedicalImage, *, multiple: int, scaling: Scaling | None = None
) -> tuple[Float[Tensor, "Z 2 H W"], Inverse]:
    """Return the two views of every slice, padded to the token grid, and the record of the way back.

    Args:
        image: Finite voxels with a modality.
        multiple: Height and width are padded (by repeating the edge, at the bottom and right) to multiples
            of this number of pixels, and to at least :data:`PADDED_SIDE`.
        scaling: Network range; by default that of the image itself, reaching to its maximum (see :func:`reaching`).
            Pass that of the degraded image to bring its reference into the same units.

    Raises:
        MedQError: If a voxel is not finite, or see :func:`scaling_of`.
    """
    finite = np.isfinite(image.voxels)
    if not finite.all():
        raise MedQError(f"The image has {int((~finite).sum())} values that are NaN or infinite. Replace them first.")
    scaling = scaling or reaching(scaling_of(image), image)
    outside = (image.voxels < scaling.low) | (image.voxels > scaling.high)
    padding = np.zeros_like(outside) if image.padding is None else image.padding
    values = np.where(padding, np.float32(scaling.low), image.voxels)
    height, width = image.shape[1:]
    pad = (0, padded_side(width, multiple) - width, 0, padded_side(height, multiple) - height)
    views = F.pad(scaling.to_views(torch.from_numpy(values)), pad, mode="replicate")
    return views, Inverse(image=image, scaling=scaling, passthrough=outside | padding)


def padded_side(side: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is at least ``side`` and :data:`PADDED_SIDE`."""
    return -(-max(side, PADDED_SIDE) // multiple) * multiple


def to_image(views: Float[Tensor, "Z 2 H W"], inverse: Inverse) -> MedicalImage:
    """Return the image of network views, in the physical units and geometry of the original."""
    _, height, width = inverse.image.shape
    values = inverse.scaling.from_views(views.detach().float().cpu())[:, :height, :width].numpy()
    values = np.clip(values, inverse.scaling.low, inverse.scaling.high)
    return inverse.image.with_voxels(np.where(inverse.passthrough, inverse.image.voxels, values))


@dataclass(frozen=True)
class Preprocessor:
    """What a network is shown of slices, and the way back to the image.

    Attributes:
        config: Sizes of the network.
        tile_size: Largest side, in pixels, that the assessor sees of a slice; see also :attr:`largest_tile`.
    """

    config: ModelConfig
    tile_size: int = TILE_SIZE

    @property
    def multiple(self) -> int:
        """Sides of what the network reads are multiples of this number of pixels."""
        return self.config.token_pixels

    @property
    def largest_tile(self) -> int:
        """Largest side in pixels that is restored in one piece: an eighth more, so that 512 pixels take two tiles."""
        return min(self.tile_size * 9 // 8 // ALIGN * ALIGN, self.config.max_latent_size * self.config.token_pixels)

    def padded_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to which :meth:`views` pads a slice."""
        return padded_side(height, self.multiple), padded_side(width, self.multiple)

    def views(self, image: MedicalImage, *, scaling: Scaling | None = None) -> tuple[Float[Tensor, "Z 2 H W"], Inverse]:
        """Return both views of every slice, padded to the token grid, and the way back; see :func:`to_tensor`."""
        return to_tensor(image, multiple=self.multiple, scaling=scaling)

    def codec_input(self, views: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C H W"]:
        """Return what the codec encodes, in its own channels."""
        return as_channels(views, channels=self.config.codec.in_channels)

    def vision_input(self, views: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C h w"]:
        """Return what the assessor sees; see :func:`vision_input`."""
        return vision_input(views, self.config.vision, size=self.tile_size)

    def image(
        self, decoded: Float[Tensor, "Z C H W"], inverse: Inverse
    ) -> tuple[MedicalImage, Float[Tensor, "Z 2 H W"]]:
        """Return the image of what the codec decoded, in the units and geometry of the original, and its views."""
        views = as_views(decoded.detach().float().cpu(), inverse.scaling)
        return to_image(views, inverse), views

    def deviation(
        self, spread: Float[Tensor, "Z C H W"], views: Float[Tensor, "Z 2 H W"], inverse: Inverse
    ) -> MedicalImage:
        """Return standard deviations of what the codec decoded in physical units; 0 where voxels pass through.

        Args:
            spread: Standard deviation in the channels of the codec.
            views: What :meth:`image` returned beside the image.
            inverse: The way back.
        """
        _, height, width = inverse.image.shape
        both = spread_as_views(spread.detach().float().cpu(), inverse.scaling)
        sigma = inverse.scaling.spread_from_views(both, views)[:, :height, :width].numpy()
        return inverse.image.with_voxels(np.where(inverse.passthrough, np.float32(0), sigma))


def guess_modality(image: MedicalImage) -> Modality:
    """Return the modality that the intensities suggest, with a warning that says it is a guess.

    Values far below zero mean Hounsfield units; SUV or Bq/ml units mean PET; otherwise MR.
    """
    if image.units in (Units.SUV, Units.BQML):
        guess = Modality.PET
    elif image.units is Units.HU or float(image.voxels.min()) <= -500:
        guess = Modality.CT
    else:
        guess = Modality.MR
    warnings.warn(
        f"The file does not say its modality; guessed {guess.value!r} from the intensities. "
        "Pass modality= (--modality on the command line) to be sure.",
        stacklevel=2,
    )
    return guess


def assessable(image: MedicalImage, *, guess: bool = False) -> MedicalImage:
    """Return the image, with a modality, or say why it cannot be assessed.

    Args:
        image: To be assessed or restored.
        guess: Guess a modality that nothing states from the intensities, with a warning.

    Raises:
        CannotAssess: If it is constant, too small, not finite, its modality is not known, or its values do not fit it.
    """
    inside = image.voxels if image.padding is None else image.voxels[~image.padding]
    finite = np.isfinite(inside)
    if not finite.all():
        raise CannotAssess(f"Cannot assess: {int((~finite).sum())} voxels are NaN or infinite. Replace them first.")
    if min(image.shape[1:]) < MIN_SIDE:
        raise CannotAssess(
            f"Cannot assess: slices are {image.shape[1]} x {image.shape[2]} pixels; "
            f"at least {MIN_SIDE} x {MIN_SIDE} are needed."
        )
    if inside.size == 0 or inside.min() == inside.max():
        raise CannotAssess("Cannot assess: the image is constant, there is nothing to judge.")
    if image.modality is None:
        if not guess:
            raise CannotAssess(
                "Cannot assess: nothing says whether this is CT, MR or PET. Pass modality= when reading it (--modality "
                "on the command line), or have it guessed from the intensities: guess=True (--guess)."
            )
        image = replace(image, modality=guess_modality(image))
    low, high = float(inside.min()), float(inside.max())
    if image.modality is not Modality.CT and low < -0.1 * max(high, 0.0):
        raise CannotAssess(
            f"Cannot assess as {image.modality}: values go down to {low:g}, but magnitude MR and PET "
            "are positive. If this is CT, pass modality='ct' (--modality ct)."
        )
    if image.modality is Modality.CT and low >= 0 and (high <= 1 or image.units is Units.ARBITRARY):
        raise CannotAssess(
            f"Cannot assess as CT: values lie in [{low:g}, {high:g}], not in Hounsfield units. "
            "Rescale the image to HU first."
        )
    return image


def vision_input(views: Float[Tensor, "B 2 H W"], vision: VisionConfig, *, size: int) -> Float[Tensor, "B C h w"]:
    """Return what the vision encoder of a network sees, with sides that are multiples of its patch.

    Args:
        views: Both views of slices.
        vision: Of the network; says whether slices are resized as in the base model, or shown as they are.
        size: Largest side that is shown as it is; see :func:`vision_view`.
    """
    if vision.view_sides is not None:
        shape = view_shape(views.shape[-2], views.shape[-1], vision.view_sides, vision.patch_size)
        seen = F.interpolate(views, size=shape, mode="bicubic", antialias=True).clamp(-1, 1)
    else:
        seen = vision_view(views, size=size)
        height, width = (side // vision.patch_size * vision.patch_size for side in seen.shape[-2:])
        seen = seen[..., :height, :width]
    return as_channels(seen, channels=vision.in_channels)


def view_shape(height: int, width: int, sides: tuple[int, int], patch: int) -> tuple[int, int]:
    """Return the size to which the base model resizes an image for its encoder; proportions are kept.

    The short side becomes at least ``sides[0]``, the long one at most ``sides[1]``, both multiples of the patch. An
    image of more than :data:`MOST_VIEW_PIXELS` shrinks by the ratio of areas, not by its root, as in the original.
    """
    smallest, largest = sides

    def scaled(scale: float) -> tuple[int, int]:
        first, second = (max(patch, round(side * scale / patch) * patch) for side in (height, width))
        return first, second

    scale = max(min(largest / max(height, width), 1.0), smallest / min(height, width))
    shape = scaled(scale)
    if shape[0] * shape[1] > MOST_VIEW_PIXELS:
        scale *= MOST_VIEW_PIXELS / (shape[0] * shape[1])
        shape = scaled(scale)
    if max(shape) > largest:
        shape = scaled(scale * largest / max(shape))
    return shape


def vision_view(views: Float[Tensor, "B 2 H W"], *, size: int) -> Float[Tensor, "B 2 h w"]:
    """Return the central part that the assessor sees, at native resolution, at most ``size`` pixels wide.

    Resampling would change the very noise and blur that are to be judged, so large slices are cropped.
    """
    height, width = views.shape[-2:]
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    return views[..., top : top + size, left : left + size]


def as_channels(views: Float[Tensor, "B 2 H W"], *, channels: int) -> Float[Tensor, "B C H W"]:
    """Return what a network with another number of input channels sees.

    Two channels: both views. Any other number: the wide view repeated, as for networks of natural images.
    """
    if channels == views.shape[1]:
        return views
    return rearrange(views[:, :1].expand(-1, channels, -1, -1), "b c h w -> b c h w")


def as_views(x: Float[Tensor, "B C H W"], scaling: Scaling | Sequence[Scaling]) -> Float[Tensor, "B 2 H W"]:
    """Return both views of what a network wrote; the inverse of :func:`as_channels`.

    Channels that are not the two views are averaged: each is the wide view.

    Args:
        x: Image in the channels of a network.
        scaling: Network range of all samples, or of each.
    """
    if x.shape[1] == 2:
        return x
    if not isinstance(scaling, Scaling):
        return torch.cat([as_views(one, own) for one, own in zip(torch.split(x, 1), scaling, strict=True)])
    wide = x.mean(1)
    return scaling.to_views(scaling.from_wide(wide))


def spread_as_views(spread: Float[Tensor, "B C H W"], scaling: Scaling) -> Float[Tensor, "B 2 H W"]:
    """Return a standard deviation per view; see :func:`as_views`."""
    if spread.shape[1] == 2:
        return spread
    wide = spread.mean(1)
    gain = scaling.wide_span / (scaling.window_high - scaling.window_low)
    return torch.stack([wide, gain * wide], dim=1)
