import pytest
from hypothesis import given, settings

from medq_uni.baselines.network import BaselineConfig
from tests.baselines import contract

CONFIGS = (
    BaselineConfig(kind="restormer", width=4, blocks=(1, 1, 2)),
    BaselineConfig(kind="indi", width=8, blocks=(1, 1, 2)),
    BaselineConfig(kind="amir", width=4, blocks=(1, 1, 1)),
    BaselineConfig(kind="restore-rwkv", width=4, blocks=(1, 1, 1, 1)),
)
TRAINED = (
    (BaselineConfig(kind="restormer", width=4, blocks=(1, 1, 2)), 0.25),
    (BaselineConfig(kind="indi", width=8, blocks=(1, 1, 2)), 0.25),
    (BaselineConfig(kind="amir", width=8, blocks=(1, 1, 1)), 0.35),
    (BaselineConfig(kind="restore-rwkv", width=8, blocks=(1, 1)), 0.35),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
@settings(max_examples=8, deadline=None)
@given(shape=contract.SHAPES)
def test_images_keep_their_shape(config: BaselineConfig, shape: tuple[int, int, int]) -> None:
    contract.assert_shapes(config, shape)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_an_untrained_network_is_the_identity(config: BaselineConfig) -> None:
    contract.assert_untrained_is_identity(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_sides_that_do_not_fit_are_refused(config: BaselineConfig) -> None:
    contract.assert_misfit_is_refused(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_gradients_reach_every_parameter(config: BaselineConfig) -> None:
    contract.assert_gradients_reach_all(config)


@pytest.mark.parametrize(("config", "ratio"), TRAINED, ids=[config.kind for config, _ in TRAINED])
def test_a_few_steps_learn_one_batch(config: BaselineConfig, ratio: float) -> None:
    assert contract.training_ratio(config, steps=40) < ratio
