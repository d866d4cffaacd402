"""Reference descriptions: what a degradation record says, in varied and correct words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from medq_uni.description import (
    DEFAULT_ASSESS,
    DEFAULT_RESTORE,
    FOLLOW_REPORT,
    Degradation,
    QualityDescription,
)
from medq_uni.physics import DegradationRecord, draw
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, verdict_of

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
_INSTRUCTIONS: dict[str, tuple[str, ...]] = {
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
}


def describe(
    modality: Modality, anatomy: Anatomy, record: DegradationRecord | None, generator: torch.Generator
) -> QualityDescription:
    """Return the description that follows from a degradation record.

    Args:
        modality: Of the image.
        anatomy: Of the image.
        record: What was done to it; None, or a record of severity none, means nothing.
        generator: Chooses among the phrasings.
    """
    if record is None or record.severity is Severity.NONE:
        cause, impact = _pick(_CAUSES[None], generator), _pick(_IMPACTS[None][0], generator)
        return QualityDescription(modality, anatomy, (), cause, impact, verdict_of(()))
    cause = _pick(_CAUSES[record.task], generator).format(**_numbers(record))
    impact = _pick(_IMPACTS[record.task][record.severity.level - 1], generator)
    degradation = Degradation(record.task, record.severity)
    return QualityDescription(modality, anatomy, (degradation,), cause, impact, verdict_of((record.severity,)))


def instruction(kind: Literal["assess", "restore"], generator: torch.Generator) -> str:
    """Return one of the phrasings of a task instruction."""
    return _pick(_INSTRUCTIONS[kind], generator)


def corpus(generator: torch.Generator, count: int) -> Iterator[str]:
    """Yield texts, descriptions and instructions, from which a tokenizer is learned."""
    yield FOLLOW_REPORT
    for number in range(count):
        task = list(Task)[number % len(Task)]
        severity = Severity.from_level(int(torch.randint(4, (1,), generator=generator)))
        anatomy = _pick(tuple(Anatomy), generator)
        record = draw(task, severity, generator)
        yield describe(task.modality, anatomy, record, generator).to_text()
        yield instruction("assess", generator)
        yield instruction("restore", generator)


def _numbers(record: DegradationRecord) -> dict[str, int]:
    params = record.params
    return {
        "dose": round(100 * float(params.get("dose_fraction", 0))),
        "acceleration": int(params.get("acceleration", 0)),
        "poses": int(params.get("num_poses", 0)),
        "reduction": round(float(params.get("dose_reduction", 0))),
    }


def _pick(choices: tuple, generator: torch.Generator):  # type: ignore[type-arg, no-untyped-def]
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]
