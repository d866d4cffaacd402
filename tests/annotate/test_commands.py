import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medq_uni.annotate.records import ImageRecord, ReviewEntry
from medq_uni.annotate.store import Store
from medq_uni.cli.main import app
from medq_uni.cli.shared import BAD_INPUT, SOME_FAILED
from medq_uni.data.descriptions import read_descriptions
from medq_uni.taxonomy import Anatomy, Modality

RUNNER = CliRunner()


def medq(*words: object, typed: str | None = None, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["annotate", *(str(word) for word in words)], input=typed)
    assert "fault of medq" not in result.output, result.exception.__cause__
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "store.sqlite")


@pytest.fixture
def people(dataset: Path, place: str, tmp_path: Path) -> str:
    """A store with three reviewers and an administrator; returns where."""
    secret = tmp_path / "secret"
    secret.write_text("a long enough password\n")
    for name, role in (("ann", "reviewer"), ("bob", "reviewer"), ("cat", "reviewer"), ("root", "administrator")):
        words = ("user", "add", dataset, name, "--role", role, "--store", place, "--password-file", secret)
        assert f"{name}: added as {role}" in medq(*words)
    return place


def review_all(place: str, change) -> None:
    """Let every reviewer finish every image that is open, with what ``change`` makes of name and draft."""
    with Store.open(place) as store:
        for account in store.accounts.all():
            while (given := store.reviews.next_open(account.id)) is not None:
                draft = store.draft(given.key, given.round)
                assert draft is not None
                entry = ReviewEntry.of(change(account.name, draft.description))
                store.reviews.save(given.id, account.id, based_on=given.head, entry=entry, is_done=True)


def test_the_whole_way_from_drafts_to_the_next_round(dataset: Path, people: str, tmp_path: Path, chat, noise):
    at = ("--store", people)
    assert "10 drafted, 0 had one, 0 failed" in medq("draft", dataset, "--describer", "record", *at)
    assert "0 drafted, 10 had one, 0 failed" in medq("draft", dataset, "--describer", "record", *at)
    assert "round 1: 30 assignments made" in medq("assign", dataset, "--seed", 4, *at)
    assert "round 1: 0 assignments made" in medq("assign", dataset, "--seed", 4, *at)
    status = medq("status", dataset, *at)
    assert "10 images in store.sqlite" in status
    assert "round 1: 10 drafted, 10 open, 0 agreed" in status

    key = "train-00000003"
    places = {"ann": Anatomy.BRAIN, "bob": Anatomy.CHEST, "cat": Anatomy.PELVIS}

    def change(name: str, draft):
        is_disputed = draft == first.description
        return type(draft)(**(vars(draft) | ({"anatomy": places[name]} if is_disputed else {"impact": "as agreed"})))

    with Store.open(people) as store:
        first = store.draft(key, 1)
    review_all(people, change)
    queue = medq("adjudicate", dataset, *at)
    assert key in queue
    assert "anatomy brain:1/chest:1/pelvis:1" in queue
    decision = tmp_path / "decision.json"
    decision.write_text(change("bob", first.description).to_json())
    medq("adjudicate", dataset, key, "--description", decision, "--by", "root", *at)
    assert key not in medq("adjudicate", dataset, *at)
    assert "only an administrator" in medq(
        "adjudicate", dataset, key, "--description", decision, "--by", "ann", *at, code=BAD_INPUT
    )

    text = medq("agree", dataset, "-o", tmp_path / "agreement", *at)
    assert "round 1, 10 images with two reviews or more" in text
    values = json.loads((tmp_path / "agreement" / "agreement.json").read_text())
    assert values["agreement"][0]["slots"]["anatomy"]["fleiss_kappa"] < 1
    assert (tmp_path / "agreement" / "agreement.png").read_bytes().startswith(b"\x89PNG")

    assert "10 images of round 1" in medq("export", dataset, "-o", tmp_path / "found.jsonl", *at)
    assert read_descriptions(tmp_path / "found.jsonl")[key].anatomy is Anatomy.CHEST
    medq("export", dataset, "-o", tmp_path / "reviews.jsonl", "--format", "reviews", *at)
    medq("export", dataset, "-o", tmp_path / "studio", "--format", "label-studio", *at)
    assert "30 were there" in medq("import", dataset, tmp_path / "studio" / "reviews.json", *at)
    exists = medq("export", dataset, "-o", tmp_path / "found.jsonl", *at, code=BAD_INPUT)
    assert "exists already" in exists
    medq("export", dataset, "-o", tmp_path / "found.jsonl", "--overwrite", *at)
    before = Path(people).read_bytes()
    assert "is the store" in medq("export", dataset, "-o", people, "--overwrite", *at, code=BAD_INPUT)
    assert Path(people).read_bytes() == before
    held = sorted(path.name for path in dataset.iterdir())
    for verb in ("export", "agree", "round"):
        assert "only read" in medq(verb, dataset, "-o", dataset / "inside", *at, code=BAD_INPUT)
    medq("agree", dataset, "-o", dataset, *at, code=BAD_INPUT)
    assert sorted(path.name for path in dataset.iterdir()) == held
    assert "never replaced" in medq("round", dataset, "-o", tmp_path / "studio", *at, code=BAD_INPUT)

    rounds = medq("round", dataset, "-o", tmp_path / "tuning", *at)
    assert "round 1: 10 images with a result" in rounds
    assert "impact            changed in" in rounds
    assert len(read_descriptions(tmp_path / "tuning" / "descriptions.jsonl")) == 10

    def reply(request):
        words = request["messages"][-1]["content"][0]["text"]
        modality = words.partition("Modality: ")[2].partition(".")[0]
        return noise.to_dict() | {"modality": modality, "degradations": [], "verdict": "good"}

    chat.reply = reply
    text = medq("draft", dataset, "--describer", chat.url, "--round", 2, "--examples", 1, *at)
    assert "The images stay on this machine" in text
    assert "10 drafted" in text
    assert {len(request["messages"]) for request in chat.requests} == {4}
    assert "10 questions of all rounds" in medq(
        "export", dataset, "-o", tmp_path / "asked", "--format", "exchanges", *at
    )
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert {(one["is_valid"], one["model"]) for one in asked} == {(True, "qwen3-vl")}
    assert "as agreed" in chat.requests[0]["messages"][2]["content"]
    for request in chat.requests:
        shown, asked = (request["messages"][place]["content"] for place in (1, 3))
        assert shown != asked  # no question is answered by its own example

    copy = tmp_path / "copy.sqlite"
    assert "rows, checked" in medq("backup", dataset, "-o", copy, *at)
    again = ("--store", tmp_path / "again.sqlite")
    assert "rows, checked" in medq("restore", dataset, copy, *again)
    assert medq("status", dataset, *again).replace("again.", "store.") == medq("status", dataset, *at)
    assert "is not empty" in medq("restore", dataset, copy, *again, code=BAD_INPUT)


