import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from medq_uni.annotate.drafts import draft_images, truth_in
from medq_uni.annotate.exchanges import StoredExchanges
from medq_uni.annotate.images import open_source
from medq_uni.annotate.records import StoreError
from medq_uni.annotate.store import Store
from medq_uni.describers.chat import ChatDescriber
from medq_uni.describers.client import BudgetSpent, ChatClient, ChatConfig
from medq_uni.describers.describer import PATIENCE, Answer, Outcome, Subject
from medq_uni.describers.record import RecordDescriber
from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality


@dataclass
class Saying:
    """A describer made of a function."""

    function: Callable[[MedicalImage], Answer]
    name: str = "ours"
    threads: int = 1

    def __call__(self, subject: Subject) -> Answer:
        return self.function(subject.image)


@pytest.fixture
def job(store: Store, dataset: Path) -> SimpleNamespace:
    source = open_source(dataset)
    return SimpleNamespace(store=store, source=source, keys=[record.key for record in source.records()])


def test_records_give_drafts_that_agree_with_the_dataset(job: SimpleNamespace):
    report = draft_images(job.store, job.source, RecordDescriber())
    assert (report.drafted, report.kept, report.failed, report.stopped) == (10, 0, (), "")
    for draft in job.store.drafts(1):
        said = QualityDescription.from_text(job.source.meta(draft.key)["description"])
        found = draft.description
        assert (found.modality, found.anatomy, found.degradations, found.verdict) == (
            said.modality,
            said.anatomy,
            said.degradations,
            said.verdict,
        )
        assert draft.describer == "record"
        assert truth_in(job.source, draft.key) == found


def test_a_run_goes_on_where_the_last_one_stopped(job: SimpleNamespace, noise):
    seen: list[str] = []

    def describe(image: MedicalImage) -> Answer:
        seen.append("")
        return Answer.described(noise)

    describer = Saying(describe)
    assert draft_images(job.store, job.source, describer, limit=4).drafted == 4
    steps: list[tuple[int, int]] = []
    report = draft_images(job.store, job.source, describer, progress=lambda done, total: steps.append((done, total)))
    assert (report.drafted, report.kept) == (6, 4)
    assert steps == [(number, 6) for number in range(1, 7)]
    assert len(seen) == 10
    assert draft_images(job.store, job.source, describer).kept == 10
    assert draft_images(job.store, job.source, describer, round=2).drafted == 10


def test_an_image_that_cannot_be_described_does_not_stop_the_others(job: SimpleNamespace, noise):
    bad = job.keys[3]
    calls = iter(job.keys)

    def describe(image: MedicalImage) -> Answer:
        if next(calls) == bad:
            return Answer(Outcome.REFUSED, reason="Cannot assess: the image is constant.")
        return Answer.described(noise)

    report = draft_images(job.store, job.source, Saying(describe))
    assert (report.drafted, report.failed) == (9, ((bad, "Cannot assess: the image is constant."),))
    assert job.store.undrafted(1) == [bad]


def test_a_run_stops_when_the_describer_is_down_but_not_for_a_single_failure(job: SimpleNamespace, noise):
    answers = iter([None, noise, None, None, noise, *[None] * 10])

    def describe(image: MedicalImage) -> Answer:
        answer = next(answers)
        if answer is None:
            return Answer(Outcome.FAILED, reason="the server cannot be reached.", is_final=False)
        return Answer.described(answer)

    report = draft_images(job.store, job.source, Saying(describe))
    assert report.drafted == 2
    assert f"{PATIENCE} images in a row" in report.stopped
    assert len(report.failed) == 6


def test_a_full_store_and_spent_money_stop_the_run_and_keep_what_is_done(
    job: SimpleNamespace, noise, monkeypatch: pytest.MonkeyPatch
):
    count = iter(range(100))

    def describe(image: MedicalImage) -> Answer:
        if next(count) == 3:
            raise BudgetSpent("stopped: 5.00 of 5.00 are spent.")
        return Answer.described(noise)

    report = draft_images(job.store, job.source, Saying(describe))
    assert (report.drafted, report.stopped) == (3, "stopped: 5.00 of 5.00 are spent.")
    real = job.store.add_draft

    def full(key: str, *rest) -> object:
        if key == job.keys[6]:
            raise StoreError("the disk is full")
        return real(key, *rest)

    monkeypatch.setattr(job.store, "add_draft", full)
    with pytest.raises(StoreError, match="disk is full"):
        draft_images(job.store, job.source, Saying(lambda image: Answer.described(noise)))
    assert sorted(set(job.keys) - set(job.store.undrafted(1))) == job.keys[:6]


def test_a_server_drafts_with_many_threads(job: SimpleNamespace, chat, noise):
    def reply(request) -> dict[str, object]:
        text = request["messages"][-1]["content"][0]["text"]
        modality = text.partition("Modality: ")[2].partition(".")[0]
        return noise.to_dict() | {"modality": modality, "degradations": [], "verdict": "good"}

    chat.reply = reply
    client = ChatClient(ChatConfig(url=chat.url))
    describer = ChatDescriber(client, StoredExchanges(job.store, 400), threads=4, may_refuse=False)
    report = draft_images(job.store, job.source, describer)
    client.close()
    assert (report.drafted, report.failed) == (10, ())
    assert len(chat.requests) == 10
    for draft in job.store.drafts(1):
        assert draft.description.modality is job.store.image(draft.key).modality
        assert json.loads(next(job.store.exchanges(draft.key)).answer) == draft.description.to_dict()


def test_a_folder_has_no_records(store: Store, tmp_path: Path, phantom: SimpleNamespace, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct)
    source = open_source(tmp_path, modality=Modality.CT)
    with pytest.raises(MedQError, match="only a dataset has"):
        draft_images(store, source, RecordDescriber())
    (record,) = source.records()
    assert truth_in(source, record.key) is None


def test_an_image_that_cannot_be_read_does_not_stop_the_others(
    job: SimpleNamespace, noise, monkeypatch: pytest.MonkeyPatch
):
    read = job.source.image

    def broken(key: str) -> MedicalImage:
        if key == job.keys[0]:
            raise MedQError("the file is cut off.")
        return read(key)

    monkeypatch.setattr(job.source, "image", broken)
    report = draft_images(job.store, job.source, Saying(lambda image: Answer.described(noise)))
    assert (report.drafted, report.failed) == (9, ((job.keys[0], "the file is cut off."),))


def test_a_fault_of_our_own_is_not_taken_for_one_of_the_image(job: SimpleNamespace):
    def broken(image: MedicalImage) -> Answer:
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast"):
        draft_images(job.store, job.source, Saying(broken))


def test_what_a_describer_warns_of_is_warned_of(job: SimpleNamespace, noise):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draft_images(job.store, job.source, Saying(lambda image: Answer.described(noise, "looks like PET")), limit=1)
    assert [str(one.message) for one in caught] == ["looks like PET"]
