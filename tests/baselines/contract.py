"""What holds for every baseline; the tests of one baseline call these on its own sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from medq_uni.baselines.network import Baseline, BaselineConfig, build_baseline

SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3))
"""Batch, and height and width in units of the smallest side."""


def build(config: BaselineConfig, *, awake: bool = False) -> Baseline:
    """Return a network from a fixed seed; ``awake`` gives weights to what begins at 0, so that it changes images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_baseline(config)
        if awake:
            for weight in network.parameters():
                if not weight.any():
                    nn.init.normal_(weight, 0, 0.1)
    return network


def images(*shape: int, seed: int = 0) -> Tensor:
    """Return noise in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pair(batch: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Return a smooth image with noise, and without."""
    axis = torch.linspace(-3, 3, side)
    phase = torch.arange(batch * channels).view(batch, channels, 1, 1)
    reference = (0.7 * torch.sin(axis[:, None] + axis[None, :] ** 2 + phase)).clamp(-1, 1)
    return reference + 0.2 * images(batch, channels, side, side, seed=1), reference


def assert_shapes(config: BaselineConfig, shape: tuple[int, int, int]) -> None:
    """An image comes back in its shape, finite and changed by a network that has learned."""
    batch, rows, cols = shape
    x = images(batch, config.in_channels, rows * config.multiple, cols * config.multiple)
    with torch.no_grad():
        y = build(config, awake=True)(x)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    assert not torch.allclose(x, y, atol=1e-4)


def assert_untrained_is_identity(config: BaselineConfig) -> None:
    """A network that has learned nothing changes nothing."""
    x = images(2, config.in_channels, 2 * config.multiple, 3 * config.multiple)
    network = build(config)
    with torch.no_grad():
        torch.testing.assert_close(network(x), x)
        judged, _ = network.learn(x, x, torch.tensor([0.2, 0.9]))
    torch.testing.assert_close(judged, x)


def assert_misfit_is_refused(config: BaselineConfig) -> None:
    """Sides that do not fit are named, with what would."""
    with pytest.raises(ValueError, match=f"9 x {config.multiple} does not fit.*multiples of {config.multiple}"):
        build(config)(torch.zeros(1, config.in_channels, 9, config.multiple))


def assert_gradients_reach_all(config: BaselineConfig) -> None:
    """No parameter is out of use."""
    network = build(config, awake=True)
    degraded, reference = pair(2, config.in_channels, 4 * config.multiple)
    judged, terms = network.learn(degraded, reference, torch.tensor([0.3, 0.8]))
    ((judged - reference).abs().mean() + sum(terms.values())).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def training_ratio(config: BaselineConfig, *, steps: int, rate: float = 3e-3) -> float:
    """Return the squared error after training on one batch, as a share of that of the degraded batch."""
    network = build(config)
    degraded, reference = pair(2, config.in_channels, 32)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0)
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        judged, terms = network.learn(degraded, reference, torch.rand(2, generator=draw))
        loss = (judged - reference).square().mean() + sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((network(degraded) - reference).square().mean() / (degraded - reference).square().mean())
