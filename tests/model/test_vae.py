import pytest
import torch

from medq_uni.config import FluxCodecConfig
from medq_uni.model.grid import SizeError
from medq_uni.model.vae import FluxCodec

CONFIG = FluxCodecConfig(
    in_channels=1,
    channels=4,
    channel_multipliers=(1, 2, 2),
    num_res_blocks=1,
    latent_channels=3,
    norm_groups=2,
)


@pytest.fixture(scope="module")
def codec() -> FluxCodec:
    torch.manual_seed(0)
    return FluxCodec(CONFIG)


def test_shapes_follow_the_downsampling(codec: FluxCodec) -> None:
    image = torch.randn(2, 1, 16, 24)
    latent = codec.encode(image)
    assert latent.shape == (2, 3, 4, 6)
    decoded = codec.decode(latent)
    assert decoded.image.shape == image.shape
    assert decoded.log_variance is None
    assert codec.features(image) is None


def test_encoding_is_the_scaled_mean_and_the_same_every_time(codec: FluxCodec) -> None:
    image = torch.randn(1, 1, 8, 8)
    mean = codec.encoder(image)[:, :3]
    torch.testing.assert_close(codec.encode(image), 0.3611 * (mean - 0.1159))
    assert torch.equal(codec.encode(image), codec.encode(image))
    latent = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(codec.decode(latent).image, codec.decoder(latent / 0.3611 + 0.1159))


def test_an_image_that_is_no_multiple_is_refused(codec: FluxCodec) -> None:
    with pytest.raises(SizeError, match="multiples of 4, got"):
        codec.encode(torch.zeros(1, 1, 10, 8))


def test_the_full_size_has_the_published_number_of_tensors_and_parameters() -> None:
    with torch.device("meta"):
        codec = FluxCodec(FluxCodecConfig())
    assert len(codec.state_dict()) == 244
    assert sum(p.numel() for p in codec.parameters()) == 83_819_683
    shapes = {k: tuple(v.shape) for k, v in codec.state_dict().items()}
    assert shapes["decoder.conv_in.weight"] == (512, 16, 3, 3)
    shortcuts = {k.rsplit(".", 2)[0] for k in shapes if "nin_shortcut" in k}
    assert shortcuts == {
        "encoder.down.1.block.0",
        "encoder.down.2.block.0",
        "decoder.up.1.block.0",
        "decoder.up.0.block.0",
    }
