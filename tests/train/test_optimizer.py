import pytest

from medq_uni.model.medq import MedQ
from medq_uni.train.optimizer import build_optimizer, choose_trainable, learning_rate, set_rate
from tests.train.tiny import stage, tiny_recipe


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = stage("codec", steps=100, lr_warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_decoder_has_a_rate_of_its_own():
    rates = {"lr_warmup_steps": 1, "learning_rate": 2.0, "decoder_lr_factor": 3.0}
    config = stage("joint", trainable=("decoder", "ir"), assess_share=0.0, **rates)
    recipe = tiny_recipe(config)
    assert recipe.model is not None
    model = MedQ(recipe.model)
    choose_trainable(model, recipe, config)
    optimizer = build_optimizer(model, recipe, config)
    set_rate(optimizer, config, 0)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert found[id(parameter)] == (6.0 if name.startswith("codec.") else 2.0)
