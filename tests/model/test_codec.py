from dataclasses import replace

import pytest
import torch

from medq_uni.config import ConfigError, FidelityCodecConfig, VisionConfig
from medq_uni.model.codec import FidelityCodec
from medq_uni.model.dct import block_cosine_basis, log_magnitudes
from medq_uni.model.nafblock import NAFBlock
from medq_uni.model.vision import VisionEncoder
from medq_uni.quantities import TOLD_NUMBERS

CONFIG = FidelityCodecConfig(widths=(4, 8, 8, 8))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 2, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_basis_is_orthonormal():
    flat = block_cosine_basis(8).flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(64), atol=1e-5)


def test_the_codec_alone_is_exact(image: torch.Tensor):
    codec = FidelityCodec(CONFIG)
    codec.calibrate(image)
    latent = codec.encode(image)
    assert latent.shape == (2, CONFIG.latent_channels, 3, 5)
    assert torch.allclose(codec.decode(latent).image, image, atol=1e-5)
    assert codec.decode(latent).log_variance is None


def test_calibration_gives_coefficients_unit_variance(image: torch.Tensor):
    codec = FidelityCodec(CONFIG)
    codec.calibrate(image)
    latent = codec.encode(image)
    assert torch.allclose(latent.mean((0, 2, 3)), torch.zeros(128), atol=1e-4)
    assert torch.allclose(latent.std((0, 2, 3)), torch.ones(128), atol=1e-4)


@pytest.mark.parametrize("blocks", [(1, 1, 1, 3), (2, 1, 3, 1)])
@pytest.mark.parametrize("block", ["residual", "gated"])
def test_a_new_decoder_returns_the_image_of_the_latent(image: torch.Tensor, block: str, blocks: tuple[int, ...]):
    codec = FidelityCodec(replace(CONFIG, block=block, blocks=blocks))
    decoded = codec.decode(codec.encode(image), codec.features(image))
    assert torch.allclose(decoded.image, image, atol=1e-5)
    assert decoded.log_variance is not None
    assert decoded.log_variance.shape == image.shape


def test_blocks_are_counted_by_level():
    codec = FidelityCodec(replace(CONFIG, block="gated", blocks=(2, 1, 3, 4)))
    found = [sum(isinstance(m, NAFBlock) for m in part.modules()) for part in (*codec.down_blocks, codec.bottleneck)]
    assert found == [2, 1, 3, 1, 4]
    assert [sum(isinstance(m, NAFBlock) for m in part.modules()) for part in codec.up_blocks] == [2, 1, 3]


