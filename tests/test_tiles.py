import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.tiles import ALIGN, OVERLAP, blend, tile_grid

sides = st.integers(1, 30).map(lambda n: 16 * n)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), sides, sides, st.sampled_from([128, 256]))
def test_blending_the_cuts_gives_the_volume_back(slices: int, height: int, width: int, size: int):
    volume = torch.rand(slices, 2, height, width, generator=torch.Generator().manual_seed(height))
    tiles = tile_grid(volume.shape, size=size)
    assert torch.allclose(blend([tile.cut(volume) for tile in tiles], tiles, volume.shape), volume, atol=1e-5)
    assert all(tile.top % ALIGN == tile.left % ALIGN == 0 for tile in tiles)
    assert len({(tile.height, tile.width) for tile in tiles}) == 1
    assert len({tile.key for tile in tiles}) == len(tiles)


def test_neighbors_overlap():
    tiles = [tile for tile in tile_grid((1, 2, 256, 512), size=256)]
    lefts = sorted({tile.left for tile in tiles})
    assert len(lefts) == 3
    assert all(b - a <= tiles[0].width - OVERLAP for a, b in zip(lefts, lefts[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(sides, st.sampled_from([128, 256, 288]))
def test_tiles_are_no_larger_than_their_number_needs(length: int, size: int):
    tiles = tile_grid((1, 2, 16, length), size=size)
    assert all(tile.width <= size for tile in tiles)
    if len(tiles) > 1:
        needed = (length + (len(tiles) - 1) * OVERLAP) / len(tiles)
        assert needed <= tiles[0].width < needed + ALIGN
        assert len(tiles) == math.ceil((length - OVERLAP) / (size - OVERLAP))


def test_a_slice_of_512_pixels_takes_four_tiles():
    tiles = tile_grid((1, 2, 512, 512), size=256 + OVERLAP)
    assert [(tile.top, tile.left, tile.height, tile.width) for tile in tiles] == [
        (top, left, 272, 272) for top in (0, 240) for left in (0, 240)
    ]
