import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.config import ConfigError, FidelityCodecConfig, ModelConfig, TransformerConfig, VisionConfig
from medq_uni.config_json import chosen
from medq_uni.data.descriptions import description_line
from medq_uni.data.pair_cache import CACHED_SIDE
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.description import QualityDescription
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.load import folder_of, load_pretrained
from medq_uni.taxonomy import Modality, Verdict
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.checkpoint import CheckpointError, sole_writer
from medq_uni.train.export import publish
from medq_uni.train.loop import DivergenceError, OutOfMemoryError, replay, train
from medq_uni.train.losses import LossWeights
from medq_uni.train.objective import Objective
from medq_uni.train.optimizer import build_optimizer, choose_trainable, group_of, learning_rate, set_rate
from medq_uni.train.parallel import DistContext
from medq_uni.train.recipe import StageConfig, TextMix, TrainConfig
from medq_uni.train.run_log import read_log

GOLDEN = Path(__file__).parents[1] / "golden" / "losses_tiny.json"
BESIDE = {"assess_beside": True, "text": TextMix(max_generated=3, misread=0.1)}
ALL = LossWeights(flow=1.0, l1=1.0, l2=1.0, ssim=0.5, spread=0.05, text=1.0, slots=1.0)


def tiny_recipe(*stages: StageConfig) -> TrainConfig:
    tokenizer = Tokenizer.from_file(folder_of("nano") / "tokenizer.json")
    model = ModelConfig(
        name="tiny",
        transformer=TransformerConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
        ),
        vision=VisionConfig(
            in_channels=2,
            patch_size=16,
            hidden_size=24,
            intermediate_size=32,
            num_layers=1,
            num_heads=2,
            max_patches_per_side=32,
            stem_channels=(4, 8, 8, 16),
        ),
        codec=FidelityCodecConfig(widths=(4, 8, 8, 8)),
        tokens=tokenizer.special,
    )
    pairs = PairsConfig(count=10, seed=1, phantom_sizes=(64,))
    return TrainConfig(
        about=("a test",),
        model=model,
        tokenizer="nano",
        pairs=pairs,
        val_pairs=replace(pairs, count=5, seed=2, split="val", none_fraction=0.0),
        stages=stages,
        bfloat16=False,
        validate_every=1000,
    )


def stage(objective: str, **changes: object) -> StageConfig:
    """Return a short stage of one objective."""
    trainable = {"codec": ("decoder", "spread"), "restore": ("decoder", "spread", "ir"), "assess": ("iqa",)}
    values = {
        "name": objective,
        "objective": objective,
        "trainable": trainable.get(objective, ("decoder", "spread", "ir", "iqa")),
        "steps": 6,
        "batch_size": 4,
        "crop_size": 64,
        "warmup_steps": 2,
        "weights": ALL,
        "text": TextMix(max_generated=3),
    }
    return StageConfig(**(values | changes))


def all_stages() -> TrainConfig:
    return tiny_recipe(*(stage(objective) for objective in ("codec", "restore", "assess")), stage("joint", **BESIDE))


def step_lines(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]


def test_all_stages_run_and_the_published_folder_loads(tmp_path: Path):
    config = all_stages()
    trained = train(config, tmp_path / "run")
    assert trained.is_finished
    publish(trained, config, tmp_path / "run", tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    assert set(again.uncertainty_scale) == {"ct", "mr", "pet"}
    for name, value in trained.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value.float(), atol=2e-3, rtol=2e-3)


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path, ticking: float):
    config = tiny_recipe(stage("codec"), stage("joint", steps=8))
    whole = train(config, tmp_path / "whole")
    pieces = train(config, tmp_path / "pieces", max_minutes=0)
    assert not pieces.is_finished
    ticks = 0
    while not pieces.is_finished:
        pieces = train(config, tmp_path / "pieces", resume=True, max_minutes=ticking)
        ticks += 1
        assert ticks < 200
    assert ticks > 1
    for name, value in whole.model.state_dict().items():
        assert torch.equal(pieces.model.state_dict()[name], value), name


def test_a_run_is_not_overwritten_without_resume_and_not_resumed_by_another_recipe(tmp_path: Path):
    config = tiny_recipe(stage("codec", steps=1))
    train(config, tmp_path)
    with pytest.raises(CheckpointError, match="--resume"):
        train(config, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(replace(config, seed=5), tmp_path, resume=True)
    assert train(replace(config, about=("other words",)), tmp_path, resume=True).is_finished


def test_a_run_that_another_version_goes_on_with_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn):
    config = tiny_recipe(stage("codec", steps=1))
    train(config, tmp_path)
    train(config, tmp_path, resume=True)
    assert not [one for one in recwarn if "version" in str(one.message)]
    monkeypatch.setattr("medq_uni.train.run.__version__", "99.0")
    with pytest.warns(UserWarning, match=r"checkpoint is of \d.* this is 99\.0"):
        train(config, tmp_path, resume=True)


