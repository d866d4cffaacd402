import math

import pytest
import torch

from medq_uni.train.losses import CLEAN_ERROR, flow_loss, pixel_losses, spread_loss, text_loss

VALID = torch.ones(2, 1, 16, 16, dtype=torch.bool)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 2, 16, 16, generator=generator)
    return target, target + 0.2 * torch.randn(2, 2, 16, 16, generator=generator)


def test_doing_nothing_costs_one_and_the_truth_costs_nothing(images: tuple[torch.Tensor, torch.Tensor]):
    target, degraded = images
    nothing = pixel_losses(degraded, target, degraded, VALID)
    perfect = pixel_losses(target, target, degraded, VALID)
    assert float(nothing["l1"]) == pytest.approx(1)
    assert float(nothing["l2"]) == pytest.approx(1)
    assert float(perfect["l1"]) == float(perfect["l2"]) == 0
    assert float(perfect["ssim"]) == pytest.approx(0, abs=1e-5)


def test_pixels_outside_the_slice_do_not_count(images: tuple[torch.Tensor, torch.Tensor]):
    target, degraded = images
    valid = VALID.clone()
    valid[..., 8:] = False
    wrong = degraded.clone()
    wrong[..., 8:] = 99
    assert pixel_losses(wrong, target, degraded, valid)["l1"] == pixel_losses(degraded, target, degraded, valid)["l1"]


def test_clean_inputs_are_divided_by_a_constant():
    target = torch.zeros(2, 2, 16, 16)
    losses = pixel_losses(target + CLEAN_ERROR, target, target, VALID)
    assert float(losses["l1"]) == pytest.approx(1)
    assert float(losses["l2"]) == pytest.approx(1)


def test_the_spread_loss_is_least_at_the_quantile_of_the_error_and_has_bounded_gradients():
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 2, 64, 64)
    image = (0.3 * torch.randn(2, 2, 64, 64, generator=generator)).requires_grad_()
    valid = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    losses = {}
    for spread in (0.2, 0.28, 0.3, 0.32, 0.4):
        log_variance = torch.full_like(target, 2 * math.log(spread), requires_grad=True)
        loss = spread_loss(image, log_variance, target, valid)
        loss.backward()
        assert image.grad is None
        assert float(log_variance.grad.abs().max()) <= 0.5 / target.numel()
        losses[spread] = float(loss.detach())
    assert min(losses, key=losses.__getitem__) == 0.3


def test_the_flow_loss_is_relative():
    target = torch.rand(2, 5, 8) + 1
    assert float(flow_loss(torch.zeros_like(target), target)) == pytest.approx(1)
    assert float(flow_loss(target, target)) == 0


def test_no_labels_cost_nothing():
    assert float(text_loss(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long))) == 0
