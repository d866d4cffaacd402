import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.baselines.wkv import MAX_DECAY, wkv


def brute_force(k: torch.Tensor, v: torch.Tensor, decay: torch.Tensor, bonus: torch.Tensor) -> torch.Tensor:
    """The formula in float64, one row of T weights for every token."""
    tokens = k.shape[-1]
    place = torch.arange(tokens)
    distance = (place[:, None] - place[None, :]).abs().double() - 1
    log = -distance * decay[:, None, None] / tokens
    own = torch.eye(tokens, dtype=torch.bool)
    log = torch.where(own, bonus[:, None, None], log) + k[:, :, None, :]
    return torch.einsum("bcti,bci->bct", log.softmax(dim=-1), v)


def draw(batch: int, channels: int, tokens: int, *, spread: float = 1.0, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    k = torch.randn(batch, channels, tokens, generator=g) * spread
    v = torch.randn(batch, channels, tokens, generator=g)
    decay = torch.rand(channels, generator=g) * MAX_DECAY
    decay[0] = MAX_DECAY
    return [k, v, decay, torch.randn(channels, generator=g)]


def compare(arguments: list[torch.Tensor], **tolerance: float) -> None:
    ours = [x.clone().requires_grad_() for x in arguments]
    theirs = [x.double().requires_grad_() for x in arguments]
    found, expected = wkv(*ours), brute_force(*theirs)
    torch.testing.assert_close(found.double(), expected, **tolerance)
    up = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
    found.backward(up)
    expected.backward(up.double())
    for mine, true in zip(ours, theirs, strict=True):
        scale = max(float(true.grad.abs().max()), 1.0)  # a gradient that cancels to zero leaves rounding
        torch.testing.assert_close(mine.grad.double() / scale, true.grad / scale, **tolerance)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 2), channels=st.integers(1, 3), tokens=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_length_follows_the_formula(batch: int, channels: int, tokens: int, seed: int) -> None:
    compare(draw(batch, channels, tokens, seed=seed), rtol=1e-4, atol=1e-5)


def test_thousands_of_tokens_follow_the_formula() -> None:
    compare(draw(1, 2, 3001), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spread", [30.0, 1000.0])
def test_keys_of_any_size_follow_the_formula(spread: float) -> None:
    compare(draw(2, 3, 500, spread=spread), rtol=1e-3, atol=1e-4)


def test_the_most_distant_token_still_counts_at_the_largest_decay() -> None:
    k, v, decay, bonus = draw(1, 1, 4096)
    k[:], k[..., 0], bonus[:] = -200, 0, 0
    found = wkv(k, v, decay, bonus)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, v[..., :1].expand_as(found))


def test_without_decay_and_bonus_it_is_the_softmax_average() -> None:
    k, v, _, _ = draw(1, 2, 4096)
    expected = (k.softmax(-1) * v).sum(-1, keepdim=True).expand_as(v)
    torch.testing.assert_close(wkv(k, v, torch.zeros(2), torch.zeros(2)), expected, rtol=1e-4, atol=1e-5)


def test_an_image_of_256_pixels_a_side_in_float32_is_close_to_float64_sums() -> None:
    k, v, decay, bonus = draw(1, 1, 65536)
    found = wkv(k, v, decay, bonus).double()
    w = decay.double() / 65536
    ahead, behind = (_one_way(k.double(), v.double(), w, flip=flip) for flip in (False, True))
    own = (bonus.double() + k.double()).exp()
    expected = (ahead[0] + behind[0] + own * v) / (ahead[1] + behind[1] + own)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _one_way(k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor, *, flip: bool) -> torch.Tensor:
    """The sums over earlier tokens as cumulative sums in float64, which has the range for them here."""
    if flip:
        return _one_way(k.flip(-1), v.flip(-1), rate, flip=False).flip(-1)
    place = torch.arange(k.shape[-1]).double()
    terms = torch.stack([v, torch.ones_like(v)]) * (k + rate * place).exp()
    earlier = terms.cumsum(-1) - terms
    return earlier * (-rate * (place - 1)).exp()


def test_half_precision_is_summed_in_float32() -> None:
    k, v, decay, bonus = draw(1, 2, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = wkv(k, v, decay, bonus)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wkv(k, v, decay, bonus))