def test_a_run_goes_on_with_another_rate_of_a_stage_that_is_left(tmp_path: Path):
    config = tiny_recipe(stage("codec", steps=2), stage("joint", learning_rate=math.inf, warmup_steps=0))
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        train(config, tmp_path)

    def with_rates(*rates: float) -> TrainConfig:
        stages = (replace(s, learning_rate=rate) for s, rate in zip(config.stages, rates, strict=True))
        return replace(config, stages=tuple(stages))

    mended = with_rates(config.stages[0].learning_rate, 1e-4)
    with pytest.raises(CheckpointError, match=r"differs in stages\.1\.learning_rate"):
        train(mended, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"differs in stages\.0\.learning_rate\. Use"):
        train(with_rates(1e-4, 1e-4), tmp_path, resume=True, may_change=True)
    assert train(mended, tmp_path, resume=True, may_change=True).is_finished
    (line,) = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "recipe changed"]
    assert (line["stage"], line["step"], line["keys"]) == ("codec", 2, ["stages.1.learning_rate"])
    assert train(mended, tmp_path, resume=True).is_finished
    with pytest.raises(CheckpointError, match="of another recipe"):
        replay(mended, tmp_path)


def test_the_pace_of_a_stage_is_logged(tmp_path: Path):
    train(tiny_recipe(stage("codec", steps=3)), tmp_path, max_minutes=0)
    train(tiny_recipe(stage("codec", steps=3)), tmp_path, resume=True)
    (line,) = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "pace"]
    assert line["step"] == 3
    assert line["samples_per_s"] > 0
    assert 0 <= line["waited"] <= 1


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_nothing_to_the_next(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"event": "step", "stage": "of another recipe", "step": 10}\n')
    (tmp_path / "generated-0.json").write_text('{"0": [1, 2, 3]}')
    train(tiny_recipe(stage("codec", steps=1)), tmp_path)
    assert {line["stage"] for line in read_log(tmp_path / "log.jsonl")} == {"codec"}
    assert not (tmp_path / "generated-0.json").exists()


