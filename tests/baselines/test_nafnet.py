import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.baselines.network import BaselineConfig, build_baseline

CONFIG = BaselineConfig(kind="nafnet", width=4, blocks=(1, 2, 1))


def randomized(config: BaselineConfig, seed: int = 0) -> torch.nn.Module:
    """Return a network whose scales are not 0, so that every part acts."""
    torch.manual_seed(seed)
    network = build_baseline(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return network


@settings(max_examples=10, deadline=None)
@given(
    count=st.integers(1, 3),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    blocks=st.lists(st.integers(1, 2), min_size=2, max_size=4),
)
def test_any_multiple_keeps_its_shape(count: int, rows: int, columns: int, blocks: list[int]) -> None:
    config = BaselineConfig(kind="nafnet", width=2, blocks=tuple(blocks))
    x = torch.rand(count, 2, rows * config.multiple, columns * config.multiple)
    assert randomized(config)(x).shape == x.shape


def test_a_new_network_returns_its_input() -> None:
    x = torch.rand(2, 2, 16, 16)
    assert torch.equal(build_baseline(CONFIG)(x), x)


def test_every_weight_gets_a_gradient() -> None:
    network = randomized(CONFIG)
    network(torch.rand(1, 2, 16, 16)).square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())


def test_it_learns_to_remove_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    clean = torch.linspace(-1, 1, 32).expand(4, 2, 32, 32)
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    torch.manual_seed(2)
    network = build_baseline(BaselineConfig(kind="nafnet", width=8, blocks=(1, 1)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (network(noisy) - clean).square().mean().backward()
        optimizer.step()
    other = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    assert (network(other) - clean).square().mean() < 0.25 * (other - clean).square().mean()


def test_a_size_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="two levels at least"):
        BaselineConfig(kind="nafnet", blocks=(1,))
