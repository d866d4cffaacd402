from dataclasses import replace

import pytest
import torch

from medq_uni.baselines.indi import SHARE_AT_START
from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import ConfigError
from tests.baselines import contract

CONFIG = BaselineConfig(kind="indi", width=8, blocks=(1, 1, 2))


def test_one_step_is_the_network_at_the_degraded_image() -> None:
    network = contract.build(CONFIG, awake=True)
    x = contract.images(2, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network.restore(x, 1), network.predict(x, torch.ones(2)))


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_steps_follow_the_update_of_the_paper(steps: int) -> None:
    network = contract.build(CONFIG, awake=True)
    x = start = contract.images(1, 2, 8, 8)
    d = 1 / steps
    with torch.no_grad():
        for k in range(steps):
            t = 1 - k * d
            x = d / t * network.predict(x, torch.tensor([t])) + (1 - d / t) * x
        torch.testing.assert_close(network.restore(start, steps), x)


def test_a_perfect_network_walks_the_line_to_the_true_image(monkeypatch: pytest.MonkeyPatch) -> None:
    network = contract.build(CONFIG)
    y, x = contract.images(1, 2, 4, 4), contract.images(1, 2, 4, 4, seed=1)
    visited = []

    def oracle(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        visited.append(float(t))
        torch.testing.assert_close(x_t, (1 - t) * x + t * y)
        return x

    monkeypatch.setattr(network, "predict", oracle)
    torch.testing.assert_close(network.restore(y, 4), x)
    assert visited == [1.0, 0.75, 0.5, 0.25]


def test_the_configured_number_of_steps_is_used() -> None:
    x = contract.images(1, 2, 4, 4)
    with torch.no_grad():
        for steps in (1, 3):
            network = contract.build(BaselineConfig(kind="indi", width=4, blocks=(1, 1), steps=steps), awake=True)
            assert torch.equal(network(x), network.restore(x, steps))
        assert not torch.allclose(network(x), network.restore(x, 1), atol=1e-4)


def test_fewer_than_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step, got 0"):
        contract.build(CONFIG).restore(torch.zeros(1, 2, 4, 4), 0)
    with pytest.raises(ConfigError, match="steps must be at least 1, got 0"):
        BaselineConfig(kind="indi", steps=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_learning_sees_the_degraded_end_and_the_times_of_the_other_steps(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = contract.build(replace(CONFIG, steps=steps))
    degraded, reference = torch.ones(1001, 1, 1, 1), torch.zeros(1001, 1, 1, 1)
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(network, "predict", lambda x_t, t: asked.append(t) or x_t)
    x_t, terms = network.learn(degraded, reference, torch.linspace(0, 1, 1001))
    (t,) = asked
    assert terms == {}
    torch.testing.assert_close(x_t.flatten(), t)
    times, counts = t.unique(return_counts=True)
    torch.testing.assert_close(times, torch.arange(1, steps + 1) / steps)
    shares = counts / 1001
    assert float(shares[-1]) == pytest.approx(SHARE_AT_START if steps > 1 else 1, abs=0.01)
    assert shares[:-1].tolist() == pytest.approx([(1 - SHARE_AT_START) / max(1, steps - 1)] * (steps - 1), abs=0.01)


def test_time_changes_what_is_predicted() -> None:
    network = contract.build(CONFIG, awake=True)
    x = contract.images(1, 2, 8, 8)
    with torch.no_grad():
        early, late = (network.predict(x, torch.tensor([t])) for t in (0.1, 1.0))
    assert not torch.allclose(early, late, atol=1e-4)