def test_a_new_guide_says_nothing_and_a_trained_one_steers(image: torch.Tensor):
    codec = FidelityCodec(replace(CONFIG, film_width=6))
    torch.nn.init.normal_(codec.out.weight)  # a decoder that does something
    states = torch.randn(len(image), 6, image.shape[-2] // 16, image.shape[-1] // 16)
    latent, fidelity = codec.encode(image), codec.features(image)
    plain = codec.decode(latent, fidelity).image
    assert torch.equal(codec.decode(latent, fidelity, states).image, plain)
    assert codec.guide is not None
    torch.nn.init.normal_(codec.guide.gains.weight)
    by_gains = codec.decode(latent, fidelity, states).image
    assert not torch.allclose(by_gains, plain)
    torch.nn.init.normal_(codec.guide.local.weight)
    assert not torch.allclose(codec.decode(latent, fidelity, states).image, by_gains)
    assert torch.equal(codec.decode(latent, None, states).image, codec.inverse_transform(latent))


def test_the_guide_learns_from_the_image(image: torch.Tensor):
    codec = FidelityCodec(replace(CONFIG, film_width=6))
    torch.nn.init.normal_(codec.out.weight)
    states = torch.randn(len(image), 6, image.shape[-2] // 16, image.shape[-1] // 16)
    codec.decode(codec.encode(image), codec.features(image), states).image.square().mean().backward()
    assert codec.guide is not None
    assert codec.guide.gains.weight.grad.abs().max() > 0
    assert codec.guide.local.weight.grad.abs().max() > 0


def test_the_variance_does_not_shape_the_features(image: torch.Tensor):
    codec = FidelityCodec(CONFIG)
    decoded = codec.decode(codec.encode(image), codec.features(image))
    decoded.log_variance.sum().backward()
    assert codec.stem.weight.grad is None
    assert codec.spread[0].weight.grad is not None


def test_without_spectrum_and_latent_change_the_decoder_sees_the_change_in_the_image_alone(image: torch.Tensor):
    codec = FidelityCodec(replace(CONFIG, spectrum=False, latent_change=False))
    assert not [name for name, _ in codec.named_parameters() if name.startswith(("spectrum.", "change."))]
    torch.nn.init.normal_(codec.out.weight)
    fidelity = codec.features(image)
    latent = codec.encode(image)
    plain = codec.decode(latent, fidelity).image - image
    moved = codec.decode(codec.encode(image + 0.3), fidelity).image - (image + 0.3)
    assert not torch.allclose(plain, moved, atol=1e-4)
    torch.nn.init.zeros_(codec.base.weight)
    plain, moved = (codec.decode(codec.encode(x), fidelity).image - x for x in (image, image + 0.3))
    assert torch.allclose(plain, moved, atol=1e-4)


def test_the_path_can_be_switched_off_by_configuration(image: torch.Tensor):
    codec = FidelityCodec(FidelityCodecConfig(widths=(4, 8, 8, 8), fidelity_path=False))
    assert codec.features(image) is None


def test_noise_raises_the_log_magnitudes_of_high_frequencies(image: torch.Tensor):
    codec = FidelityCodec(CONFIG)
    smooth = torch.zeros_like(image)
    before, after = (log_magnitudes(codec.transform(x))[:, 63].mean() for x in (smooth, smooth + 0.1 * image))
    assert after > before + 1


def test_the_vision_encoder_can_see_the_spectrum(image: torch.Tensor):
    config = VisionConfig(
        in_channels=2,
        patch_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_layers=1,
        num_heads=2,
        max_patches_per_side=8,
        spectrum_block=4,
    )
    assert VisionEncoder(config)(image).shape == (2, 15, 16)
    with pytest.raises(ConfigError, match="must divide"):
        VisionConfig(patch_size=14, spectrum_block=8)


def test_a_decoder_on_a_coarser_grid_returns_the_image_of_the_latent(image: torch.Tensor):
    codec = FidelityCodec(FidelityCodecConfig(unshuffle=2, widths=(8, 8, 8), blocks=(1, 2, 2), refinement=(0, 0, 0)))
    decoded = codec.decode(codec.encode(image), codec.features(image))
    assert torch.allclose(decoded.image, image, atol=1e-5)
    assert decoded.log_variance is not None
    assert decoded.log_variance.shape == image.shape
    assert codec.stem.in_channels == 8
    with pytest.raises(ConfigError, match="with unshuffle 4 needs block_size 32, got 8"):
        replace(CONFIG, unshuffle=4)


def test_what_the_decoder_is_told_says_nothing_at_first_and_steers_once_trained(image: torch.Tensor):
    codec = FidelityCodec(replace(CONFIG, told_width=8))
    told = torch.randn(2, TOLD_NUMBERS, generator=torch.Generator().manual_seed(1))
    latent = codec.encode(image)
    torch.manual_seed(0)
    for name, parameter in codec.named_parameters():
        if "conv2" in name or name.startswith("out"):
            torch.nn.init.normal_(parameter, std=0.1)
    silent = codec.decode(latent, codec.features(image)).image
    assert torch.allclose(codec.decode(latent, codec.features(image, told)).image, silent, atol=1e-6)
    for name, parameter in codec.named_parameters():
        if ".film." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    one, other = (codec.decode(latent, codec.features(image, numbers)).image for numbers in (told, -told))
    assert (one - other).abs().mean() > 1e-3
    assert FidelityCodec(CONFIG).told is None
    with pytest.raises(ConfigError, match="needs blocks of the kind residual"):
        replace(CONFIG, told_width=8, block="gated")
