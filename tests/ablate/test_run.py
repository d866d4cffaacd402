import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.ablate.plan import changed, read_plan
from medq_uni.ablate.run import run_ablations
from medq_uni.ablate.table import READ
from medq_uni.config import ConfigError
from medq_uni.config_json import chosen, to_json
from medq_uni.statistics import clustered_interval
from medq_uni.train.buckets import CROP_GRID
from tests.train.tiny import VAL_PAIRS, stage, tiny_recipe, unpack, unpack_pairs

TEST = VAL_PAIRS
"""Pairs that are scored."""
CHANGE = {"stages.joint.conditioning.reference": 0.0}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan whose pairs are stored, in the folder of the results too."""
    base = tiny_recipe(stage("codec", steps=2), stage("joint", steps=2, assess_share=0.0, generated=0.0))
    base = replace(base, val_pairs=replace(base.val_pairs, count=3))
    (tmp_path / "base.json").write_text(to_json(base))
    values = {
        "about": ["a test"],
        "base": "base.json",
        "test": json.loads(json.dumps(asdict(TEST))),
        "seeds": [0, 1],
        "variants": [
            {"name": "full"},
            {"name": "shuffled", "weights_of": "full", "told": "shuffled"},
            {"name": "silent", "changes": CHANGE, "told": "nothing"},
        ],
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(values))
    unpack_pairs(base, tmp_path / "out" / "pairs")
    unpack("val_pairs", TEST, tmp_path / "out" / "pairs" / "test_pairs")
    return path


def edit(plan: Path, **changes: object) -> None:
    plan.write_text(json.dumps(json.loads(plan.read_text()) | changes))


@pytest.mark.slow
def test_a_plan_is_trained_scored_and_tabled_and_goes_on_where_it_stopped(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not run_ablations(plan, out, max_minutes=0, device="cpu")
    assert run_ablations(plan, out, device="cpu")
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["degraded input", "full", "shuffled", "silent"]
    assert {modality for row in rows for modality in row["scores"]} == {"ct", "mr", "pet"}
    assert rows[1]["scores"]["ct"]["delta"] == 0
    assert len(list((out / "runs").iterdir())) == 4  # two trained variants with two seeds
    table = (out / "results.md").read_text()
    assert table.count("\n| ") == 4
    assert "seeds: 2" in table
    for values in rows[3]["scores"].values():
        low, high = sorted(values["delta_by_seed"])
        assert low < high
        assert values["delta"] == pytest.approx((low + high) / 2)
        assert f"[{low:+.2f} to {high:+.2f}]" in table
    reading = rows[1]["cost"]["reading"]
    assert set(reading) == set(READ)
    assert all(0 <= share <= 1 for share in reading.values())
    assert f"| {' / '.join(f'{100 * reading[name]:.0f}' for name in READ)} |" in table
    assert [row["cost"].get("reading") for row in rows[2:]] == [{}, {}]  # nobody is told what these write
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    assert [bool(line["right_verdict"]) for line in lines] == 3 * [False] + 3 * [True] + 6 * [False]
    before = {path: path.stat().st_mtime_ns for path in (out / "scores").iterdir()}
    assert run_ablations(plan, out, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in (out / "scores").iterdir()}


def test_unequal_budgets_are_refused(plan: Path) -> None:
    variants = json.loads(plan.read_text())["variants"]
    variants[2]["changes"] = {"stages.joint.steps": 3}
    edit(plan, variants=variants)
    with pytest.raises(ConfigError, match="budgets differ"):
        read_plan(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages.jiont.steps": 2}, "no stage 'jiont'"),
        ({"stages.joint.conditioning.refrence": 0.0}, "Did you mean 'reference'"),
    ],
)
def test_a_change_that_leads_nowhere_is_named(plan: Path, change: dict, message: str) -> None:
    base = json.loads((plan.parent / "base.json").read_text())
    with pytest.raises(ConfigError, match=message):
        changed(base, change)
    assert changed(base, CHANGE).stages[1].conditioning.reference == 0


BASELINES = [
    {"name": "ours", "told": "label"},
    {"name": "pre-training alone", "changes": {"stages": "RESTORE"}, "objective": "restore", "told": "nothing"},
    {"name": "naf", "recipe": "baseline.json"},
    {
        "name": "pix",
        "recipe": "baseline.json",
        "changes": {"baseline": {"kind": "pix2pix", "width": 4, "blocks": [1, 1]}},
    },
]


def with_baselines(plan: Path) -> Path:
    """Put baselines into a plan, and the choice of learning rates."""
    base = json.loads((plan.parent / "base.json").read_text())
    restore = json.loads(to_json(replace(tiny_recipe(stage("restore", steps=4)))))["stages"]
    baseline = base | {"model": None, "tokenizer": None, "baseline": {"kind": "nafnet", "width": 4, "blocks": [1, 1]}}
    one = base["stages"][0]
    baseline["stages"] = [{key: one[key] for key in ("crops", "optimizer")}]
    baseline["stages"][0] |= {
        "name": "baseline",
        "objective": "baseline",
        "trainable": ["baseline"],
        "steps": 4,
        "losses": {"l2": 1.0},
    }
    (plan.parent / "baseline.json").write_text(json.dumps(baseline))
    variants = json.loads(json.dumps(BASELINES).replace('"RESTORE"', json.dumps(restore)))
    edit(plan, variants=variants, seeds=[0], learning_rates=[0.5, 2.0], tuning_share=0.5)
    return plan


@pytest.mark.slow
def test_baselines_stand_in_the_table_of_the_same_pairs(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_ablations(with_baselines(plan), out, device="cpu")
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["degraded input", "ours", "pre-training alone", "naf", "pix"]
    assert len({row["scores"]["mr"]["pairs"] for row in rows}) == 1
    for row in rows[1:]:
        gains = json.loads((out / "tuning" / row["variant"].replace(" ", "-") / "gains.json").read_text())["gains"]
        assert f"{row['cost']['rate']:g}" == max(gains, key=lambda rate: gains[rate])
        used = json.loads((out / "runs" / f"{row['variant'].replace(' ', '-')}-0" / "recipe.json").read_text())
        assert used["stages"][0]["optimizer"]["learning_rate"] in (0.5 * 5e-4, 2.0 * 5e-4)
        assert row["cost"]["seconds"] > 0
    ours, _, naf, pix = (row["cost"] for row in rows[1:])
    assert ours["parameters"] > naf["parameters"] > 0
    assert ours["gflops"] > max(naf["gflops"], pix["gflops"]) > min(naf["gflops"], pix["gflops"]) > 0
    table = (out / "results.md").read_text()
    assert "| M | GFLOPs | train s | rate |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert run_ablations(plan, out, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


def test_a_finished_run_of_another_recipe_is_not_scored(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit(plan, variants=[{"name": "naf", "recipe": "baseline.json"}], seeds=[0])
    with_baselines(plan)
    edit(plan, variants=[{"name": "naf", "recipe": "baseline.json"}], learning_rates=[])
    assert run_ablations(plan, out, device="cpu")
    edit(plan, variants=[{"name": "naf", "recipe": "baseline.json", "changes": {"ema_decay": 0.5}}])
    with pytest.raises(ConfigError, match="run of another recipe"):
        run_ablations(plan, out, device="cpu")


def test_scores_of_other_test_pairs_are_measured_again(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with_baselines(plan)
    test = json.loads(plan.read_text())["test"]
    edit(plan, variants=[{"name": "naf", "recipe": "baseline.json"}], learning_rates=[])
    assert run_ablations(plan, out, device="cpu")
    before = json.loads((out / "scores" / "naf-0.json").read_text())
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    edit(plan, test=test | {"seed": 10})
    assert run_ablations(plan, out, device="cpu")
    after = json.loads((out / "scores" / "naf-0.json").read_text())
    assert after["of"] != before["of"]
    assert after["scores"] != before["scores"]
    assert trained == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


def test_a_variant_with_fewer_seeds_is_compared_with_the_same_seeds(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with_baselines(plan)
    baselines = [{"name": "naf", "recipe": "baseline.json"}, {"name": "slow", "recipe": "baseline.json", "seeds": [1]}]
    baselines[1]["changes"] = {"stages.baseline.optimizer.learning_rate": 1e-7}
    edit(plan, variants=[*baselines, {"name": "again", "weights_of": "slow"}], learning_rates=[], seeds=[0, 1])
    assert run_ablations(plan, out, device="cpu")
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["naf-0", "naf-1", "slow-1"]
    rows = {row["variant"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert [rows[name]["seeds"] for name in ("naf", "slow", "again")] == [2, 1, 1]
    naf, slow = (json.loads((out / "scores" / f"{name}-1.json").read_text())["scores"] for name in ("naf", "slow"))
    delta = [b["psnr"] - a["psnr"] for a, b in zip(naf, slow, strict=True) if a["modality"] == "mr"]
    assert rows["slow"]["scores"]["mr"]["delta"] == pytest.approx(np.mean(delta))
    assert "Fewer seeds, whose differences are to the same seeds: slow, again." in (out / "results.md").read_text()


def test_baselines_on_other_pairs_are_refused(plan: Path) -> None:
    with_baselines(plan)
    baseline = json.loads((plan.parent / "baseline.json").read_text())
    (plan.parent / "baseline.json").write_text(json.dumps(baseline | {"pairs": baseline["pairs"] | {"seed": 99}}))
    with pytest.raises(ConfigError, match="'naf' is trained or validated on other pairs"):
        read_plan(plan)


def test_real_volumes_take_the_place_of_those_in_the_files(plan: Path) -> None:
    found, recipes = read_plan(with_baselines(plan), ["ct:somewhere"])
    assert found.test.data == ("ct:somewhere",)
    for recipe in recipes.values():
        assert recipe.pairs.data == recipe.val_pairs.data == ("ct:somewhere",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": [0.0]}, "must be positive"),
        ({"tuning_share": 0.0}, "must lie in"),
        ({"variants": [{"name": "a", "recipe": "missing.json"}]}, "'missing.json' is not beside it"),
        ({"variants": [{"name": "a", "recipe": "list.json"}]}, "an object of keys"),
        ({"variants": [{"name": "a"}, {"name": "b", "weights_of": "a", "changes": CHANGE}]}, "have no effect"),
        ({"variants": [{"name": "a", "seeds": [0]}]}, "the first needs every seed"),
        ({"variants": [{"name": "a"}, {"name": "b", "seeds": [7]}]}, "must be some of the plan's"),
        ({"variants": [{"name": "a+b"}, {"name": "A-B"}]}, "'a\\+b' and 'A-B' would share a folder"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan: Path, changes: dict, message: str) -> None:
    (plan.parent / "list.json").write_text("[]")
    edit(plan, **changes)
    with pytest.raises(ConfigError, match=message):
        read_plan(plan)


@pytest.mark.parametrize(("name", "trained"), [("ablations", 8), ("baselines", 8)])
def test_the_projects_own_plans_read(name: str, trained: int) -> None:
    plan, recipes = read_plan(Path(__file__).parents[2] / "recipes" / f"{name}.json")
    assert len(recipes) >= trained
    assert plan.variants[0].changes == {}


def test_weights_of_a_variant_that_is_not_trained_are_refused(plan: Path) -> None:
    edit(plan, variants=[{"name": "a", "weights_of": "b"}])
    with pytest.raises(ConfigError, match="'b' is not trained here"):
        read_plan(plan)


def test_an_interval_over_subjects_is_wider_than_one_over_images() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    grouped = clustered_interval(values, [f"s{i // 25}" for i in range(100)])
    alone = clustered_interval(values, [f"s{i}" for i in range(100)])
    assert grouped[0] < alone[0] < values.mean() < alone[1] < grouped[1]


def test_networks_that_are_compared_meet_the_same_crops() -> None:
    _, recipes = read_plan(Path(__file__).parents[2] / "recipes" / "baselines.json")
    stages = [each for one in recipes.values() for each in one.stages]
    assert len({(s.steps, json.dumps(asdict(s.crops))) for s in stages}) == 1
    assert len({json.dumps(chosen(one.pairs)) for one in recipes.values()}) == 1
    ours = [one.model for one in recipes.values() if one.model is not None]
    assert ours
    assert all(model.token_pixels == CROP_GRID for model in ours)  # crops begin on multiples of it
