"""What the store hands out and takes: frozen values, never rows."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from medq_uni.description import Degradation, DescriptionError, QualityDescription
from medq_uni.errors import MedQError
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

ASPECTS = ("modality", "anatomy", "degradations", "cause", "impact", "verdict")
"""Parts of an entry that a reviewer can doubt."""
MAX_TEXT_CHARS = 2000
"""Longest cause, impact or comment that is kept."""
MAX_NAME_CHARS = 64


class StoreError(MedQError):
    """A store that cannot do what was asked; the message says what to do."""


class UnknownRecord(StoreError):  # noqa: N818 - the answer, in the words of the store
    """There is no such record, or it belongs to somebody else; the answer is the same."""


class Role(StrEnum):
    """What an account may do."""

    REVIEWER = "reviewer"
    ADMINISTRATOR = "administrator"


class State(StrEnum):
    """How far the reviews of an image have come."""

    OPEN = "open"
    """Reviews are missing."""
    AGREED = "agreed"
    """Every slot has a majority."""
    DISPUTED = "disputed"
    """At least one slot has none; the image waits for adjudication."""
    RESOLVED = "resolved"
    """An administrator has decided."""


@dataclass(frozen=True)
class Account:
    """Somebody who can sign in."""

    id: int
    name: str
    role: Role
    is_disabled: bool


@dataclass(frozen=True)
class WebSession:
    """A signed-in browser."""

    account: Account
    expires_at: datetime


@dataclass(frozen=True)
class ImageRecord:
    """An image that can be annotated; its voxels stay in the source.

    Attributes:
        key: Name in the source; for a folder a hash, so that no file name enters the store.
        modality: CT, MR or PET; None where nothing says so.
        has_reference: Whether the source has a clean image beside it.
    """

    key: str
    modality: Modality | None
    has_reference: bool


@dataclass(frozen=True)
class Draft:
    """What a describer proposed for an image in a round."""

    key: str
    round: int
    describer: str
    description: QualityDescription
    at: datetime


@dataclass(frozen=True)
class Exchange:
    """A prompt that was sent to a describer, and what came back.

    Attributes:
        key: Of the image.
        cache_key: Hash of model, prompt and pictures.
        model: That answered.
        prompt: As it was sent, with a hash in the place of every picture.
        answer: As it came; empty where none came.
        error: Why it could not be used; empty where it could.
        is_valid: Whether the answer is a description of this image.
        prompt_tokens: As the server counted them; None where it did not.
        answer_tokens: As prompt_tokens.
        seconds: From question to answer.
        at: When, in UTC.
    """

    key: str
    cache_key: str
    model: str
    prompt: dict[str, Any]
    answer: str
    error: str
    is_valid: bool
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    at: datetime


@dataclass(frozen=True)
class ReviewEntry:
    """A review as it stands in the form, finished or not; the finished one is :meth:`description`.

    Attributes:
        modality: None where nothing is chosen yet, as anatomy and verdict.
        degradations: Kinds with their grades.
        cause: Any text of at most 2000 characters.
        impact: As cause.
        doubts: Names of :data:`ASPECTS` that the reviewer is unsure of.
        comment: For the other people of the project; never part of the description.
    """

    modality: Modality | None = None
    anatomy: Anatomy | None = None
    degradations: tuple[Degradation, ...] = ()
    cause: str = ""
    impact: str = ""
    verdict: Verdict | None = None
    doubts: tuple[str, ...] = ()
    comment: str = ""

    def __post_init__(self) -> None:
        """Check lengths, characters and names of doubts."""
        for name in ("cause", "impact", "comment"):
            check_text(name, getattr(self, name))
        unknown = [doubt for doubt in self.doubts if doubt not in ASPECTS]
        if unknown:
            raise DescriptionError(f"doubts: needs names of {', '.join(ASPECTS)}; got {unknown[0]!r}.")

    @classmethod
    def of(cls, description: QualityDescription, *, doubts: tuple[str, ...] = (), comment: str = "") -> ReviewEntry:
        """Return the entry that says what a description says."""
        return cls(
            description.modality,
            description.anatomy,
            description.degradations,
            description.cause,
            description.impact,
            description.verdict,
            doubts,
            comment,
        )

    def description(self) -> QualityDescription:
        """Return the finished description.

        Raises:
            DescriptionError: If an aspect is missing or not as a description needs it.
        """
        missing = [name for name in ("modality", "anatomy", "verdict") if getattr(self, name) is None]
        if missing or self.modality is None or self.anatomy is None or self.verdict is None:
            raise DescriptionError(f"{', '.join(missing)}: not chosen yet. Choose one before finishing the image.")
        return QualityDescription(self.modality, self.anatomy, self.degradations, self.cause, self.impact, self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "modality": None if self.modality is None else self.modality.value,
            "anatomy": None if self.anatomy is None else self.anatomy.value,
            "degradations": [{"task": d.task.value, "severity": d.severity.value} for d in self.degradations],
            "cause": self.cause,
            "impact": self.impact,
            "verdict": None if self.verdict is None else self.verdict.value,
            "doubts": list(self.doubts),
            "comment": self.comment,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReviewEntry:
        """Return the entry of :meth:`to_dict`; a key that is missing is empty.

        Raises:
            DescriptionError: If a value is not one of the fixed words, or not of its type.
        """
        unknown = set(values) - {*ASPECTS, "doubts", "comment"}
        if unknown:
            raise DescriptionError(f"an entry has no {sorted(unknown)[0]!r}; it has {', '.join(ASPECTS)}.")
        try:
            return cls(
                modality=None if values.get("modality") is None else Modality(values["modality"]),
                anatomy=None if values.get("anatomy") is None else Anatomy(values["anatomy"]),
                degradations=tuple(
                    Degradation(Task(one["task"]), Severity(one["severity"])) for one in values.get("degradations", ())
                ),
                cause=values.get("cause", ""),
                impact=values.get("impact", ""),
                verdict=None if values.get("verdict") is None else Verdict(values["verdict"]),
                doubts=tuple(values.get("doubts", ())),
                comment=values.get("comment", ""),
            )
        except DescriptionError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DescriptionError(f"an entry cannot be read: {error}.") from error


@dataclass(frozen=True)
class Assignment:
    """One image given to one reviewer in one round.

    Attributes:
        position: Place in the reviewer's own order, from 1.
        head: Number of the newest revision; 0 where there is none.
        is_done: Whether the newest revision is finished.
    """

    id: int
    key: str
    round: int
    account_id: int
    position: int
    head: int
    is_done: bool
    modality: Modality | None
    has_reference: bool


@dataclass(frozen=True)
class Revision:
    """One step in the history of a review or of an adjudication; steps are added, never changed.

    Attributes:
        number: From 1 in the order of saving.
        entry: Content after this step.
        is_done: Whether the author called it finished.
        account_id: Who saved it.
        at: When, in UTC.
        restores: Number of the revision that an undo brought back (0: the draft); None where it is no undo.
    """

    number: int
    entry: ReviewEntry
    is_done: bool
    account_id: int
    at: datetime
    restores: int | None = None


@dataclass(frozen=True)
class ReviewProgress:
    """How far a reviewer is."""

    done: int
    total: int
    doubted: int
    """Finished reviews with at least one doubt."""


@dataclass(frozen=True)
class Standing:
    """Where an image stands in a round."""

    key: str
    round: int
    state: State
    done: int
    needed: int


@dataclass(frozen=True)
class Event:
    """Something that happened, as the log keeps it."""

    at: datetime
    kind: str
    account_id: int | None
    subject: str
    detail: dict[str, Any] = field(default_factory=dict)


class StaleRevision(StoreError):  # noqa: N818 - the answer, in the words of the store
    """Somebody, or another tab, saved in between; nothing was written.

    Attributes:
        newest: The newest revision, to show beside what was to be saved; None where there is none.
    """

    def __init__(self, based_on: int, newest: Revision | None) -> None:
        number = 0 if newest is None else newest.number
        super().__init__(
            f"this was changed elsewhere: revision {number} is the newest, yours is based on {based_on}. "
            "Look at the newest and save again."
        )
        self.newest = newest


def check_text(name: str, text: str) -> None:
    """Refuse text that is no text, too long, or holds control characters other than line breaks and tabs.

    Raises:
        DescriptionError: Naming the field.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS:
        raise DescriptionError(f"{name}: needs text of at most {MAX_TEXT_CHARS} characters.")
    if text.isprintable():  # nearly every text; the look at every character is slow
        return
    if any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in text):
        raise DescriptionError(f"{name}: holds control characters. Type or paste plain text.")


def name_key(name: str) -> str:
    """Return by what names of accounts are compared, so that no two look alike.

    Raises:
        StoreError: If it is no name.
    """
    is_plain = all(unicodedata.category(char)[0] not in "CZ" or char == " " for char in name)
    if not 1 <= len(name) <= MAX_NAME_CHARS or name != name.strip() or not is_plain:
        raise StoreError(
            f"a name needs 1 to {MAX_NAME_CHARS} visible characters and no space at its ends. Choose another name."
        )
    return unicodedata.normalize("NFKC", name).casefold()
