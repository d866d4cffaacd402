"""Imports go strictly down the floors, or stay inside one's own folder."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medq_uni"
FLOORS = (
    {"taxonomy", "errors", "notice", "threads"},
    {"wording", "measurement", "json_text"},
    {"image", "description", "config", "files", "quantities"},
    {"config_json"},
    {
        "seeding",
        "metrics",
        "tokenizer",
        "stream",
        "distribute",
        "tiles",
        "statistics",
        "figures",
        "csv_text",
        "scaling",
    },
    {"io", "physics", "preprocess"},
    {"data", "model", "result", "scoring", "display", "image_like"},
    {"baselines"},
    {"pretrained"},
    {"inference", "physical_units"},
    {"assessor", "train"},
    {"restorer"},
    {"pipeline"},
    {"report"},
    {"systems", "batch", "demo", "doctor"},
    {"describers"},
    {"annotate"},
    {"evaluate", "safety", "judge", "ablate", "review", "calibrate"},
    {"cli"},
    {"__main__"},
)
MEASUREMENTS = {"evaluate", "safety", "judge", "ablate", "calibrate"}
"""What they share lies below; the command line brings their results together."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "medq_uni":
                names = [f"medq_uni.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("medq_uni.")}
    return parts


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path):
    here = part_of(path)
    for there in imported_parts(path):
        assert there == here or FLOOR[there] < FLOOR[here], f"{here} (floor {FLOOR[here]}) imports {there}"


def test_the_folders_of_measurements_do_not_import_each_other():
    for path in (one for one in modules() if part_of(one) in MEASUREMENTS):
        others = imported_parts(path) & MEASUREMENTS - {part_of(path)}
        assert not others, f"{path.relative_to(PACKAGE)} imports {others}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_400_lines(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_is_longer_than_60_lines(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("module", ["medq_uni.cli.main", "medq_uni.description", "medq_uni.config", "medq_uni.image"])
def test_the_command_line_and_the_bottom_floors_do_not_load_torch(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
