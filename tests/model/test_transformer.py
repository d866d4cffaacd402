from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from medq_uni.config import SHARED_ATTENTION, ModelConfig, SharingConfig
from medq_uni.model.attention import attention, rotary_angles, rotate
from medq_uni.model.medq import MedQ
from medq_uni.model.transformer import DualExpertTransformer, ExpertPair, KVCache, PerExpert, RMSNorm
from medq_uni.stream import BlockKind, ImageBlock, TextBlock, pack

SWITCHES = ("qkv", "o", "qk_norm", "block_norms", "ffn", "final_norm")


def test_attention_is_softmax_of_scaled_products_with_key_heads_shared_in_a_row() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, a, 5, 8, generator=g) for a in (6, 2, 2))
    bias = torch.where(torch.rand(2, 1, 5, 5, generator=g) > 0.4, 0.0, -torch.inf)
    bias.diagonal(dim1=-2, dim2=-1).zero_()
    wide_k, wide_v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    expected = ((q @ wide_k.mT) / 8**0.5 + bias).softmax(-1) @ wide_v
    torch.testing.assert_close(attention(q, k, v, bias), expected, atol=1e-5, rtol=1e-5)
    low = attention(*(x.bfloat16() for x in (q, k, v, bias)))
    torch.testing.assert_close(low.float(), expected, atol=0.05, rtol=0.05)
    assert attention(q, k, v).shape == (2, 6, 5, 8)


def test_rotation_makes_products_depend_on_distance_only() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=g)

    def product(i: int, j: int) -> torch.Tensor:
        a = rotate(q, *rotary_angles(torch.tensor([[i]]), 16, 1e4))
        b = rotate(k, *rotary_angles(torch.tensor([[j]]), 16, 1e4))
        return (a * b).sum()

    torch.testing.assert_close(product(7, 3), product(104, 100), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(product(0, 0), (q * k).sum())
    assert (product(7, 3) - product(3, 7)).abs() > 1e-3


def test_the_norm_takes_its_statistics_in_full_precision() -> None:
    x = 300 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    norm = RMSNorm(64, 1e-6)
    expected = x / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.half()).dtype is torch.float16  # 300 ** 2 * 64 overflows half precision
    torch.testing.assert_close(norm(x.half()).float(), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("switch", [*SWITCHES, None])
def test_a_sharing_switch_shares_exactly_its_weights(
    switch: str | None, tiny_config: Callable[..., ModelConfig]
) -> None:
    sharing = SharingConfig(**{switch: True}) if switch else SharingConfig()
    transformer = DualExpertTransformer(replace(tiny_config().transformer, sharing=sharing))
    parts = {
        "qkv": ("attention.q.", "attention.k.", "attention.v."),
        "o": ("attention.o.",),
        "qk_norm": ("attention.q_norm.", "attention.k_norm."),
        "block_norms": ("attention_norm.", "ffn_norm."),
        "ffn": ("ffn.",),
        "final_norm": ("norm.",),
    }
    for name, module in transformer.named_modules():
        if isinstance(module, PerExpert):
            tail = name.split(".", 2)[-1] + "." if name.startswith("blocks") else name + "."
            assert (module.ir is None) == (tail in parts.get(switch or "", ())), name


@pytest.mark.parametrize("sharing", [SharingConfig(), SHARED_ATTENTION])
def test_latents_use_the_weights_of_the_ir_expert_and_text_those_of_the_iqa_expert(
    sharing: SharingConfig, tiny_config: Callable[..., ModelConfig], scrambled: Callable[..., MedQ]
) -> None:
    model = scrambled(tiny_config(sharing))
    config, transformer = model.config, model.transformer
    stream = pack([TextBlock(ids=[[1, 2]]), ImageBlock(kind=BlockKind.CLEAN, rows=1, cols=2)], config.tokens)
    g = torch.Generator().manual_seed(0)
    width = config.transformer.hidden_size
    x = ExpertPair(torch.randn(1, 6, width, generator=g), torch.randn(1, 2, width, generator=g))
    with torch.no_grad():
        before = transformer(x, stream)
        for block in transformer.blocks:
            block.ffn.ir.down.weight.mul_(2)
        after = transformer(x, stream)
    # the text comes first and never sees the image
    assert torch.equal(before.iqa[:, :4], after.iqa[:, :4])
    assert not torch.allclose(before.ir, after.ir)


def test_a_part_without_tokens_passes_through_and_the_other_is_unchanged() -> None:
    g = torch.Generator().manual_seed(0)
    module = PerExpert(lambda: torch.nn.Linear(4, 6), False)
    x = torch.randn(2, 3, 4, generator=g)
    empty = x[:, :0]
    for pair, full, expert in ((ExpertPair(x, empty), 0, module.iqa), (ExpertPair(empty, x), 1, module.ir)):
        out = module(pair)
        assert torch.equal(out[full], expert(x))
        assert out[1 - full].shape == (2, 0, 6)
        assert torch.equal(pair.joined(), x)


def test_the_cache_grows_keeps_and_copies(tiny_config: Callable[..., ModelConfig]) -> None:
    config = tiny_config().transformer
    cache = KVCache(config, 2, 3)
    k = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    cache.write(0, k, -k)
    cache.keep(3)
    cache.reserve(4)
    assert cache.capacity >= 7
    keys, values = cache.write(0, 2 * k, k)
    assert torch.equal(keys, torch.cat([k, 2 * k], 2))
    assert torch.equal(values[:, :, :3], -k)
    copy = cache.select(torch.tensor([1, 1, 0]), length=2)
    assert (copy.length, cache.length) == (2, 3)
    copy.keys[0].zero_()
    assert torch.equal(cache.keys[0][:, :, :3], k)
    assert torch.equal(cache.select(torch.tensor([1]), 2).keys[0][:, :, :2], k[1:, :, :2])


def test_a_single_text_is_an_ordinary_causal_language_model(model: MedQ) -> None:
    ids = [[1, 2, 3, 4, 5, 6]]
    longer = [[1, 2, 3, 9, 9, 9]]
    with torch.no_grad():
        a, b = (model.hidden(pack([TextBlock(ids=x)], model.config.tokens), _nothing()).iqa for x in (ids, longer))
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4], b[:, 4])


def _nothing() -> object:
    from medq_uni.model.medq import StreamInputs

    return StreamInputs()


def test_masked_scores_do_not_leak_in_low_precision() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 4, 8, generator=g).bfloat16() for _ in range(3))
    bias = torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)
    bias[..., 3] = -torch.inf
    changed = v.clone()
    changed[:, :, 3] = 1e6
    assert torch.equal(attention(q, k, v, bias)[..., :3, :], attention(q, k, changed, bias)[..., :3, :])
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias.float())
    torch.testing.assert_close(attention(q, k, v, bias).float(), expected, atol=0.05, rtol=0.05)
