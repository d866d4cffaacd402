import pytest
import torch
from torch import nn

from medq_uni.model.zero_init import zero_init


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), torch.ones(1, 2, 4, 4)),
        (nn.Linear(4, 3), torch.ones(1, 4)),
        (nn.Linear(4, 3, bias=False), torch.ones(1, 4)),
    ],
)
def test_a_silent_layer_adds_nothing_at_first_and_learns(layer: nn.Conv2d | nn.Linear, x: torch.Tensor) -> None:
    assert zero_init(layer) is layer
    y = layer(x)
    assert not y.any()
    y.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.any()
