"""Fine-tuning a released checkpoint: only the wanted parts, whole or by low-rank updates, alone or sharded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.config import ConfigError, Execution
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.load import load_pretrained
from medq_uni.train.export import publish
from medq_uni.train.lora import MARK, add_lora, merged
from medq_uni.train.losses import LossWeights
from medq_uni.train.optimizer import IR_PREFIXES, choose_trainable, group_of
from medq_uni.train.recipe import LoraConfig, TrainConfig
from medq_uni.train.trainer import Trained
from tests.train.processes import in_processes
from tests.train.tiny import TRAIN_PAIRS, VAL_PAIRS, losses, stage, with_changes

FLOAT32 = Execution(precision="float32")


def fine_tuning(released: Path, **changes: object) -> TrainConfig:
    """Return the two stages of the paper on a released checkpoint."""
    short = {"batch_size": 2, "lr_warmup_steps": 1, "steps": 4, "learning_rate": 1e-3, "assess_share": 0.35}
    paper = {"noise_pixel_time": 0.7, "noise_share": 1.0}
    pixels = {"flow": 1.0, "l1": 0.5, "ssim": 0.5}
    one = stage("restore", name="one", trainable=("ir",), losses=LossWeights(**pixels), **short, **paper)
    joint = {"trainable": ("ir", "iqa"), "losses": LossWeights(**pixels, text=1.0), "generated": 0.0}
    two = stage("joint", name="two", **joint, **short, **paper)
    config = TrainConfig(
        about=("a test",),
        initial=str(released),
        pairs=TRAIN_PAIRS,
        val_pairs=replace(VAL_PAIRS, count=1),
        stages=(one, two),
        bfloat16=False,
        validation_interval=1000,
        log_interval=2,
        ema_decay=0.5,
    )
    return replace(config, **changes)


def start(released: Path) -> MedQ:
    return load_pretrained(released, execution=FLOAT32).model


def changed(before: MedQ, after: MedQ) -> set[str | None]:
    """Return the groups of the weights that differ."""
    first = dict(before.named_parameters())
    return {group_of(n) for n, p in after.named_parameters() if not torch.equal(p, first[n])}


def test_the_paths_two_stages_run_and_the_first_touches_one_expert_only(
    released: Path, tmp_path: Path, train: Callable[..., Trained]
) -> None:
    config = fine_tuning(released)
    one = train(replace(config, stages=config.stages[:1]), tmp_path / "one")
    assert changed(start(released), one.model) == {"ir"}
    both = train(config, tmp_path / "both")
    assert changed(start(released), both.model) == {"ir", "iqa"}
    text = [line["text"] for line in losses(tmp_path / "both") if "text" in line]
    assert text


def test_half_precision_trains_on_the_same_losses(
    released: Path, tmp_path: Path, train: Callable[..., Trained]
) -> None:
    config = fine_tuning(released)
    first = with_changes(config.stages[0], noise_pixel_time=1.0)  # whatever the time, the pixels count
    exact, half = (replace(config, bfloat16=b, stages=(first,)) for b in (False, True))
    found = [losses(train(one, tmp_path / name) and tmp_path / name) for one, name in ((exact, "a"), (half, "b"))]
    for key in ("flow", "l1", "ssim"):
        assert found[1][0][key] == pytest.approx(found[0][0][key], rel=0.1)


def test_recomputed_activations_change_no_number(released: Path, tmp_path: Path, train: Callable[..., Trained]) -> None:
    config = fine_tuning(released)
    plain, thrifty = (train(replace(config, recompute=r), tmp_path / str(r)) for r in (False, True))
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(thrifty.model.state_dict()[name], weight, msg=name)


def test_low_rank_updates_change_nothing_before_they_learn(released: Path) -> None:
    plain, model = start(released), start(released)
    add_lora(model, LoraConfig(rank=4), seed=0)
    wanted = plain.state_dict()
    for name, weight in merged(model.state_dict(), LoraConfig(rank=4)).items():
        assert torch.equal(weight, wanted[name]), name


def test_with_low_rank_updates_only_they_and_the_layers_around_the_latent_learn(released: Path) -> None:
    model, config = start(released), fine_tuning(released, lora=LoraConfig(rank=4))
    add_lora(model, LoraConfig(rank=4), seed=0)
    choose_trainable(model, config, config.stages[1])
    learn = {name for name, p in model.named_parameters() if p.requires_grad}
    updates = {name for name, _ in model.named_parameters() if MARK in name}
    assert updates <= learn
    assert all(name.startswith(IR_PREFIXES) for name in learn - updates)
    choose_trainable(model, config, config.stages[0])
    assert all(".ir." in n for n, p in model.named_parameters() if p.requires_grad and MARK in n)


def test_a_model_tuned_by_low_rank_updates_is_published_in_the_released_layout(
    released: Path, tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
) -> None:
    config = fine_tuning(released, lora=LoraConfig(rank=4))
    trained = train(config, tmp_path / "run")
    assert not any(MARK in name for name in trained.model.state_dict())
    publish(trained, config, pairs_of(config), tmp_path / "model")
    again = load_pretrained(tmp_path / "model", execution=FLOAT32)
    assert (tmp_path / "model" / "ema.safetensors").is_file()
    assert again.tokenizer.encode("Severe noise.") == trained.tokenizer.encode("Severe noise.")
    for name, weight in trained.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight, atol=2e-3, rtol=1e-2, msg=name)
    assert changed(start(released), trained.model) == {"ir", "iqa"}


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["whole", "low-rank"])
def test_two_processes_fine_tune_as_one(
    released: Path,
    tmp_path: Path,
    lora: LoraConfig | None,
    train: Callable[..., Trained],
    pairs_of: Callable[[TrainConfig], Path],
) -> None:
    config = fine_tuning(released, lora=lora, recompute=True)
    train(config, tmp_path / "alone")
    in_processes(2, config, tmp_path / "two", pairs_of(config))
    ours, theirs = losses(tmp_path / "two"), losses(tmp_path / "alone")
    assert len(ours) == 4
    for one, two in zip(ours, theirs, strict=True):
        numbers = [{k: v for k, v in line.items() if k != "stage"} for line in (one, two)]
        assert numbers[0] == pytest.approx(numbers[1], rel=2e-3, abs=2e-4)


def test_a_recipe_needs_a_network_to_begin_with(released: Path) -> None:
    with pytest.raises(ConfigError, match="model is missing"):
        replace(fine_tuning(released), initial=None)
