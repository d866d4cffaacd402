import torch
import torch.nn.functional as F

from medq_uni.baselines.restore_rwkv import FASTEST, SLOWEST, ChannelMix, OmniShift, SpatialMix
from medq_uni.baselines.wkv import MAX_DECAY, wkv


def test_omni_shift_is_the_sum_of_its_branches_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    shift = OmniShift(3)
    x = torch.randn(2, 3, 6, 7)
    own, *factors = shift.factors
    branches = own * x
    for factor, kernel in zip(factors, shift.kernels, strict=True):
        branches = branches + factor * F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=3)
    torch.testing.assert_close(shift(x), branches)
    up = torch.randn_like(x)
    expected = torch.autograd.grad((branches * up).sum(), list(shift.parameters()))
    found = torch.autograd.grad((shift(x) * up).sum(), list(shift.parameters()))
    torch.testing.assert_close(found, expected)


def test_attention_passes_along_rows_and_then_along_columns() -> None:
    torch.manual_seed(0)
    mix = SpatialMix(4)
    x = torch.randn(2, 4, 3, 5)
    r, k, v = mix.receptance_key_value(mix.shift(x)).chunk(3, dim=1)
    decay = MAX_DECAY * mix.decay.sigmoid()
    rows = wkv(k.flatten(2), v.flatten(2), decay[0], mix.bonus[0]).view(2, 4, 3, 5)
    turned = wkv(k.mT.flatten(2), rows.mT.flatten(2), decay[1], mix.bonus[1]).view(2, 4, 5, 3)
    torch.testing.assert_close(mix(x), mix.project(r.sigmoid() * turned.mT))


def test_decays_start_spread_between_their_bounds() -> None:
    decay = MAX_DECAY * SpatialMix(6).decay.sigmoid()
    torch.testing.assert_close(decay[:, 0], torch.full((2,), SLOWEST))
    torch.testing.assert_close(decay[:, -1], torch.full((2,), FASTEST))
    assert (decay.diff(dim=1) > 0).all()


def test_one_pixel_reaches_the_opposite_corner() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 16, 16, requires_grad=True)
    SpatialMix(4)(x)[0, :, -1, -1].sum().backward()
    assert x.grad is not None
    assert (x.grad[0, :, 0, 0] != 0).any()


def test_channel_mix_looks_no_further_than_the_shift() -> None:
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    ChannelMix(4)(x)[0, :, 4, 4].sum().backward()
    assert x.grad is not None
    touched = (x.grad[0] != 0).any(0)
    assert touched[2:7, 2:7].all()
    assert touched.sum() == 25
