"""Reference descriptions: what a degradation record says, in correct words and several phrasings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch

from medq_uni.description import DEFAULT_ASSESS, DEFAULT_RESTORE, FOLLOW_REPORT, Degradation, QualityDescription
from medq_uni.errors import MedQError
from medq_uni.physics.degrade import draw_record
from medq_uni.physics.record import DegradationRecord
from medq_uni.seeding import randint
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict, tasks_of, verdict_of
from medq_uni.wording import GOOD_CAUSES, GOOD_IMPACTS, WORDING

T = TypeVar("T")
Instruction = Literal["assess", "restore", "gentler", "stronger", "denoise"]
_INSTRUCTIONS: dict[Instruction, tuple[str, ...]] = {
    "assess": (
        DEFAULT_ASSESS,
        DEFAULT_ASSESS,
        "What is wrong with this image?",
        "Describe the quality of the image.",
        "Report the image quality.",
        "Is this image good enough to read?",
    ),
    "restore": (
        DEFAULT_RESTORE,
        DEFAULT_RESTORE,
        "Improve this image.",
        "Remove the degradation.",
        "Restore the image quality.",
        "Repair this scan.",
    ),
    "gentler": (
        "Restore this image gently.",
        "Remove only a part of the degradation.",
        "Improve this image a little.",
    ),
    "stronger": (
        "Restore this image strongly.",
        "Remove the degradation thoroughly.",
        "Improve this image as far as possible.",
    ),
    "denoise": (
        "Remove the noise only.",
        "Denoise this image and leave all else.",
    ),
}


def describe(
    modality: Modality,
    anatomy: Anatomy,
    records: DegradationRecord | Sequence[DegradationRecord] | None,
    generator: torch.Generator,
) -> QualityDescription:
    """Return the description that follows from degradation records.

    Args:
        modality: Of the image.
        anatomy: Of the image.
        records: What was done to it, with the grades that were measured; None, or nothing but ``none``, means good.
            At most two are worse than that.
        generator: Chooses among the phrasings.
    """
    listed = (records,) if isinstance(records, DegradationRecord) else tuple(records or ())
    found = [record for record in sorted(listed, key=_task_order) if record.severity is not Severity.NONE]
    if not found:
        cause, impact = _pick(GOOD_CAUSES, generator), _pick(GOOD_IMPACTS, generator)
        return QualityDescription(modality, anatomy, (), cause, impact, verdict_of(()))
    cause = " and ".join(_cause(record, generator) for record in found)
    worst = max(found, key=lambda record: record.severity.level)
    impact = _pick(WORDING[worst.task].impacts[worst.severity.level - 1], generator)
    degradations = tuple(Degradation(record.task, record.severity) for record in found)
    verdict = verdict_of(record.severity for record in found)
    return QualityDescription(modality, anatomy, degradations, cause, impact, verdict)


@dataclass(frozen=True)
class NoisyLabel:
    """A description some of whose slots were made wrong on purpose."""

    description: QualityDescription
    wrong: tuple[str, ...]
    """Names of the slots that are wrong: anatomy, task, severity, cause, impact, verdict."""


def noisy_label(description: QualityDescription, probability: float, generator: torch.Generator) -> NoisyLabel:
    """Return a description as a careless labeler would write it, to measure what wrong words cost.

    Every slot but the modality is made wrong with the same probability, on its own, so that the text may contradict
    itself: a wrong severity keeps the verdict, a wrong task keeps the cause.

    Args:
        description: The right one.
        probability: Of a wrong slot, 0 to 1.
        generator: Source of every choice.

    Raises:
        MedQError: If the probability is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise MedQError(f"probability must lie between 0 and 1, got {probability}.")
    is_wrong = (torch.rand(6, generator=generator) < probability).tolist()
    changes: dict[str, Any] = {}
    wrong = []
    for name, chosen in zip(("anatomy", "task", "severity", "cause", "impact", "verdict"), is_wrong, strict=True):
        if not chosen:
            continue
        found = changes.get("degradations", description.degradations)
        change = _wrong_slot(name, description, found, generator)
        if change is not None:
            changes |= change
            wrong.append(name)
    return NoisyLabel(replace(description, **changes), tuple(wrong))


