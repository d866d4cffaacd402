import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.config import ConfigError, to_json
from medq_uni.evaluate.ablation_plan import changed, read_plan
from medq_uni.evaluate.ablations import run_ablations
from medq_uni.evaluate.statistics import clustered_interval
from tests.train.test_loop import stage, tiny_recipe

CHANGE = {"stages.joint.text.reference": 0.0}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    base = tiny_recipe(stage("codec", steps=2), stage("joint", steps=2))
    (tmp_path / "base.json").write_text(to_json(replace(base, val_pairs=replace(base.val_pairs, count=3))))
    values = {
        "about": ["a test"],
        "base": "base.json",
        "test": {"count": 10, "seed": 9, "split": "test", "phantom_sizes": [48], "none_fraction": 0.0},
        "seeds": [0, 1],
        "variants": [
            {"name": "full", "told": "label"},
            {"name": "shuffled", "weights_of": "full", "told": "shuffled"},
            {"name": "silent", "changes": CHANGE, "told": "nothing"},
        ],
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(values))
    return path


def edit(plan: Path, **changes: object) -> None:
    plan.write_text(json.dumps(json.loads(plan.read_text()) | changes))


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
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
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
        ({"stages.joint.text.refrence": 0.0}, "Did you mean 'reference'"),
    ],
)
def test_a_change_that_leads_nowhere_is_named(plan: Path, change: dict, message: str) -> None:
    base = json.loads((plan.parent / "base.json").read_text())
    with pytest.raises(ConfigError, match=message):
        changed(base, change)
    assert changed(base, CHANGE).stages[1].text.reference == 0


def test_weights_of_a_variant_that_is_not_trained_are_refused(plan: Path) -> None:
    edit(plan, variants=[{"name": "a", "weights_of": "b"}])
    with pytest.raises(ConfigError, match="'b' is not trained here"):
        read_plan(plan)


def test_the_projects_own_plan_reads() -> None:
    plan, recipes = read_plan(Path(__file__).parents[2] / "recipes" / "ablations.json")
    assert len(recipes) > 7
    assert plan.variants[0].changes == {}


def test_an_interval_over_subjects_is_wider_than_one_over_images() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    grouped = clustered_interval(values, [f"s{i // 25}" for i in range(100)])
    alone = clustered_interval(values, [f"s{i}" for i in range(100)])
    assert grouped[0] < alone[0] < values.mean() < alone[1] < grouped[1]
