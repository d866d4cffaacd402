"""Images as grids of tokens: cutting, putting together, and telling where each token lies."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from medq_uni.errors import MedQError

Offset = tuple[int, int] | Int[Tensor, "B 2"]
"""Row and column, in tokens, of the first token in a larger image: for all samples, or for each."""


class SizeError(MedQError):
    """An image that does not fit the token grid."""


def grid_of(image: Float[Tensor, "B C H W"], size: int) -> tuple[int, int]:
    """Return rows and columns of the patches of an image."""
    return image.shape[-2] // size, image.shape[-1] // size


def patchify(image: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B P N"]:
    """Return square patches, row by row, each flattened in the order (row, column, channel).

    Raises:
        SizeError: If a side is not a multiple of ``size``.
    """
    height, width = image.shape[-2:]
    if height % size or width % size:
        raise SizeError(
            f"an image of {height} x {width} cannot be cut into patches of {size}. "
            f"Pad it to {-(-height // size) * size} x {-(-width // size) * size}."
        )
    return rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)


def unpatchify(patches: Float[Tensor, "B P N"], size: int, rows: int, cols: int) -> Float[Tensor, "B C H W"]:
    """Return the image of ``rows`` x ``cols`` patches; the inverse of :func:`patchify`."""
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", p=size, q=size, h=rows, w=cols)


def grid_ids(
    rows: int, cols: int, side: int, offset: Offset = (0, 0), device: torch.device | None = None
) -> Int[Tensor, "..."]:
    """Return row * side + column of each token, (P,), or (B, P) for one offset per sample.

    Args:
        rows: Height in tokens.
        cols: Width in tokens.
        side: Side of the position table.
        offset: Where the first token lies.
        device: Where the ids are made.

    Raises:
        SizeError: If the grid leaves the table.
    """
    shift = torch.as_tensor(offset).cpu()
    last_row, last_col = int(shift[..., 0].max()) + rows, int(shift[..., 1].max()) + cols
    if last_row > side or last_col > side or int(shift.min()) < 0:
        raise SizeError(
            f"a grid up to row {last_row} and column {last_col} is outside the position table of "
            f"{side} x {side} tokens. Use smaller images or tiles."
        )
    row = torch.arange(rows)[:, None] + shift[..., 0, None, None]
    col = torch.arange(cols)[None, :] + shift[..., 1, None, None]
    return (row * side + col).flatten(-2).to(device)


def sincos_table(side: int, width: int) -> Float[Tensor, "N E"]:
    """Return the 2-D sine and cosine code of a grid of ``side`` x ``side``, row by row.

    The frequencies are 10000 ** (-j / (width / 4)); a coordinate p becomes [sin(p w), cos(p w)], and
    a place [code(column), code(row)] (Dosovitskiy et al. 2021 and He et al. 2022 use the same form).
    """
    quarter = width // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * omega
    code = torch.cat([angle.sin(), angle.cos()], dim=1).float()  # (side, width / 2)
    by_col = code[None, :, :].expand(side, side, -1)
    by_row = code[:, None, :].expand(side, side, -1)
    return torch.cat([by_col, by_row], dim=-1).reshape(side * side, width)