def _wrong_slot(
    name: str, description: QualityDescription, found: tuple[Degradation, ...], generator: torch.Generator
) -> dict[str, Any] | None:
    """Return the changed fields, or None where the slot has no other value."""
    tasks = tasks_of(description.modality)
    if name == "anatomy":
        return {"anatomy": _other(tuple(Anatomy), description.anatomy, generator)}
    if name == "verdict":
        return {"verdict": _other(tuple(Verdict), description.verdict, generator)}
    if name == "task":
        others = [task for task in tasks if task not in [degradation.task for degradation in found]]
        if not found or not others:
            return None
        return {"degradations": (replace(found[0], task=_pick(tuple(others), generator)), *found[1:])}
    if name == "severity":
        if not found:
            return {"degradations": (Degradation(_pick(tasks, generator), Severity.MILD),)}
        other = _other(tuple(Severity)[1:], found[0].severity, generator)
        return {"degradations": (replace(found[0], severity=other), *found[1:])}
    kinds: tuple[Task | None, ...] = (None, *Task)
    true = description.degradations[0].task if description.degradations else None
    kind = _other(kinds, true, generator)
    if name == "cause":
        causes = GOOD_CAUSES if kind is None else WORDING[kind].causes
        return {"cause": _pick(_plain(causes), generator)}
    impacts = (GOOD_IMPACTS,) if kind is None else WORDING[kind].impacts
    return {"impact": _pick(_pick(impacts, generator), generator)}


def true_parameter(record: DegradationRecord) -> float | None:
    """Return the physical parameter that a cause may state; None where the record has none.

    CT: percent of the full dose. Undersampling: acceleration factor. Motion: number of pose changes. PET: how many
    times the dose was reduced. MR noise has none.
    """
    stated = WORDING[record.task].stated
    if stated is None or "ghosting" in record.method:
        return None
    return stated.factor * float(record.params.get(stated.parameter, 0)) or None


def stated_parameter(cause: str, task: Task) -> float | None:
    """Return the parameter that the words of a cause state, in the unit of :func:`true_parameter`, or None.

    Args:
        cause: Free text, ours or another describer's.
        task: Degradation that the parameter belongs to.
    """
    stated = WORDING[task].stated
    for pattern in stated.patterns if stated else ():
        found = re.search(pattern, cause, re.IGNORECASE)
        if found:
            return float(found[1]) or None
    return None


def instruction(kind: Instruction, generator: torch.Generator) -> str:
    """Return one of the phrasings of a task instruction."""
    return _pick(_INSTRUCTIONS[kind], generator)


def corpus(generator: torch.Generator, count: int) -> Iterator[str]:
    """Yield texts, descriptions and instructions, from which a tokenizer is learned."""
    yield FOLLOW_REPORT
    for number in range(count):
        task = list(Task)[number % len(Task)]
        severity = Severity.from_level(randint(4, generator))
        anatomy = _pick(tuple(Anatomy), generator)
        record = draw_record(task, severity, generator)
        yield describe(task.modality, anatomy, record, generator).to_text()
        yield instruction("assess", generator)
        yield instruction("restore", generator)


def _cause(record: DegradationRecord, generator: torch.Generator) -> str:
    """Return a phrasing of the cause; one with a number only where the record knows it."""
    phrasings = WORDING[record.task].causes
    number = round(true_parameter(record) or 0)
    if not number:
        return _pick(_plain(phrasings), generator)
    return _pick(phrasings, generator).format(number=number)


def _plain(phrasings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(phrasing for phrasing in phrasings if "{number}" not in phrasing)


def _task_order(record: DegradationRecord) -> int:
    return list(Task).index(record.task)


def _other(choices: tuple[T, ...], true: T, generator: torch.Generator) -> T:
    return _pick(tuple(choice for choice in choices if choice != true), generator)


def _pick(choices: Sequence[T], generator: torch.Generator) -> T:
    return choices[randint(len(choices), generator)]
