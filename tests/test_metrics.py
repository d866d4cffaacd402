import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medq_uni.metrics import psnr, ssim


@settings(max_examples=20, deadline=None)
@given(st.integers(11, 40), st.integers(11, 40), st.floats(0.5, 500), st.integers(0, 99))
def test_psnr_and_ssim_agree_with_scikit_image(height: int, width: int, data_range: float, seed: int):
    rng = np.random.default_rng(seed)
    reference = rng.random((height, width)) * data_range
    image = reference + rng.normal(0, 0.1 * data_range, reference.shape)
    pair = [torch.from_numpy(x)[None, None] for x in (image, reference)]
    assert float(psnr(*pair, data_range=data_range)) == pytest.approx(
        peak_signal_noise_ratio(reference, image, data_range=data_range), abs=1e-6
    )
    expected = structural_similarity(
        reference, image, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(ssim(*pair, data_range=data_range)) == pytest.approx(expected, abs=1e-6)


def test_equal_images_have_ssim_1_and_infinite_psnr():
    image = torch.rand(2, 1, 16, 16)
    assert torch.allclose(ssim(image, image, data_range=1.0), torch.ones(2))
    assert torch.isinf(psnr(image, image, data_range=1.0)).all()


def test_ssim_is_differentiable_and_not_computed_in_half_precision():
    reference = torch.rand(1, 2, 24, 24)
    image = (reference + 0.05 * torch.randn_like(reference)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = ssim(image, reference, data_range=1.0)
    value.sum().backward()
    assert torch.isfinite(image.grad).all()
    assert torch.equal(value, ssim(image, reference, data_range=1.0))


def test_small_images_use_a_smaller_window():
    image = torch.rand(1, 1, 6, 9)
    assert torch.isfinite(ssim(image, image.flip(-1), data_range=1.0)).all()
