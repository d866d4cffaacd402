import pytest
from hypothesis import given, settings

from medq_uni.peers.network import PeerConfig
from tests.peers import contract

CONFIGS = (
    PeerConfig(kind="restormer", width=4, blocks=(1, 1, 2)),
    PeerConfig(kind="indi", width=8, blocks=(1, 1, 2)),
    PeerConfig(kind="amir", width=4, blocks=(1, 1, 1)),
    PeerConfig(kind="restore-rwkv", width=4, blocks=(1, 1, 1, 1)),
)
TRAINED = (
    (PeerConfig(kind="restormer", width=4, blocks=(1, 1, 2)), 0.25),
    (PeerConfig(kind="indi", width=8, blocks=(1, 1, 2)), 0.25),
    (PeerConfig(kind="amir", width=8, blocks=(1, 1, 1)), 0.35),
    (PeerConfig(kind="restore-rwkv", width=8, blocks=(1, 1)), 0.35),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
@settings(max_examples=8, deadline=None)
@given(shape=contract.SHAPES)
def test_images_keep_their_shape(config: PeerConfig, shape: tuple[int, int, int]) -> None:
    contract.assert_shapes(config, shape)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_an_untrained_network_is_the_identity(config: PeerConfig) -> None:
    contract.assert_untrained_is_identity(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_sides_that_do_not_fit_are_refused(config: PeerConfig) -> None:
    contract.assert_misfit_is_refused(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_gradients_reach_every_parameter(config: PeerConfig) -> None:
    contract.assert_gradients_reach_all(config)


@pytest.mark.parametrize(("config", "ratio"), TRAINED, ids=[config.kind for config, _ in TRAINED])
def test_a_few_steps_learn_one_batch(config: PeerConfig, ratio: float) -> None:
    assert contract.training_ratio(config, steps=40) < ratio
