import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.baselines.network import Baseline, BaselineConfig, build_baseline, count_parameters
from medq_uni.config import ConfigError

CONFIG = BaselineConfig(kind="pix2pix", width=4, blocks=(2, 1, 1, 1))


def make(config: BaselineConfig = CONFIG) -> Baseline:
    """Return a network whose last layer is not 0, so that every part acts."""
    torch.manual_seed(0)
    network = build_baseline(config)
    with torch.no_grad():
        network.last.weight.normal_(std=0.1)
    return network


def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    reference = torch.rand(2, 2, 32, 32, generator=generator)
    return reference + 0.1 * torch.randn(reference.shape, generator=generator), reference, torch.rand(2)


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4), levels=st.integers(1, 5))
def test_any_multiple_keeps_its_shape(count: int, rows: int, columns: int, levels: int) -> None:
    config = BaselineConfig(kind="pix2pix", width=2, blocks=(2,) + (1,) * levels)
    x = torch.rand(count, 2, rows * config.multiple, columns * config.multiple)
    assert make(config)(x).shape == x.shape


def test_a_new_network_returns_its_input() -> None:
    x = torch.rand(2, 2, 16, 16)
    assert torch.equal(build_baseline(CONFIG)(x), x)


@pytest.mark.parametrize(("term", "learns"), [("adversarial", False), ("discriminator", True)])
def test_each_term_teaches_its_own_part_alone(term: str, learns: bool) -> None:
    network = make()
    network.learn(*pairs())[1][term].backward()
    for name, weight in network.named_parameters():
        is_taught = weight.grad is not None and bool(weight.grad.any())
        # a bias before a norm changes nothing, so its gradient is no more than rounding
        if not name.endswith("conv.bias"):
            assert is_taught == (name.startswith("discriminator.") == learns), name


def test_the_generator_term_falls_when_the_discriminator_is_fooled() -> None:
    network, (degraded, reference, t) = make(), pairs()
    optimizer = torch.optim.Adam([w for n, w in network.named_parameters() if "discriminator" not in n], lr=1e-2)
    before = network.learn(degraded, reference, t)[1]["adversarial"].item()
    for _ in range(10):
        optimizer.zero_grad()
        network.learn(degraded, reference, t)[1]["adversarial"].backward()
        optimizer.step()
    assert network.learn(degraded, reference, t)[1]["adversarial"].item() < before


def test_the_discriminator_learns_to_tell_true_from_restored() -> None:
    network, (degraded, reference, t) = make(), pairs()
    optimizer = torch.optim.Adam(network.discriminator.parameters(), lr=1e-2)
    before = network.learn(degraded, reference, t)[1]["discriminator"].item()
    for _ in range(20):
        optimizer.zero_grad()
        network.learn(degraded, reference, t)[1]["discriminator"].backward()
        optimizer.step()
    assert network.learn(degraded, reference, t)[1]["discriminator"].item() < 0.5 * before


def test_a_patch_of_the_discriminator_is_70_pixels_wide() -> None:
    torch.manual_seed(0)
    seen = torch.zeros(1, 4, 256, 256, requires_grad=True)
    layers = [layer.conv if hasattr(layer, "conv") else layer for layer in make().discriminator]
    torch.nn.Sequential(*layers)(seen)[0, 0, 15, 15].backward()  # the norms alone see the whole image
    assert int(seen.grad.abs().sum((0, 1, 2)).count_nonzero()) == 70


def test_restoration_does_not_depend_on_the_discriminator() -> None:
    network = make()
    x = torch.rand(1, 2, 16, 16)
    before = network(x)
    with torch.no_grad():
        for weight in network.discriminator.parameters():
            weight.add_(1)
    assert torch.equal(network(x), before)
    rest = sum(w.numel() for n, w in network.named_parameters() if not n.startswith("discriminator."))
    assert count_parameters(network) == rest


def test_more_than_one_layer_per_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="must end in 1"):
        build_baseline(BaselineConfig(kind="pix2pix", width=4, blocks=(1, 2, 1)))


def test_crops_too_small_for_the_discriminator_are_refused() -> None:
    with pytest.raises(ValueError, match="32 pixels"):
        make().learn(torch.rand(1, 2, 16, 16), torch.rand(1, 2, 16, 16), torch.rand(1))