@pytest.mark.filterwarnings("ignore:The image is read as")
@pytest.mark.filterwarnings("ignore:.*is unlike all:UserWarning")  # phantoms smaller than any in training
def test_our_own_model_drafts(dataset: Path, place: str):
    assert "2 drafted" in medq("draft", dataset, "--describer", "nano", "--limit", 2, "--store", place)
    with Store.open(place) as store:
        for draft in store.drafts(1):
            assert draft.describer == "nano"
            assert draft.description.modality is store.image(draft.key).modality


def test_a_run_that_is_killed_goes_on_where_it_was(dataset: Path, place: str, chat, noise):
    seen = threading.Semaphore(0)

    def reply(request):
        seen.release()
        time.sleep(0.1)
        words = request["messages"][-1]["content"][0]["text"]
        modality = words.partition("Modality: ")[2].partition(".")[0]
        return noise.to_dict() | {"modality": modality, "degradations": [], "verdict": "good"}

    chat.reply = reply
    words = ["annotate", "draft", str(dataset), "--describer", chat.url, "--store", place, "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from medq_uni.cli.main import main; main()", *words], stderr=subprocess.DEVNULL
    )
    for _ in range(4):
        assert seen.acquire(timeout=60)
    process.kill()
    process.wait()
    asked = len(chat.requests)
    with Store.open(place) as store:
        assert sum(1 for _ in store.drafts(1)) == 3
    text = medq(*words[1:])
    assert "7 drafted, 3 had one, 0 failed" in text
    assert len(chat.requests) - asked == 7


def test_the_store_lies_beside_the_dataset_and_never_in_it(dataset: Path, tmp_path: Path):
    copy = tmp_path / "pairs"
    copy.mkdir()
    for path in dataset.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    medq("draft", copy, "--describer", "record")
    assert (tmp_path / "pairs.annotations.sqlite").is_file()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_what_costs_or_leaves_the_machine_is_asked_for(dataset: Path, place: str, chat, monkeypatch):
    at = ("--store", place)
    paid = ("--describer", chat.url, "--price-in", 2, "--price-out", 10, *at)
    medq("draft", dataset, *paid, typed="n\n", code=1)
    assert chat.requests == []
    text = medq("draft", dataset, *paid, "--max-cost", 0.001, "--yes", code=BAD_INPUT)
    assert "above --max-cost" in text
    assert chat.requests == []
    monkeypatch.setattr("medq_uni.describers.client._LOOPBACK", ())
    text = medq("draft", dataset, "--describer", chat.url, *at, typed="n\n", code=1)
    assert "The images LEAVE this machine" in text
    assert chat.requests == []


