"""The exit codes that the command line promises: 0 done, 1 the only or all input bad, 2 usage, 3 some items failed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from medq_uni.cli.main import app

ROOT = Path(__file__).parents[1]
FILES = Path(__file__).parent / "fixtures" / "version-0.1"
MODEL = FILES / "weights"
DONE, BAD_INPUT, USAGE, SOME_FAILED = 0, 1, 2, 3
VERBS = {
    "assess": ("in.png",),
    "restore": ("in.png", "-o", "out.png"),
    "degrade": ("in.png", "-o", "out.png", "--task", "mr-noise"),
    "dataset build": ("recipe.json", "-o", "out"),
    "dataset verify": ("folder",),
    "dataset show": ("folder",),
    "train": ("recipe.json", "-o", "out"),
    "ablate": ("plan.json", "-o", "out"),
    "evaluate": ("--benchmark", "recipe.json", "-o", "out", "--systems", "input"),
    "judge": ("--benchmark", "recipe.json", "-o", "out", "--describers", "record"),
    "annotate draft": ("folder", "--describer", "record", "--store", "store.sqlite"),
    "annotate assign": ("folder", "--store", "store.sqlite"),
    "annotate export": ("folder", "-o", "out.jsonl", "--store", "store.sqlite"),
    "annotate status": ("folder", "--store", "store.sqlite"),
    "annotate backup": ("folder", "-o", "out.jsonl", "--store", "store.sqlite"),
    "weights inspect": ("./folder",),
    "weights export": ("./folder", "-o", "out"),
    "weights average": ("./folder", "./other", "-o", "out"),
    "doctor": ("--model", "./folder"),
}
"""What every command needs at least; none of the files is there."""


def medq(*words: object) -> Result:
    """Run a command; a fault of the package is raised, however it would be shown."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "fault of medq" not in result.output
    return result


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder where nothing is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_input_that_is_not_there_ends_with_1_one_line_and_no_output(verb: str, empty: Path):
    result = medq(*verb.split(), *VERBS[verb])
    assert result.exit_code == BAD_INPUT, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(line) > len("error: ") + 10
    assert "Traceback" not in result.output
    assert not [path.name for path in empty.iterdir() if path.name.startswith("out")]


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_nobody_knows_ends_with_2_before_any_work(verb: str, empty: Path):
    result = medq(*verb.split(), *VERBS[verb], "--nonsense")
    assert result.exit_code == USAGE
    assert "--nonsense" in result.stderr
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "doctor"])
def test_a_command_without_what_it_needs_ends_with_2(verb: str, empty: Path):
    result = medq(*verb.split())
    assert result.exit_code == USAGE
    assert "Usage" in result.stderr
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("dataset", "nonsense"),
        ("restore", "in.png", "-o", "out.png", "--steps", "0"),
        ("restore", "in.png", "-o", "out.png", "--steps", "many"),
        ("restore", "in.png", "-o", "out.png", "--modality", "xray"),
        ("restore", "in.png", "-o", "out.png", "--start", "middle"),
        ("assess", "in.png", "--precision", "float64"),
        ("degrade", "in.png", "-o", "out.png"),
        ("degrade", "in.png", "-o", "out.png", "--task", "mr-noise", "--record", "record.json"),
        ("degrade", "in.png", "-o", "out.png", "--task", "mr-noise", "--severity", "none"),
        ("train", "recipe.json", "--workers", "0"),
        ("judge", "-o", "out"),
        ("judge", "-o", "out", "--benchmark", "recipe.json", "--rounds", "0"),
    ],
    ids=" ".join,
)
def test_values_that_cannot_be_meant_end_with_2(words: tuple[str, ...], empty: Path):
    assert medq(*words).exit_code == USAGE
    assert list(empty.iterdir()) == []


def test_an_error_is_shown_whole_where_that_is_asked_for(empty: Path):
    words = ("degrade", "in.png", "-o", "out.png", "--record", "record.json")
    assert medq(*words).exit_code == BAD_INPUT
    with pytest.raises(FileNotFoundError):
        medq("--debug", *words)
    assert medq(*words).exit_code == BAD_INPUT


