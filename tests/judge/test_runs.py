import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medq_uni.cli.main import app
from medq_uni.data.dataset import build_dataset, read_dataset_recipe
from medq_uni.description import QualityDescription
from medq_uni.io.read_write import write_image
from medq_uni.judge.runs import DescriptionRun
from medq_uni.systems.benchmark import Benchmark, read_benchmarks
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Severity, Task
from tests.chat import ChatServer
from tests.judge.test_medqbench import choices, picture, write

RECIPE = {"name": "tiny", "splits": {"test": {"count": 10, "seed": 4, "phantom_sizes": [40], "grades": ["mild"]}}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(RECIPE))
    return path


def medq(*words: object, answer: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["judge", *(str(word) for word in words)], input=answer)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "fault of medq" not in result.output, result.exception.__cause__
    return result.exit_code, result.stdout, result.stderr


def replies(truth: QualityDescription):
    """A server that plays a describer, a judge, and one who answers questions."""

    def reply(request: dict) -> object:
        title = request.get("response_format", {}).get("json_schema", {}).get("name")
        if title == "Score":
            return {"why": "same", "score": 2}
        if title == "Choice":
            return {"answer": "B"}
        return {"cannot_assess": "", "description": truth.to_dict()} if title == "Assessment" else "It is usable."

    return reply


def test_a_recipe_and_the_dataset_built_from_it_are_the_same_benchmark(recipe: Path, tmp_path: Path):
    (drawn,) = read_benchmarks(recipe)
    build_dataset(read_dataset_recipe(recipe), tmp_path / "built")
    (stored,) = read_benchmarks(tmp_path / "built")
    assert drawn.sha256 == stored.sha256
    assert [case.records for case in drawn.test] == [case.records for case in stored.test]
    assert DescriptionRun.of([drawn]).truths == DescriptionRun.of([stored]).truths


def test_several_benchmarks_keep_their_names(cases: list[Case]):
    both = DescriptionRun.of(
        [Benchmark("one", tuple(cases), ()), Benchmark("two", tuple(cases), ())], out_of_scope=False
    )
    assert {case.group for case in both.cases} == {"one, phantoms", "two, phantoms"}
    assert both.out_of_scope == ()