def test_failures_are_listed_and_counted_by_the_exit_code(dataset: Path, place: str, chat, noise):
    chat.reply = lambda request: noise.to_dict()  # fits the CT images alone
    words = ("draft", dataset, "--describer", chat.url, "--retries", 0, "--store", place)
    text = medq(*words, code=SOME_FAILED)
    assert "the answer speaks of ct" in text
    chat.reply = lambda request: (500, {}, b"")
    text = medq(*words, "--round", 2, "--max-tokens", 100, code=BAD_INPUT)  # a question that was not asked before
    assert "images in a row got no answer" in text
    assert "run the same command to go on" in text


def test_accounts_are_listed_changed_and_closed(dataset: Path, people: str):
    at = ("--store", people)
    assert "ann\treviewer\tactive" in medq("user", "list", dataset, *at)
    assert "ann: administrator, active" in medq("user", "change", dataset, "ann", "--role", "administrator", *at)
    assert "root: administrator, disabled" in medq("user", "change", dataset, "root", "--disable", *at)
    assert "last administrator" in medq("user", "change", dataset, "ann", "--disable", *at, code=BAD_INPUT)
    typed = "another long password\n" * 2
    with Store.open(people) as store:
        before = store.accounts.password_hash(1)
    medq("user", "change", dataset, "ann", "--password", *at, typed=typed)
    with Store.open(people) as store:
        after = store.accounts.password_hash(1)
    assert after != before
    assert after.startswith("$argon2id$")
    assert "is taken" in medq("user", "add", dataset, "ANN", *at, typed=typed, code=BAD_INPUT)
    assert "no such account" in medq("user", "change", dataset, "eve", "--disable", *at, code=BAD_INPUT)
    assert "password needs" in medq("user", "add", dataset, "eve", *at, typed="short\nshort\n", code=BAD_INPUT)


@pytest.mark.parametrize("verb", ["assign", "status", "agree", "adjudicate", "round"])
def test_a_store_that_is_not_there_is_not_made(dataset: Path, place: str, verb: str):
    assert "no annotation store here" in medq(verb, dataset, "--store", place, code=BAD_INPUT)
    assert not Path(place).exists()


def test_the_store_can_be_named_in_the_environment(dataset: Path, place: str, monkeypatch):
    with Store.open(place) as store:
        store.add_images([ImageRecord("one", Modality.CT, False)])
    monkeypatch.setenv("MEDQ_STORE", place)
    assert "1 images in store.sqlite" in medq("status", dataset)


def test_a_folder_of_files_is_drafted_and_tuned(tmp_path: Path, phantom, place: str, chat, noise):
    import numpy as np

    values = np.random.default_rng(0).integers(0, 2000, (3, 32, 32)).astype(np.uint16)
    phantom.series(tmp_path / "files" / "a", values)
    chat.reply = lambda request: noise.to_dict()
    words = (tmp_path / "files", "--store", place)
    text = medq("draft", *words, "--describer", chat.url, "--slices", 2)
    assert "2 drafted" in text
    assert phantom.canary not in text
    assert "only a dataset has" in medq("draft", *words, "--describer", "record", "--round", 2, code=BAD_INPUT)


def test_the_command_line_answers_without_the_libraries_of_annotation():
    code = (
        "import sys\n"
        "for name in ('sqlalchemy', 'alembic', 'openai', 'fastapi', 'argon2'): sys.modules[name] = None\n"
        "from medq_uni.cli.main import app\napp()"
    )

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)

    assert run("annotate", "--help").returncode == 0


@pytest.mark.parametrize(("verb", "extra"), [("status", "annotate"), ("serve", "serve")])
def test_a_missing_extra_is_named(dataset: Path, place: str, monkeypatch, verb: str, extra: str):
    import importlib.util

    find = importlib.util.find_spec
    hidden = ("sqlalchemy", "fastapi")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))
    text = medq(verb, dataset, "--store", place, code=BAD_INPUT)
    assert f'pip install "medq-uni[{extra}]"' in text
