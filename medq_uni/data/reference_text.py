"""Reference descriptions: what a degradation record says, in varied and correct words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from medq_uni.description import DEFAULT_ASSESS, DEFAULT_RESTORE, FOLLOW_REPORT, Degradation, QualityDescription
from medq_uni.errors import MedQError
from medq_uni.physics.degrade import draw_record
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict, tasks_of, verdict_of

Instruction = Literal["assess", "restore", "gentler", "stronger", "denoise"]
_CAUSES: dict[Task | None, tuple[str, ...]] = {
    None: (
        "the acquisition was adequate",
        "no technical fault is visible",
        "exposure and sampling were sufficient",
        "the protocol was carried out as planned",
        "nothing in the acquisition needs correction",
        "signal and sampling were adequate",
    ),
    Task.CT_LOW_DOSE: (
        "too few photons reached the detector",
        "the tube current was reduced",
        "a low radiation dose was used",
        "quantum noise from a reduced dose",
        "photon starvation at low dose",
        "the exposure was set too low",
        "a dose of about {dose} % of the full one",
        "the scan used about {dose} % of full dose",
    ),
    Task.MR_UNDERSAMPLING: (
        "k-space was undersampled",
        "phase-encoding lines were skipped",
        "acceleration left gaps in k-space",
        "too few k-space lines were acquired",
        "zero filling of an accelerated scan",
        "random lines of k-space are missing",
        "an acceleration factor of about {acceleration}",
        "only one in {acceleration} lines was acquired",
    ),
    Task.MR_MOTION: (
        "the patient moved during the scan",
        "pose changes between k-space lines",
        "rigid motion while k-space was filled",
        "the patient did not hold still",
        "inconsistent positions across k-space",
        "movement between phase-encoding steps",
        "about {poses} pose changes in the scan",
        "jumps of position during acquisition",
    ),
    Task.MR_NOISE: (
        "thermal noise of the receiver",
        "low signal from the receive coil",
        "too few averages were acquired",
        "a weak signal against coil noise",
        "voxels too small for the scan time",
        "low field strength or short scan time",
        "magnitude noise at low signal",
        "insufficient signal averaging",
    ),
    Task.PET_LOW_COUNT: (
        "too few coincidences were counted",
        "a low injected activity",
        "a short acquisition time",
        "counting statistics are poor",
        "the tracer dose was reduced",
        "Poisson noise of a low-count scan",
        "counts about {reduction} times below full dose",
        "a dose reduced about {reduction} times",
    ),
}
_IMPACTS: dict[Task | None, tuple[tuple[str, ...], ...]] = {
    None: (
        (
            "no limit to diagnosis",
            "all structures can be judged",
            "fine detail is preserved",
            "suitable for reading",
            "no loss of diagnostic content",
            "contrast and edges are intact",
        ),
    ),
    Task.CT_LOW_DOSE: (
        (
            "fine low-contrast detail is slightly veiled",
            "soft tissue is a little grainy",
            "small vessels lose contrast",
        ),
        (
            "low-contrast lesions may be missed",
            "soft tissue contrast is reduced",
            "organ texture is masked by grain",
        ),
        (
            "low-contrast lesions are hidden",
            "soft tissue cannot be judged",
            "streaks and grain bury small structures",
        ),
    ),
    Task.MR_UNDERSAMPLING: (
        ("edges are slightly blurred", "faint incoherent ripples", "fine detail is a little soft"),
        ("small structures are blurred", "aliasing overlaps fine detail", "edges are smeared along one axis"),
        (
            "fine anatomy is lost to aliasing",
            "strong blur hides small lesions",
            "structures are smeared beyond use",
        ),
    ),
    Task.MR_MOTION: (
        ("faint ghosts at bright edges", "edges are slightly doubled", "weak ringing near the surface"),
        (
            "ghosts overlap the anatomy",
            "edges are doubled and blurred",
            "small lesions may be mistaken for ghosts",
        ),
        ("ghosts dominate the image", "anatomy is smeared by ghosting", "structures are doubled beyond use"),
    ),
    Task.MR_NOISE: (
        (
            "a light grain over the tissue",
            "small contrasts are slightly veiled",
            "fine texture is a little noisy",
        ),
        ("tissue borders are harder to see", "grain masks small contrasts", "subtle lesions may be missed"),
        ("noise hides tissue contrast", "small structures drown in noise", "tissue borders cannot be traced"),
    ),
    Task.PET_LOW_COUNT: (
        ("uptake is slightly mottled", "small hot spots vary a little", "background is a little uneven"),
        ("noise blobs may mimic lesions", "uptake values are less reliable", "small lesions are uncertain"),
        ("lesions cannot be told from noise", "uptake values are unreliable", "strong mottle hides lesions"),
    ),
}
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


_PARAMETERS = {
    Task.CT_LOW_DOSE: ("dose", "dose_fraction", 100),
    Task.MR_UNDERSAMPLING: ("acceleration", "acceleration", 1),
    Task.MR_MOTION: ("poses", "num_poses", 1),
    Task.PET_LOW_COUNT: ("reduction", "dose_reduction", 1),
}
"""The parameter that a cause may state: its name in the phrasings, in a record, and the factor between them."""
_NUMBER = r"(\d+(?:\.\d+)?)"
_STATED = {
    Task.CT_LOW_DOSE: (rf"{_NUMBER} ?(?:%|percent)",),
    Task.MR_UNDERSAMPLING: (rf"factor (?:of )?(?:about )?{_NUMBER}", rf"one in {_NUMBER}", rf"{_NUMBER} ?(?:x|-?fold)"),
    Task.MR_MOTION: (rf"{_NUMBER} (?:pose|position|movement)",),
    Task.PET_LOW_COUNT: (rf"{_NUMBER} ?(?:times|x|-?fold)", rf"factor (?:of )?(?:about )?{_NUMBER}"),
}
"""How a cause may state its parameter."""


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
        cause, impact = _pick(_CAUSES[None], generator), _pick(_IMPACTS[None][0], generator)
        return QualityDescription(modality, anatomy, (), cause, impact, verdict_of(()))
    cause = " and ".join(_cause(record, generator) for record in found)
    worst = max(found, key=lambda record: record.severity.level)
    impact = _pick(_IMPACTS[worst.task][worst.severity.level - 1], generator)
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
    is_wrong = [bool(draw_record < probability) for draw_record in torch.rand(6, generator=generator)]
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
        return {"cause": _pick(_plain(_CAUSES[kind]), generator)}
    return {"impact": _pick(_pick(_IMPACTS[kind], generator), generator)}


def true_parameter(record: DegradationRecord) -> float | None:
    """Return the physical parameter that a cause may state; None where the record has none.

    CT: percent of the full dose. Undersampling: acceleration factor. Motion: number of pose changes. PET: how many
    times the dose was reduced. MR noise has none.
    """
    if record.task not in _PARAMETERS or "ghosting" in record.method:
        return None
    _, key, unit = _PARAMETERS[record.task]
    return unit * float(record.params.get(key, 0)) or None


def stated_parameter(cause: str, task: Task) -> float | None:
    """Return the parameter that the words of a cause state, in the unit of :func:`true_parameter`, or None.

    Args:
        cause: Free text, ours or another describer's.
        task: Degradation that the parameter belongs to.
    """
    for pattern in _STATED.get(task, ()):
        found = re.search(pattern, cause, re.IGNORECASE)
        if found:
            return float(found[1]) or None
    return None


def instruction(
    kind: Literal["assess", "restore", "gentler", "stronger", "denoise"], generator: torch.Generator
) -> str:
    """Return one of the phrasings of a task instruction."""
    return _pick(_INSTRUCTIONS[kind], generator)


def corpus(generator: torch.Generator, count: int) -> Iterator[str]:
    """Yield texts, descriptions and instructions, from which a tokenizer is learned."""
    yield FOLLOW_REPORT
    for number in range(count):
        task = list(Task)[number % len(Task)]
        severity = Severity.from_level(int(torch.randint(4, (1,), generator=generator)))
        anatomy = _pick(tuple(Anatomy), generator)
        record = draw_record(task, severity, generator)
        yield describe(task.modality, anatomy, record, generator).to_text()
        yield instruction("assess", generator)
        yield instruction("restore", generator)


def _cause(record: DegradationRecord, generator: torch.Generator) -> str:
    """Return a phrasing of the cause; one with a number only where the record knows it."""
    phrasings = _CAUSES[record.task]
    number = round(true_parameter(record) or 0)
    if not number:
        return str(_pick(_plain(phrasings), generator))
    return str(_pick(phrasings, generator)).format(**{_PARAMETERS[record.task][0]: number})


def _plain(phrasings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(phrasing for phrasing in phrasings if "{" not in phrasing)


def _task_order(record: DegradationRecord) -> int:
    return list(Task).index(record.task)


def _other(choices: tuple[Any, ...], true: Any, generator: torch.Generator) -> Any:
    return _pick(tuple(choice for choice in choices if choice != true), generator)


def _pick(choices: tuple[Any, ...], generator: torch.Generator) -> Any:
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]
