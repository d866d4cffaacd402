"""Exchange with Label Studio: its labeling configuration, tasks with drafts and reviews, and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.records import ASPECTS, Account, ReviewEntry, Revision, StoreError
from medq_uni.annotate.store import Store
from medq_uni.description import DescriptionError
from medq_uni.display import png_of, windows_of
from medq_uni.files import atomic_folder
from medq_uni.json_text import load_json
from medq_uni.notice import SHORT_NOTICE
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

CONFIG, TASKS, REVIEWS, PICTURES = "config.xml", "tasks.json", "reviews.json", "pictures"
MAX_EXPORT_BYTES = 2**29
LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names files of its own machine; the folder above the pictures is its document root."""
_CHOICES: dict[str, list[str]] = {
    "modality": [one.value for one in Modality],
    "anatomy": [one.value for one in Anatomy],
    **{task.value: [one.value for one in list(Severity)[1:]] for task in Task},
    "verdict": [one.value for one in Verdict],
    "doubts": list(ASPECTS),
}
_TEXTS = ("cause", "impact", "comment")


def labeling_config() -> str:
    """Return the labeling configuration, an XML document, of Label Studio for descriptions."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value=SHORT_NOTICE)
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true", zoomControl="true")
    for name, words in _CHOICES.items():
        ElementTree.SubElement(view, "Header", value=name)
        choice = "multiple" if name == "doubts" else "single"
        choices = ElementTree.SubElement(view, "Choices", name=name, toName="image", choice=choice, showInline="true")
        for word in words:
            ElementTree.SubElement(choices, "Choice", value=word)
    for name in _TEXTS:
        ElementTree.SubElement(view, "Header", value=name)
        ElementTree.SubElement(view, "TextArea", name=name, toName="image", maxSubmissions="1", editable="true")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def export_label_studio(store: Store, source: ImageSource, round: int, folder: Path) -> int:
    """Write a folder for Label Studio, and return the number of tasks.

    ``tasks.json`` holds every drafted or reviewed image with the draft as a prediction, ``reviews.json`` the same with
    the finished reviews as annotations, ``config.xml`` the labeling configuration, ``pictures/`` the images in their
    default window. Label Studio takes annotations only where every reviewer's name is the e-mail address of a member.

    Raises:
        StoreError: If the round has neither drafts nor reviews.
    """
    names = {account.id: account.name for account in store.accounts.all()}
    drafts = {draft.key: draft for draft in store.drafts(round)}
    reviewed = {image.key: image for image in store.outcomes.reviewed(round)}
    keys = sorted({*drafts, *reviewed})
    if not keys:
        raise StoreError(f"round {round} has neither drafts nor reviews. Draft first: medq annotate draft")
    tasks, with_reviews = [], []
    with atomic_folder(folder) as temporary:
        (temporary / PICTURES).mkdir()
        for number, key in enumerate(keys, start=1):
            image = source.image(key)
            (temporary / PICTURES / f"{key}.png").write_bytes(png_of(image, windows_of(image)[0]))
            place = f"{LOCAL_FILES}{folder.name}/{PICTURES}/{key}.png"
            task: dict[str, Any] = {"id": number, "data": {"image": place, "key": key, "round": round}}
            if key in drafts:
                result = _result(ReviewEntry.of(drafts[key].description))
                task["predictions"] = [{"model_version": drafts[key].describer, "result": result}]
            reviews = reviewed[key].reviews if key in reviewed else ()
            tasks.append(task)
            with_reviews.append(task | {"annotations": [_annotation(one, names[one.account_id]) for one in reviews]})
        for name, values in ((TASKS, tasks), (REVIEWS, with_reviews)):
            text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / CONFIG).write_text(labeling_config(), encoding="utf-8")
    return len(tasks)


@dataclass(frozen=True)
class ImportedReview:
    """A finished annotation of Label Studio.

    Attributes:
        key: Of the image.
        annotator: E-mail address or number, as Label Studio has it.
        entry: What was said.
        round: Of the task; None where the task does not say.
    """

    key: str
    annotator: str
    entry: ReviewEntry
    round: int | None = None


def read_label_studio(path: Path) -> list[ImportedReview]:
    """Return the annotations of a JSON export of Label Studio: the last of every annotator about every image.

    Cancelled annotations are left out.

    Raises:
        DescriptionError: If the file is no such export, or an annotation is no finished description; the message names
            the image.
    """
    try:
        tasks = load_json(path, max_bytes=MAX_EXPORT_BYTES)
    except (ValueError, RecursionError) as error:
        raise DescriptionError(f"{path.name}: not JSON. Export from Label Studio as JSON, not as JSON-MIN.") from error
    found: dict[tuple[str, str], ImportedReview] = {}
    for number, task in enumerate(tasks if isinstance(tasks, list) else [None], start=1):
        try:
            key, said = str(task["data"]["key"]), task["data"].get("round")
            round = None if said is None else int(said)
            annotations = task.get("annotations") or []
            kept = [one for one in annotations if not one.get("was_cancelled")]
            kept.sort(key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
            for one in kept:
                annotator = _annotator(one["completed_by"])
                found[key, annotator] = ImportedReview(key, annotator, _entry(one["result"]), round)
        except DescriptionError as error:
            raise DescriptionError(f"{path.name}, task {number}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DescriptionError(
                f"{path.name}, task {number}: not a task of this project ({type(error).__name__} {error}). "
                "Export from Label Studio as JSON, with the tasks that were imported there."
            ) from error
    return list(found.values())


def import_reviews(
    store: Store, round: int, reviews: list[ImportedReview], accounts: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Keep imported annotations as finished reviews of their reviewers, and return (added, already there).

    Images that a reviewer does not have yet in this round are assigned. All is checked before anything is written.

    Args:
        store: Where to.
        round: Number of the round.
        reviews: See :func:`read_label_studio`.
        accounts: Names of accounts by annotator; others are looked up by the annotator's own name.

    Raises:
        StoreError: If an annotator has no account, an image is not in the store, or a task is of another round.
    """
    others = sorted({one.round for one in reviews if one.round not in (None, round)})
    if others:
        raise StoreError(
            f"the file holds reviews of round {others[0]}, not {round}. Import them with: --round {others[0]}"
        )
    names = dict(accounts or {})
    known: dict[str, Account] = {}
    for annotator in sorted({one.annotator for one in reviews}):
        account = store.accounts.find(names.get(annotator, annotator))
        if account is None:
            raise StoreError(f"annotator {annotator!r} has no account. Name one: --reviewer {annotator}=NAME")
        known[annotator] = account
    wanted = {(one.key, known[one.annotator].id): None for one in reviews}
    present = {(key, account) for key, account, _ in store.reviews.assigned(round)}
    store.reviews.assign(round, [pair for pair in wanted if pair not in present])
    added = 0
    for one in reviews:
        account_id = known[one.annotator].id
        assignment = store.reviews.of_image(account_id, one.key, round)
        newest = store.reviews.newest(account_id, assignment.id)
        if newest is not None and newest.is_done and newest.entry == one.entry:
            continue
        store.reviews.save(assignment.id, account_id, based_on=assignment.head, entry=one.entry, is_done=True)
        added += 1
    store.log("imported", subject=f"round {round}", detail={"format": "label-studio", "added": added})
    return added, len(reviews) - added