def test_replay_with_another_recipe_touches_nothing(tmp_path: Path):
    config = tiny_recipe(stage("codec", learning_rate=math.inf, warmup_steps=0))
    with pytest.raises(DivergenceError):
        train(config, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert config.pairs is not None
    with pytest.raises(CheckpointError, match="of another recipe"):
        replay(replace(config, pairs=replace(config.pairs, seed=777)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_in_which_another_run_writes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medq_uni.train.checkpoint.LOCK_SECONDS", 0.0)
    recipe = tiny_recipe(stage("codec", steps=2))
    with sole_writer(tmp_path / "run", DistContext()), pytest.raises(CheckpointError, match="another run"):
        train(recipe, tmp_path / "run", device="cpu")
    train(recipe, tmp_path / "run", device="cpu")  # the folder is free again


def write_descriptions(path: Path, config: TrainConfig, **changes: object) -> dict[str, QualityDescription]:
    """Write what experts say about every pair of a recipe, in words that no record gives."""
    agreed = {}
    for index in range(config.pairs.count):
        pair = draw_pair(config.pairs, index)
        values = {"modality": pair.task.modality, "anatomy": pair.anatomy, "degradations": (), "verdict": Verdict.GOOD}
        values |= {"cause": f"experts looked at pair {index}", "impact": "none"}
        agreed[f"train-{index:08d}"] = QualityDescription(**(values | changes))
    lines = [json.dumps(description_line(key, one, 1, "majority")) for key, one in agreed.items()]
    path.write_text("\n".join(lines) + "\n")
    return agreed


def test_what_experts_agreed_on_is_learned_in_place_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tiny_recipe(stage("assess", steps=3))
    agreed = write_descriptions(tmp_path / "agreed.jsonl", config)
    learned: list[str] = []
    encode = Tokenizer.encode_slots

    def watch(tokenizer: Tokenizer, description: QualityDescription) -> list[tuple[int, bool]]:
        learned.append(description.to_text())
        return encode(tokenizer, description)

    monkeypatch.setattr(Tokenizer, "encode_slots", watch)
    config = replace(config, descriptions=str(tmp_path / "agreed.jsonl"))
    assert train(config, tmp_path / "run").is_finished
    told = [text for text in learned if "experts looked" in text]
    assert len(told) >= 12  # 3 steps of 4 samples
    assert set(told) <= {one.to_text() for one in agreed.values()}


def test_descriptions_of_another_dataset_are_refused(tmp_path: Path):
    config = tiny_recipe(stage("assess", steps=1))
    write_descriptions(tmp_path / "wrong.jsonl", config, modality=Modality.PET)
    config = replace(config, descriptions=str(tmp_path / "wrong.jsonl"))
    with pytest.raises(ConfigError, match="speaks of pet"):
        train(config, tmp_path / "run")


def test_only_the_named_groups_learn(tmp_path: Path):
    config = tiny_recipe(stage("restore", trainable=("ir",), steps=3))
    before = train(tiny_recipe(stage("codec", steps=1, learning_rate=0.0)), tmp_path / "a").model
    after = train(config, tmp_path / "b").model
    start = dict(before.named_parameters())
    changed = {group_of(n) for n, p in after.named_parameters() if not torch.equal(p, start[n])}
    assert changed == {"ir"}


def test_a_loss_that_is_not_finite_stops_with_a_clear_error(tmp_path: Path):
    config = tiny_recipe(stage("codec", learning_rate=float("inf"), warmup_steps=0))
    with pytest.raises(DivergenceError, match="learning rate"):
        train(config, tmp_path)


def test_a_step_that_diverged_can_be_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medq_uni.train.checkpoint.LOCK_SECONDS", 0.0)
    config = tiny_recipe(stage("codec", learning_rate=float("inf"), warmup_steps=0))
    with pytest.raises(DivergenceError, match="--replay"):
        train(config, tmp_path)
    first = json.loads((tmp_path / "diverged" / "progress.json").read_text())["progress"]["step"]
    assert first > 0  # the first step is taken from sound weights
    with sole_writer(tmp_path, DistContext()), pytest.raises(CheckpointError, match="another run"):
        replay(config, tmp_path)
    terms, fault = replay(config, tmp_path)
    assert not all(math.isfinite(value) for value in terms.values())
    assert "returned nan values" in fault
    with pytest.raises(CheckpointError, match="no step that diverged"):
        replay(config, tmp_path / "other")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_what_needs_less(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(Objective, "losses", full)
    with pytest.raises(OutOfMemoryError, match=r"batch_size below 4, crop_size below 64, recompute: true"):
        train(tiny_recipe(stage("codec")), tmp_path)


def test_shares_of_what_is_told_are_shares():
    with pytest.raises(ConfigError, match=r"shares of one whole.*0.9, 0.9, 0.15, 0"):
        TextMix(reference=0.9, generated=0.9)
    with pytest.raises(ConfigError, match="none below 0"):
        TextMix(edited=-0.1)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = stage("codec", steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_stage_may_end_at_a_share_of_its_peak():
    config = stage("codec", steps=100, warmup_steps=10, learning_rate=2.0, final_rate=0.25)
    assert learning_rate(config, 99) == pytest.approx(0.5, rel=1e-2)
    assert learning_rate(config, 10) == pytest.approx(2.0)


def test_the_decoder_has_a_rate_of_its_own():
    rates = {"warmup_steps": 1, "learning_rate": 2.0, "decoder_rate": 3.0}
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


def golden_recipe() -> TrainConfig:
    stages = [stage(objective, steps=10) for objective in ("codec", "restore", "assess", "joint")]
    return replace(tiny_recipe(*stages, stage("joint", name="beside", steps=10, **BESIDE)), log_every=2)


def golden_lines(folder: Path) -> list[dict]:
    """Return the losses of the first steps of every stage, on stored pairs.

    Drawn pairs differ from processor to processor by the rounding of its FFT, and the L1 loss follows the sign of an
    error however small; on the same pairs the losses agree to five digits.
    """
    recipe = golden_recipe()
    for name, pairs in (("train_pairs", recipe.pairs), ("val_pairs", recipe.val_pairs)):
        pool = folder / "pools" / name
        shutil.copytree(GOLDEN.parent / name, pool)
        with np.load(pool / "pairs.npz") as stored:
            beyond = CACHED_SIDE - stored["pixels"].shape[-1]
            np.save(pool / "pairs.npy", np.pad(stored["pixels"], [(0, 0)] * 2 + [(0, beyond)] * 2, mode="edge"))
        (pool / "config.json").write_text(json.dumps(chosen(pairs), sort_keys=True))
    train(recipe, folder / "run", pools=folder / "pools")
    dropped = ("seconds", "waited", "event", "steps")
    return [{key: value for key, value in line.items() if key not in dropped} for line in step_lines(folder / "run")]


def test_the_losses_of_a_tiny_run_are_the_golden_ones(tmp_path: Path):
    found, expected = golden_lines(tmp_path), json.loads(GOLDEN.read_text())
    assert [line["stage"] for line in found] == [line["stage"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        numbers = [{k: v for k, v in line.items() if k != "stage"} for line in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)
