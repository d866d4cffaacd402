import base64
import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medq_uni.describers.cache import AnswerCache
from medq_uni.describers.client import ChatClient, ChatConfig
from medq_uni.description import DescriptionError
from medq_uni.judge.medqbench import (
    BenchmarkFileError,
    Item,
    Response,
    choice_markdown,
    choice_table,
    messages_of,
    read_choice,
    read_tsv,
    reasoning_of,
    respond,
)
from tests.chat import ChatServer


def picture(seed: int, kind: str = "PNG") -> str:
    values = np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=kind)
    return base64.b64encode(buffer.getvalue()).decode()


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(k for row in rows for k in row)), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def choices() -> list[dict[str, str]]:
    shared = {"A": "Yes", "B": "No", "C": "", "D": "nan"}
    return [
        {"index": "0", "image": picture(0), "question": "Is it noisy?", **shared, "answer": "A", "modality": "CT"},
        {"index": "1", "image": "0", "question": "Is it blurred?", **shared, "answer": "1", "modality": "CT"},
        {
            "index": "2",
            "image": picture(2, "JPEG"),
            "question": "How severe\nis the noise?",
            "A": "Mild",
            "B": "Moderate",
            "C": "Severe",
            "D": "None",
            "answer": "moderate",
            "modality": "MRI",
        },
    ]


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return read_tsv(write(tmp_path / "qa.tsv", choices()))


@pytest.fixture
def client(chat: ChatServer):
    client = ChatClient(ChatConfig(url=chat.url, retries=0), sleep=lambda seconds: None)
    yield client
    client.close()


def test_a_file_reads_as_it_was_written(items: list[Item]):
    assert [item.index for item in items] == ["0", "1", "2"]
    assert [item.truth for item in items] == ["A", "B", "B"]
    assert [item.question_type for item in items] == ["yes-or-no", "yes-or-no", "how"]
    assert [item.modality for item in items] == ["ct", "ct", "mri"]
    assert items[1].picture == items[0].picture == base64.b64decode(picture(0))
    assert items[0].options == {"A": "Yes", "B": "No"}
    assert items[2].question == "How severe\nis the noise?"


def test_optional_columns_may_be_missing_or_given(tmp_path: Path):
    rows = [{k: v for k, v in row.items() if k not in ("modality", "index", "D")} for row in choices()]
    rows[1]["image"] = picture(1)
    rows[0]["question_type"] = "What"
    found = read_tsv(write(tmp_path / "a.tsv", rows))
    assert [item.modality for item in found] == ["unknown"] * 3
    assert [item.question_type for item in found] == ["What", "yes-or-no", "how"]


def test_descriptions_read_with_and_without_a_question(tmp_path: Path):
    row = {"index": "7", "image": picture(0), "description": "Streaks. Overall, the quality of this image is reject."}
    (item,) = read_tsv(write(tmp_path / "a.tsv", [row]))
    assert (item.kind, item.truth) == ("description", row["description"])
    assert "Overall, the quality of this image is" in item.question
    (item,) = read_tsv(write(tmp_path / "b.tsv", [row | {"question": "What do you see?"}]))
    assert item.question == "What do you see?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "9"}, "row 1 has no image"),
        ({"image": ""}, "row 1 has no image"),
        ({"image": "x" * 100}, "no base64"),
        ({"image": base64.b64encode(b"no picture at all" * 9).decode()}, "no base64 of PNG"),
        ({"answer": "E"}, "'E' is none of the options A, B"),
        ({"answer": ""}, "none of the options"),
        ({"index": "0"}, "index of another"),
        ({"image_a": "x"}, "pairs of images"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(tmp_path: Path, change: dict[str, str], message: str):
    rows = choices()
    rows[1] |= change
    with pytest.raises(BenchmarkFileError, match=message):
        read_tsv(write(tmp_path / "a.tsv", rows))


@pytest.mark.parametrize("content", [b"", b"a\tb\n1\t2\n", b"\xff\xfe\x00", b"index\timage\tquestion\n0\t0\tx\n"])
def test_another_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(BenchmarkFileError, match=r"needs rows|no TSV"):
        read_tsv(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ('{"answer": "B"}', "B"),
        ("B", "B"),
        ("b.", "B"),
        ("B. Moderate", "B"),
        ("The answer is B.", "B"),
        ("(B) moderate", "B"),
        ('```json\n{"answer": "B"}\n```', "B"),
    ],
)
def test_a_letter_is_read(text: str, letter: str):
    assert read_choice(text, "ABCD") == letter


