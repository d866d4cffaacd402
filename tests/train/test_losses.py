import pytest
import torch

from medq_uni.train.losses import CLEAN_ERROR, flow_loss, pixel_losses, text_loss, variance_loss

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


def test_the_variance_loss_is_least_where_the_variance_is_the_squared_error():
    target, image = torch.zeros(2, 2, 16, 16), torch.full((2, 2, 16, 16), 0.3, requires_grad=True)
    log_variance = torch.full_like(target, 2 * torch.log(torch.tensor(0.3)).item(), requires_grad=True)
    variance_loss(image, log_variance, target, VALID).backward()
    assert image.grad is None
    assert torch.allclose(log_variance.grad, torch.zeros_like(target), atol=1e-7)
    for shift, sign in ((1.0, 1), (-1.0, -1)):
        moved = (log_variance.detach() + shift).requires_grad_()
        variance_loss(image, moved, target, VALID).backward()
        assert (moved.grad.sign() == sign).all()


def test_the_flow_loss_is_relative():
    target = torch.rand(2, 5, 8) + 1
    assert float(flow_loss(torch.zeros_like(target), target)) == pytest.approx(1)
    assert float(flow_loss(target, target)) == 0


def test_no_labels_cost_nothing():
    assert float(text_loss(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long))) == 0