def test_the_offline_describers_are_measured_without_a_server(recipe: Path, tmp_path: Path):
    out = tmp_path / "out"
    code, text, _ = medq("--benchmark", recipe, "--describers", "record,majority", "-o", out)
    assert code == 0
    assert "| phantoms | verdict accuracy | 10 | 1.000 (1.00 to 1.00) |" in text
    assert "| out of scope, all | majority | 39 |" in text
    assert "Judge" not in text
    assert text == (out / "tables.md").read_text()
    said = json.loads((out / "descriptions.json").read_text())
    assert list(said["answers"]) == ["record", "majority"]
    assert all(one["text"] == one["truth"] for one in said["answers"]["record"])
    with (out / "aspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["describer"] for row in rows} == {"record", "majority"}
    assert not (out / "judge.csv").exists()


def test_a_server_describes_and_another_judges_and_a_second_run_asks_nothing(
    recipe: Path, tmp_path: Path, chat: ChatServer, monkeypatch: pytest.MonkeyPatch
):
    (benchmark,) = read_benchmarks(recipe)
    chat.reply = replies(DescriptionRun.of([benchmark]).truths[0])
    monkeypatch.setenv("MEDQ_DESCRIBER_KEY", "sk-DESCRIBER")
    monkeypatch.setenv("MEDQ_JUDGE_KEY", "sk-JUDGE")
    options = ["--benchmark", recipe, "--describers", f"majority,openai:vlm@{chat.url}", "-o", tmp_path / "out"]
    options += ["--judge", f"gpt@{chat.url}", "--rounds", 2, "--no-out-of-scope", "--workers", 2, "--retries", 0]
    code, text, told = medq(*options)
    assert code == 0
    assert "10 images for openai:vlm: about" in told
    assert "20 descriptions x 2 rounds x 4 questions for the judge gpt: 160, 0 of them answered before" in told
    assert "| phantoms | openai:vlm | 10 / 10 | 2.000 | 2.000 | 2.000 | 2.000 | 8.000 |" in text
    assert "Out of scope" not in text
    used = {request["model"]: head["authorization"] for request, head in zip(chat.requests, chat.headers, strict=True)}
    assert used == {"vlm": "Bearer sk-DESCRIBER", "gpt": "Bearer sk-JUDGE"}
    assert "sk-" not in "".join(path.read_text() for path in (tmp_path / "out").rglob("*.*"))
    asked = len(chat.requests)
    again = medq(*options)
    assert again[:2] == (code, text)
    assert "160, 160 of them answered before" in again[2]
    assert len(chat.requests) == asked


def test_what_costs_money_or_leaves_the_machine_is_asked_for(
    recipe: Path, tmp_path: Path, chat: ChatServer, monkeypatch: pytest.MonkeyPatch
):
    (benchmark,) = read_benchmarks(recipe)
    chat.reply = replies(DescriptionRun.of([benchmark]).truths[0])
    options = ["--benchmark", recipe, "--describers", "majority", "--no-out-of-scope", "-o", tmp_path / "out"]
    options += ["--judge", f"gpt@{chat.url}", "--price-in", 2, "--price-out", 8]
    code, _, told = medq(*options, answer="n\n")
    assert code == 1
    assert "cost about 0." in told
    assert chat.requests == []
    assert medq(*options, "--yes")[0] == 0
    asked = len(chat.requests)
    monkeypatch.setattr("medq_uni.describers.client._LOOPBACK", ())
    remote = ["--describers", f"openai:vlm@{chat.url}", "--benchmark", recipe, "-o", tmp_path / "two"]
    code, _, told = medq(*remote, answer="n\n")
    assert code == 1
    assert "LEAVE this machine" in told
    assert len(chat.requests) == asked


def test_failures_are_shown_and_end_with_their_own_exit_code(recipe: Path, tmp_path: Path, chat: ChatServer):
    options = ["--benchmark", recipe, "--describers", f"record,openai:vlm@{chat.url}", "-o", tmp_path / "out"]
    code, text, told = medq(*options, "--retries", 0, "--no-out-of-scope")
    assert code == 3
    assert "10 answers failed" in told
    assert "| phantoms | failed, share | 10 | 0.000 (0.00 to 0.00) | 1.000 (1.00 to 1.00), 0 |" in text
    said = json.loads((tmp_path / "out" / "descriptions.json").read_text())["answers"]["openai:vlm"]
    assert all(one["outcome"] == "failed" and one["description"] is None and one["reason"] for one in said)


def test_medq_bench_alone(tmp_path: Path, chat: ChatServer, truths: list[QualityDescription]):
    chat.reply = replies(truths[0])
    questions = write(tmp_path / "qa.tsv", choices())
    describers = f"majority,openai:vlm@{chat.url}"
    code, text, _ = medq("--medqbench", questions, "--describers", describers, "-o", tmp_path / "out")
    assert code == 0
    assert "| all | majority | 3 | 0 | not supported | - |" in text
    assert "| type how | openai:vlm | 1 | 1 | 1.000 |" in text
    said = json.loads((tmp_path / "out" / "medqbench.json").read_text())
    assert said["majority"] is None
    assert [(one["index"], one["truth"], one["answer"]) for one in said["openai:vlm"]] == [
        ("0", "A", "B"),
        ("1", "B", "B"),
        ("2", "B", "B"),
    ]
    texts = write(tmp_path / "d.tsv", [{"index": "0", "image": picture(0), "description": "Usable.", "modality": "CT"}])
    judged = ["--judge", f"gpt@{chat.url}", "--rounds", 1]
    code, text, _ = medq("--medqbench", texts, "--describers", describers, "-o", tmp_path / "out", *judged)
    assert code == 0
    assert "| MedQ-Bench, ct | openai:vlm | 1 / 1 | 2.000 | 2.000 | 2.000 | 2.000 | 8.000 |" in text
    assert "| MedQ-Bench, ct | majority | 0 / 1 | - |" in text


def test_bad_input_is_named(tmp_path: Path, recipe: Path):
    assert medq("-o", tmp_path / "out")[0] == 2
    code, _, told = medq("--benchmark", tmp_path / "no.json", "-o", tmp_path / "out")
    assert (code, "is no benchmark" in told) == (1, True)
    code, _, told = medq("--benchmark", recipe, "--describers", "openai:gpt", "-o", tmp_path / "out")
    assert (code, "openai:MODEL@http" in told) == (1, True)


def test_listed_files_are_described_without_records_and_a_missing_one_is_named(tmp_path: Path, cases: list[Case]):
    case = next(one for one in cases if one.task is Task.MR_NOISE and one.severity is Severity.SEVERE)
    write_image(case.degraded, tmp_path / "low.nii.gz")
    write_image(case.reference, tmp_path / "full.nii.gz")
    lines = ["degraded,reference,task,severity,subject", "low.nii.gz,full.nii.gz,mr-noise,severe,s1"]
    (tmp_path / "benchmark.csv").write_text("\n".join([*lines, "gone.nii.gz,full.nii.gz,mr-noise,mild,s2", ""]))
    options = ["--benchmark", tmp_path, "--describers", "record,nano", "-o", tmp_path / "out", "--device", "cpu"]
    code, text, told = medq(*options, "--no-out-of-scope")
    assert code == 3
    assert "line 3" in told
    assert "gone.nii.gz is missing" in told
    assert "| files | verdict accuracy | 1 | 1.000 |" in text
    assert "anatomy accuracy" not in text
    assert "parameter error" not in text