def test_a_fault_of_the_package_is_not_told_as_one_of_the_user(empty: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("medq_uni.data.verify.verify_dataset", broken)
    result = CliRunner().invoke(app, ["dataset", "verify", "folder"])
    assert result.exit_code not in (DONE, USAGE, SOME_FAILED)
    assert "error:" not in result.output


def test_a_whole_dataset_ends_with_0_and_a_damaged_one_with_1(tmp_path: Path):
    folder = Path(shutil.copytree(FILES / "dataset" / "set", tmp_path / "set"))
    assert medq("dataset", "verify", folder).exit_code == DONE
    shard = folder / "test-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert medq("dataset", "verify", folder).exit_code == BAD_INPUT


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whole_weights_end_with_0_and_damaged_ones_with_1(tmp_path: Path):
    folder = Path(shutil.copytree(MODEL, tmp_path / "weights"))
    assert medq("doctor", "--model", folder, "--json").exit_code == DONE
    (folder / "tokenizer.json").unlink()
    for words in (("doctor", "--model", folder), ("weights", "export", folder, "-o", tmp_path / "out")):
        result = medq(*words)
        assert result.exit_code == BAD_INPUT
        assert "tokenizer.json is missing" in result.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tree_ends_with_3_only_if_some_failed_and_some_did_not(tmp_path: Path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    words = ("restore", tree, "-o", out, "--modality", "mr", "--model", MODEL, "--device", "cpu")
    empty = medq(*words)
    assert (empty.exit_code, "no image in this folder" in empty.stderr) == (BAD_INPUT, True)
    (tree / "bad.nii.gz").write_bytes(b"no image")
    assert medq(*words).exit_code == BAD_INPUT  # all failed
    shutil.copyfile(FILES / "images" / "mr.nii.gz", tree / "good.nii.gz")
    first = medq(*words)
    assert (first.exit_code, "1 restored, 0 unchanged, 0 skipped, 1 failed" in first.stderr) == (SOME_FAILED, True)
    again = medq(*words)  # what was done before did not fail
    assert (again.exit_code, "0 restored, 0 unchanged, 1 skipped, 1 failed" in again.stderr) == (SOME_FAILED, True)
    (tree / "bad.nii.gz").unlink()
    assert medq(*words).exit_code == DONE


def benchmark(folder: Path, *rows: str) -> Path:
    """Write a benchmark of a pair of files, and further rows."""
    folder.mkdir()
    shutil.copyfile(FILES / "degraded" / "mixed.nii.gz", folder / "low.nii.gz")
    shutil.copyfile(FILES / "images" / "mr.nii.gz", folder / "full.nii.gz")
    head = "degraded,reference,task,severity,subject"
    text = "\n".join([head, "low.nii.gz,full.nii.gz,mr-noise,severe,one", *rows, ""])
    (folder / "benchmark.csv").write_text(text)
    return folder


MISSING = "absent.nii.gz,full.nii.gz,mr-noise,severe,two"


def test_a_benchmark_ends_with_3_if_a_pair_or_a_system_is_missing(tmp_path: Path):
    def evaluated(folder: Path, systems: str) -> Result:
        return medq("evaluate", "--benchmark", folder, "-o", tmp_path / f"out-{folder.name}", "--systems", systems)

    whole, partial = benchmark(tmp_path / "whole"), benchmark(tmp_path / "partial", MISSING)
    assert evaluated(whole, "input").exit_code == DONE
    result = evaluated(partial, "input")
    assert (result.exit_code, "absent.nii.gz is missing" in result.stderr) == (SOME_FAILED, True)
    result = evaluated(whole, "input,tv")  # which has no validation slices to be tuned on
    assert (result.exit_code, "tv was not run" in result.stderr) == (SOME_FAILED, True)
    assert evaluated(whole, "nonsense").exit_code == BAD_INPUT


def test_judging_ends_with_3_if_a_pair_is_missing(tmp_path: Path):
    def judged(folder: Path) -> Result:
        words = ("--describers", "record", "--no-out-of-scope", "-o", tmp_path / f"out-{folder.name}")
        return medq("judge", "--benchmark", folder, *words)

    assert judged(benchmark(tmp_path / "whole")).exit_code == DONE
    result = judged(benchmark(tmp_path / "partial", MISSING))
    assert (result.exit_code, "absent.nii.gz is missing" in result.stderr) == (SOME_FAILED, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--version"], DONE), (["dataset", "verify", "absent"], BAD_INPUT), (["nonsense"], USAGE)],
    ids=["done", "bad input", "usage"],
)
def test_the_process_ends_with_the_code(words: list[str], code: int):
    done = subprocess.run([sys.executable, "-m", "medq_uni", *words], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == code
