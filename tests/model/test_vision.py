from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.config import VisionConfig
from medq_uni.model.grid import SizeError, grid_ids, patchify, sincos_table, unpatchify
from medq_uni.model.vision import VisionEncoder

LINEAR = VisionConfig(
    in_channels=2,
    patch_size=4,
    hidden_size=12,
    intermediate_size=16,
    num_layers=1,
    num_heads=2,
    max_patches_per_side=6,
)
STEM = replace(LINEAR, stem_channels=(3, 5))


@pytest.mark.parametrize("config", [LINEAR, STEM])
def test_one_token_per_patch_row_by_row(config: VisionConfig) -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(config)
    assert encoder(torch.randn(2, 2, 8, 20)).shape == (2, 10, 12)


def test_the_stem_has_one_stage_per_halving_and_no_linear_embedding() -> None:
    encoder = VisionEncoder(STEM)
    shapes = [tuple(p.shape) for n, p in encoder.named_parameters() if "embed" in n and p.ndim == 4]
    assert shapes == [(3, 2, 3, 3), (5, 3, 3, 3), (12, 5, 1, 1)]


@pytest.mark.parametrize("config", [LINEAR, STEM])
def test_a_changed_patch_changes_its_own_embedding_only_where_kernels_reach(config: VisionConfig) -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(config)
    image = torch.randn(1, 2, 8, 8)
    changed = image.clone()
    changed[:, :, 4:, 4:] += 1
    if config.stem_channels:
        # a norm over the whole image would spread the change everywhere
        outputs = [encoder.embed.stages[0](x) for x in (image, changed)]
        assert torch.equal(outputs[0][..., :2, :2], outputs[1][..., :2, :2])
        return
    a, b = (encoder.embed(patchify(x, 4)) for x in (image, changed))
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.equal(a[:, 3], b[:, 3])


def test_an_offset_takes_the_positions_of_the_larger_image() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(replace(LINEAR, num_layers=0))
    image = torch.randn(2, 2, 16, 16)
    whole = encoder(image).unflatten(1, (4, 4))
    crop = encoder(image[..., 4:12, 8:], (1, 2)).unflatten(1, (2, 2))
    torch.testing.assert_close(crop, whole[:, 1:3, 2:])
    each = encoder(image[..., 4:12, 8:], torch.tensor([[1, 2], [0, 0]])).unflatten(1, (2, 2))
    torch.testing.assert_close(each[0], whole[0, 1:3, 2:])
    assert not torch.allclose(each[1], whole[1, 1:3, 2:])


def test_sizes_that_do_not_fit_are_refused_with_numbers() -> None:
    encoder = VisionEncoder(LINEAR)
    with pytest.raises(SizeError, match="multiples of 4, got"):
        encoder(torch.zeros(1, 2, 8, 9))
    with pytest.raises(SizeError, match="outside the position table of 6 x 6"):
        encoder(torch.zeros(1, 2, 28, 8))
    with pytest.raises(SizeError, match="Pad it to 8 x 12"):
        patchify(torch.zeros(1, 1, 7, 9), 4)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_unpatchify_undoes_patchify(batch: int, rows: int, cols: int, size: int, channels: int) -> None:
    image = torch.arange(float(batch * channels * rows * cols * size**2))
    image = image.reshape(batch, channels, rows * size, cols * size)
    tokens = patchify(image, size)
    assert tokens.shape == (batch, rows * cols, size * size * channels)
    assert torch.equal(unpatchify(tokens, size, rows, cols), image)
    assert torch.equal(tokens[0, 0, :channels], image[0, :, 0, 0])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None)
def test_ids_are_row_times_side_plus_column(rows: int, cols: int, top: int, left: int) -> None:
    ids = grid_ids(rows, cols, 9, (top, left)).reshape(rows, cols)
    assert all(ids[r, c] == (top + r) * 9 + left + c for r in range(rows) for c in range(cols))


def test_the_position_table_codes_the_column_first_and_grows_by_reindexing() -> None:
    small, large = sincos_table(3, 16).reshape(3, 3, 16), sincos_table(5, 16).reshape(5, 5, 16)
    assert torch.equal(small, large[:3, :3])
    assert torch.equal(small[0, 1, :8], small[2, 1, :8])  # same column
    assert torch.equal(small[1, 0, 8:], small[1, 2, 8:])  # same row
    torch.testing.assert_close(small[0, 1, 0], torch.tensor(1.0).sin())