def _annotation(review: Revision, name: str) -> dict[str, Any]:
    at, result = review.at.isoformat(), _result(review.entry)
    return {"completed_by": {"email": name}, "created_at": at, "was_cancelled": False, "result": result}


def _result(entry: ReviewEntry) -> list[dict[str, Any]]:
    chosen: dict[str, list[str]] = {"doubts": list(entry.doubts)}
    for name in ("modality", "anatomy", "verdict"):
        value = getattr(entry, name)
        chosen[name] = [] if value is None else [value.value]
    chosen |= {one.task.value: [one.severity.value] for one in entry.degradations}
    items = [_item(name, "choices", words) for name, words in chosen.items() if words]
    return items + [_item(name, "textarea", [getattr(entry, name)]) for name in _TEXTS if getattr(entry, name)]


def _item(name: str, kind: str, words: list[str]) -> dict[str, Any]:
    value = {"text" if kind == "textarea" else kind: words}
    return {"from_name": name, "to_name": "image", "type": kind, "value": value}


def _entry(result: list[dict[str, Any]]) -> ReviewEntry:
    words: dict[str, list[str]] = {}
    for item in result:
        value = item["value"].get("choices") or item["value"].get("text") or []
        words[item["from_name"]] = [value] if isinstance(value, str) else [str(one) for one in value]
    entry = ReviewEntry.from_dict(
        {name: next(iter(words.get(name, [])), None) for name in ("modality", "anatomy", "verdict")}
        | {name: " ".join(words.get(name, [])) for name in _TEXTS}
        | {"doubts": words.get("doubts", [])}
        | {
            "degradations": [
                {"task": task.value, "severity": words[task.value][0]} for task in Task if words.get(task.value)
            ]
        }
    )
    entry.description()
    return entry


def _annotator(completed_by: Any) -> str:
    return str(completed_by.get("email") or completed_by["id"]) if isinstance(completed_by, dict) else str(completed_by)
