"""Shift: degradations that training has not seen, and descriptions that are wrong."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.reference_text import describe
from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.physics.degrade import apply_records
from medq_uni.physics.tasks import SPECS
from medq_uni.safety.output_cache import PHANTOMS, Measurement, OutputCache, SafetyCase, SafetySettings, degraded_only
from medq_uni.scoring import scores
from medq_uni.seeding import generator_of
from medq_uni.systems.system import Output, Steerable
from medq_uni.taxonomy import Severity, Task

BEYOND_RANGE, MIXED, ALTERNATIVE, DESCRIPTION_SWAP = (
    "beyond the range",
    "mixed",
    "alternative simulation",
    "description swap",
)


def check_shift(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return PSNR before and after by kind of shift, and by what a system that takes words was told.

    Told is ``oracle`` (what was done), ``predicted`` (what the system itself says), ``shuffled`` (what was done to
    another image of the modality, of another kind or grade) or ``none`` (that nothing is wrong).
    """
    shifted, failed = _shifted(settings)
    outputs.failed |= failed
    found = [(family, safety_case, outputs.output(safety_case)) for family, safety_case in shifted]
    rows = [_row(family, None, safety_case, output) for family, safety_case, output in found if output is not None]
    if isinstance(outputs.system, Steerable):
        rows += _description_swaps(outputs, outputs.system, safety_cases, settings)
    return rows


def _row(family: str, told: str | None, safety_case: SafetyCase, output: Output) -> Measurement:
    reference = safety_case.pair.reference
    after, before = (scores(image, reference)[0] for image in (output.image, safety_case.pair.degraded))
    return safety_case.row(family=family, told=told, psnr=after if math.isfinite(after) else None, psnr_of_input=before)


def gain_of(row: Measurement) -> float:
    """Return the gain in dB that a row of :func:`check_shift` states; infinite where the output is the truth."""
    return math.inf if row["psnr"] is None else float(row["psnr"] - row["psnr_of_input"])


@functools.lru_cache(maxsize=1)
def _shifted(settings: SafetySettings) -> tuple[list[tuple[str, SafetyCase]], dict[str, str]]:
    """Return the cases of every family, and why others could not be simulated; drawn once for all systems."""
    count, degraded = settings.shift_count, tuple(Severity)[1:]
    base = PairsConfig(
        count=len(Task) * count,
        seed=settings.seed + 1,
        phantom_sizes=(settings.size_px,),
        grades=(Severity.SEVERE,),
    )
    mixed = replace(base, seed=settings.seed + 2, grades=degraded, mixed_fraction=1.0)
    alternative = replace(base, seed=settings.seed + 3, grades=degraded, alternative=True)
    found: list[tuple[str, SafetyCase]] = []
    failed: dict[str, str] = {}
    for family, config in ((BEYOND_RANGE, base), (MIXED, mixed), (ALTERNATIVE, alternative)):
        for index in range(config.count):
            label = f"{family} {index}"
            try:
                pair = draw_pair(config, index)
            except MedQError as error:  # some alternative simulations need TorchIO
                failed[label] = f"not simulated: {error}"
                continue
            if family == MIXED and len(pair.records) == 1:
                continue  # CT and PET have one degradation each
            if family == BEYOND_RANGE:
                record = replace(pair.records[0], params=pair.records[0].params | SPECS[pair.task].beyond)
                pair = replace(pair, records=(record,), degraded=apply_records(pair.reference, record))
            found.append((family, SafetyCase(label, PHANTOMS, pair)))
    return found, failed


def _description_swaps(
    outputs: OutputCache, system: Steerable, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    candidates = degraded_only(safety_cases, PHANTOMS)
    rows = []
    for task in Task:
        mine = [safety_case for safety_case in candidates if safety_case.pair.task is task]
        for safety_case in mine[:: max(1, len(mine) // settings.shift_count)][: settings.shift_count]:
            predicted = outputs.output(safety_case)
            if predicted is not None:
                rows.append(_row(DESCRIPTION_SWAP, "predicted", safety_case, predicted))
            for told, words in _tellings(safety_case, candidates, settings).items():
                output = outputs.attempt(
                    f"{safety_case.label} told {told}",
                    functools.partial(system.restore_told, safety_case.case, words),
                    safety_case.case.degraded,
                )
                if output is not None:
                    rows.append(_row(DESCRIPTION_SWAP, told, safety_case, output))
    return rows


def _tellings(
    safety_case: SafetyCase, candidates: Sequence[SafetyCase], settings: SafetySettings
) -> dict[str, QualityDescription]:
    """Return the oracle description of a case, that of another one, and one that says nothing is wrong."""
    pair, number = safety_case.pair, candidates.index(safety_case)
    turned = [*candidates[number + 1 :], *candidates[:number]]
    others = [
        other.pair
        for other in turned
        if other.pair.task.modality is pair.task.modality
        and (other.pair.task, other.pair.severity) != (pair.task, pair.severity)
    ]
    generator = generator_of(settings.seed, number, 3)
    said = {"oracle": pair.records, "none": ()} | ({"shuffled": others[0].records} if others else {})
    return {told: describe(pair.task.modality, pair.anatomy, records, generator) for told, records in said.items()}
