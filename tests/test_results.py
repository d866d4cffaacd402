import copy
import csv
import io
import json
import re
from dataclasses import replace

import pytest

from experiments import result_pages, results
from medq_uni.ablate.plan import AblationPlan
from medq_uni.config_json import read_json


def test_the_results_page_is_the_one_that_the_kept_results_give():
    assert results.PAGE.read_text(encoding="utf-8") == results.page()


def test_so_is_the_page_of_the_safety_checks():
    assert results.SAFETY.read_text(encoding="utf-8") == results.safety_page()


def test_so_is_the_table_of_the_readme():
    text = results.README.read_text(encoding="utf-8")
    assert "<!-- worklist:begin -->" in text
    assert text == results.readme(text)


def test_so_are_the_tables_in_full():
    printed = result_pages.tables()
    assert {path.name for path in results.TABLES.iterdir()} == set(printed)
    for name, text in printed.items():
        assert (results.TABLES / name).read_text(encoding="utf-8") == text, name


def test_every_link_of_the_pages_leads_somewhere():
    for page in (results.PAGE, results.SAFETY):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tables_in_full_hold_the_numbers_of_the_pages():
    kept_rows = [
        (one["name"], row) for one in result_pages.kept("evaluation")["benchmarks"] for row in one["by_modality"]
    ]
    rows = list(csv.DictReader(io.StringIO(result_pages.tables()["by_modality.csv"])))
    assert len(rows) == len(kept_rows)
    for found, (benchmark, row) in zip(rows, kept_rows, strict=True):
        assert (found["benchmark"], found["system"], found["part"]) == (benchmark, row["system"], row["part"])
        if row["mean"]["psnr"] is not None:
            assert float(found["mean_psnr"]) == pytest.approx(row["mean"]["psnr"], abs=1e-4)
    (ours,) = [r for r in rows if (r["benchmark"], r["part"], r["system"]) == ("phantoms", "ct", "nano")]
    assert f"| phantoms | ct | 25.29 | {float(ours['mean_psnr']):.2f} |" in result_pages.page()


@pytest.mark.parametrize("name", results.ABLATION_PLANS)
def test_so_are_the_tables_of_the_ablations(name: str):
    text = results.ABLATIONS.read_text(encoding="utf-8")
    assert f"<!-- {name}:begin -->" in text
    assert text == results.with_table(text, name, results.ablation_table(name))


@pytest.mark.parametrize("name", results.PLANS)
def test_results_are_known_by_their_plan_among_the_recipes(name: str):
    plan = read_json(AblationPlan, results.RECIPES / f"{name}.json", where="recipes/")
    assert results.plan_name(plan) == name
    assert results.plan_name(replace(plan, test=replace(plan.test, data=("ct:somewhere",)))) == name
    assert results.plan_name(replace(plan, learning_rates=(9.0,))) is None
    kept = results.KEPT / f"{name}.json"
    if kept.is_file():
        assert results.plan_name(results.plan_of(json.loads(kept.read_text(encoding="utf-8")))) == name
    else:
        assert f"medq ablate recipes/{name}.json" in results.ablation_table(name)


def test_kept_results_name_no_place_of_a_machine():
    for path in results.KEPT.iterdir():
        assert not re.search(r'["\s](?:/[\w.-]+){2,}', path.read_text(encoding="utf-8")), path.name


def kept() -> dict:
    """Return results of a filter and two models, one of them ours."""
    systems, scores = ("degraded input", "nano", "NAFNet"), {"psnr": 30.0}
    rows = [
        {"group": "real", "part": part, "system": name, "mean": scores, "difference": 0.5, "p_value": 0.01}
        for part in ("ct", "mr")
        for name in systems
    ]
    good = [{"group": "real", "modality": "ct", "system": name, "lowest": 50.0} for name in systems]
    failed = [{"system": name, "case": 1} for name in systems]
    one = {"name": "real", "sha256": "1", "by_modality": rows, "by_task": rows, "good_images": good}
    one |= {"failed": failed, "warned": failed}
    bias = ["Bias", ["set", "system", "mean"], [["real", name, "0.1"] for name in systems], ""]
    failures = ["Failures", ["system", "reason"], [["nano", "a"], ["nano", "b"], ["NAFNet", "c"]], ""]
    return {
        "date": "2026-01-01",
        "against": "nano",
        "systems": [{"name": name, "not_run": ""} for name in systems],
        "benchmarks": [one],
        "safety": [bias, failures],
    }


def without_baseline(found: dict) -> dict:
    found = copy.deepcopy(found) | {"date": "2026-02-02"}
    found["systems"] = found["systems"][:2]
    one = found["benchmarks"][0]
    for name in ("by_modality", "by_task", "good_images", "failed", "warned"):
        one[name] = [row for row in one[name] if row["system"] != "NAFNet"]
    for row in one["by_modality"]:
        row["mean"] = {"psnr": 31.0}
    found["safety"] = [[*t[:2], [row for row in t[2] if "NAFNet" not in row], t[3]] for t in found["safety"]]
    return found


def test_a_system_that_is_not_scored_again_keeps_its_rows_without_a_paired_test():
    old = kept()
    merged = results.with_kept(without_baseline(old), old)
    rows = merged["benchmarks"][0]["by_modality"]
    order = [(row["part"], row["system"], row["mean"]["psnr"], row["p_value"]) for row in rows]
    ours = [("degraded input", 31.0, 0.01), ("nano", 31.0, 0.01)]
    assert order == [(part, *row) for part in ("ct", "mr") for row in (*ours, ("NAFNet", 30.0, None))]
    assert [one.get("measured") for one in merged["systems"]] == [None, None, "2026-01-01"]
    assert merged["safety"] == old["safety"]
    assert [len(merged["benchmarks"][0][name]) for name in ("failed", "warned")] == [3, 3]
    later = results.with_kept(without_baseline(merged), merged)
    assert [one.get("measured") for one in later["systems"]] == [None, None, "2026-01-01"]


@pytest.mark.parametrize("key", ["against", "sha256"])
def test_nothing_is_kept_from_other_images_or_beside_another_system(key: str):
    old = kept()
    new = without_baseline(old)
    (new if key in new else new["benchmarks"][0])[key] = "other"
    assert results.with_kept(copy.deepcopy(new), old) == new
