import pytest
import torch
from torch import nn

from medq_uni.baselines.layers import UNet, downsample, upsample
from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import ConfigError


class Recorder(nn.Module):
    """A stage that notes what it was given."""

    def __init__(self, made: list, seen: list, *size: int) -> None:
        super().__init__()
        made.append(size)
        self.seen = seen

    def forward(self, x: torch.Tensor, *context: object) -> torch.Tensor:
        self.seen.append((tuple(x.shape[1:]), context))
        return x


def test_resampling_halves_and_doubles() -> None:
    x = torch.randn(1, 8, 6, 4)
    assert downsample(8)(x).shape == (1, 16, 3, 2)
    assert upsample(8)(x).shape == (1, 4, 12, 8)


def test_every_stage_has_its_width_and_gets_the_context() -> None:
    made: list = []
    seen: list = []
    config = BaselineConfig(kind="restormer", width=4, blocks=(3, 2, 1), in_channels=1)
    net = UNet(config, lambda *size: Recorder(made, seen, *size))
    token = object()
    assert net(torch.randn(1, 1, 8, 12), token).shape == (1, 1, 8, 12)
    expected = [(4, 8, 12), (8, 4, 6), (16, 2, 3), (8, 4, 6), (8, 8, 12), (8, 8, 12)]
    assert seen == [(shape, (token,)) for shape in expected]
    assert sorted(made) == sorted([(4, 0, 3), (8, 1, 2), (16, 2, 1), (8, 1, 2), (8, 0, 3), (8, 0, 3)])


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="width must be even, got 3"):
        UNet(BaselineConfig(kind="restormer", width=3), lambda *_: nn.Identity())