@pytest.mark.parametrize("text", ["A blurry image", "E", '{"answer": "D"}', "", "{}", "I cannot tell", "[1]"])
def test_what_is_no_letter_of_an_option_is_not_taken_for_one(text: str):
    with pytest.raises(DescriptionError, match="one of the letters A, B, C"):
        read_choice(text, "ABC")


def test_a_model_is_asked_once_with_the_picture_as_it_is(items, client, chat: ChatServer, tmp_path: Path):
    chat.reply = lambda request: {"answer": "A"}
    cache = AnswerCache(tmp_path / "cache")
    responses = respond(client, items, cache, threads=2)
    assert responses == [Response("A")] * 3
    assert respond(client, items, cache) == responses
    assert len(chat.requests) == 3
    (part,) = [p for p in messages_of(items[2])[-1]["content"] if p["type"] == "image_url"]
    assert part["image_url"]["url"] == f"data:image/jpeg;base64,{picture(2, 'JPEG')}"
    found = {row.part: row for row in choice_table("m", items, responses)}
    assert found["all"].accuracy == pytest.approx(1 / 3)
    assert found["type yes-or-no"].accuracy == 0.5
    assert found["modality mri"].accuracy == 0
    assert (found["type yes-or-no"].low, found["type yes-or-no"].high) == (None, None)  # both show one image


def test_an_answer_that_fails_counts_as_wrong_and_is_asked_again(items, client, chat: ChatServer, tmp_path: Path):
    chat.reply = lambda request: (
        {"answer": "A"} if "noisy" in str(request) else "B" if "blurred" in str(request) else (500, {}, b"")
    )
    cache = AnswerCache(tmp_path / "cache")
    responses = respond(client, items, cache, threads=1)
    assert [one.text for one in responses] == ["A", "B", None]
    assert "HTTP 500" in responses[2].reason
    (row, *_) = choice_table("m", items, responses)
    assert (row.count, row.answered, row.accuracy) == (3, 2, pytest.approx(2 / 3))
    chat.reply = lambda request: {"answer": "B"}
    assert [one.text for one in respond(client, items, cache)] == ["A", "B", "B"]


def test_a_describer_of_fixed_words_is_not_supported(items: list[Item]):
    rows = choice_table("nano", items, None)
    assert all(row.accuracy is None for row in rows)
    assert "| all | nano | 3 | 0 | not supported | - |" in choice_markdown(rows)


def test_descriptions_go_to_the_judge_beside_their_references(client, chat: ChatServer, tmp_path: Path):
    rows = [{"index": str(n), "image": picture(n), "description": f"reference {n}", "modality": "CT"} for n in range(2)]
    items = read_tsv(write(tmp_path / "a.tsv", rows))
    chat.reply = lambda request: "  Grainy. Overall, the quality of this image is usable. "
    found = reasoning_of("m", items, respond(client, items, AnswerCache(tmp_path / "cache")))
    assert "response_format" not in chat.requests[0]
    assert [one.reference for one in found] == ["reference 0", "reference 1"]
    assert {one.candidate for one in found} == {"Grainy. Overall, the quality of this image is usable."}
    assert [one.candidate for one in reasoning_of("nano", items, None)] == [None, None]
    assert choice_table("m", items, None) == []
