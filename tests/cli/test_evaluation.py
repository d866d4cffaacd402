import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medq_uni.cli.main import app
from medq_uni.config import ConfigError
from medq_uni.safety import checks, output_cache
from medq_uni.safety.output_cache import SafetySettings
from medq_uni.systems.build import INPUT
from medq_uni.systems.system import System


def test_systems_are_scored_and_what_cannot_run_is_named(tmp_path: Path):
    recipe = tmp_path / "tiny.json"
    split = {"count": 5, "seed": 1, "phantom_sizes": [48], "grades": ["moderate"]}
    recipe.write_text(json.dumps({"name": "tiny", "splits": {"test": split, "val": {**split, "seed": 2}}}))
    arguments = ["evaluate", "--benchmark", str(recipe), "-o", str(tmp_path / "out"), "--systems"]
    done = CliRunner().invoke(app, [*arguments, "wavelet"])
    assert done.exit_code == 0, done.output
    assert "| wavelet |" in done.stdout
    incomplete = CliRunner().invoke(app, [*arguments, "wavelet,no/such/folder"])
    assert incomplete.exit_code == 3
    assert "not run" in incomplete.stdout
    assert "warning: folder was not run: " in incomplete.stderr
    for systems, message in (("nanoo", "'nanoo' is none of input, "), ("", "name at least one")):
        unknown = CliRunner().invoke(app, [*arguments, systems])
        assert unknown.exit_code == 1
        assert message in unknown.stderr
    wrong = CliRunner().invoke(app, [*arguments, "tv,tv"])
    assert wrong.exit_code == 1
    assert "tv stands twice" in wrong.output


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Evaluate the input of one small phantom."""
    recipe = tmp_path / "tiny.json"
    recipe.write_text(json.dumps({"name": "tiny", "splits": {"test": {"count": 1, "seed": 1, "phantom_sizes": [48]}}}))
    return ["evaluate", "--benchmark", str(recipe), "-o", str(tmp_path / "out"), "--systems", "input"]


def test_safety_is_a_part_of_results_and_page(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = SafetySettings(size_px=96, per_grade=1, shift_count=1)
    monkeypatch.setattr(output_cache, "SafetySettings", lambda **told: small)
    done = CliRunner().invoke(app, [*arguments, "--safety"])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["safety"]["systems"][INPUT]["lesions"]["rows"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Good-image preservation" in page
    assert "Wilson 1927" in page


def test_the_command_says_how_much_is_checked(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def instead(systems: Sequence[System], settings: SafetySettings, *rest: Any) -> None:
        asked.append((*(system.name for system in systems), settings))
        raise ConfigError("enough")

    monkeypatch.setattr(checks, "run_safety", instead)
    CliRunner().invoke(app, arguments)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["safety"] is None
    CliRunner().invoke(app, [*arguments, "--safety"])
    CliRunner().invoke(app, [*arguments, "--safety", "--safety-phantoms", "1", "--safety-slices", "7"])
    assert asked == [
        (INPUT, SafetySettings()),
        (INPUT, SafetySettings(per_grade=1, shift_count=1, real_count=7)),
    ]


def test_a_sweep_is_scored_alone_and_its_tables_are_said(tmp_path: Path):
    chains = json.loads((Path(__file__).parents[2] / "benchmark" / "sweep" / "chains.json").read_text())
    for part in ("phantoms", "val"):
        chains[part] |= {"count": 1, "phantom_sizes": [48]}
    (curve,) = chains["curves"] = chains["curves"][:1]
    curve["points"] = curve["points"][::3]
    recipe, out = tmp_path / "sweep.json", tmp_path / "out"
    recipe.write_text(json.dumps(chains))
    done = CliRunner().invoke(app, ["evaluate", "--sweep", str(recipe), "-o", str(out), "--systems", "gaussian,nano"])
    assert done.exit_code == 0, done.output
    assert "### Lead over the best filter" in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert len(results["sweep"]["gains"]) == 3 * len(curve["points"]) == 9
    page = (out / "report.html").read_text()
    assert page.index("<h2>Sweep</h2>") < page.index("<h2>Benchmark: sweep</h2>")
    assert (out / "sweep" / "ct-low-dose.png").is_file()
    for arguments in ([], ["--sweep", str(recipe), "--benchmark", str(recipe)]):
        wrong = CliRunner().invoke(app, ["evaluate", "-o", str(out), *arguments])
        assert wrong.exit_code == 1
        assert "a sweep is scored alone" in wrong.stderr
