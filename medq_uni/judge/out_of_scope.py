"""Images outside what an assessor was made for: what it refuses, warns of, or judges all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medq_uni.data.ood import levels_of, picture, taken_for
from medq_uni.data.phantoms import phantom
from medq_uni.describers.describer import Answer, Outcome, Subject
from medq_uni.image import MedicalImage
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality

SIDE = 192
SEEDS = (0, 1, 2)
PHOTOS = ("camera", "coins", "page")
"""Gray pictures that come inside scikit-image: a man with a camera, coins, a page of text."""
WRONG = {
    Modality.CT: Modality.MR,
    Modality.MR: Modality.PET,
    Modality.PET: Modality.MR,
}
"""What each modality is said to be, its values brought into the range of the other."""


@dataclass(frozen=True, eq=False)
class OutOfScopeCase:
    """An image that should be refused."""

    kind: str
    image: MedicalImage


@dataclass(frozen=True)
class OutOfScopeRow:
    """What a describer does with one kind of image."""

    describer: str
    kind: str
    count: int
    refused: float
    """Share that it cannot assess, or does not support."""
    warned: float
    """Share that it describes with a warning, or as another modality than it was told."""
    judged: float
    """Share that it describes as if nothing were wrong with the question."""
    failed: float
    """Share without a usable answer."""


def out_of_scope_cases() -> list[OutOfScopeCase]:
    """Return the set, the same every time: blank, noise, ultrasound-like, photographs, and a wrong modality."""
    found = []
    for modality in Modality:
        found.append(OutOfScopeCase("blank", taken_for(modality, np.zeros((SIDE, SIDE)))))
        for seed in SEEDS:
            draws = np.random.default_rng((seed, 1))
            found.append(OutOfScopeCase("pure noise", taken_for(modality, draws.uniform(size=(SIDE, SIDE)))))
            found.append(
                OutOfScopeCase("ultrasound-like", taken_for(modality, _sector(np.random.default_rng((seed, 2)))))
            )
        found += [OutOfScopeCase("photograph or page", taken_for(modality, picture(name, SIDE))) for name in PHOTOS]
        for seed in SEEDS:
            image = phantom(modality, generator_of(seed, list(Modality).index(modality), 7), size=SIDE)
            said = WRONG[modality]
            kind = f"{modality.value.upper()} said to be {said.value.upper()}"
            found.append(OutOfScopeCase(kind, taken_for(said, levels_of(image), image.spacing_mm[1])))
    return found


def out_of_scope_table(cases: Sequence[OutOfScopeCase], answers: Mapping[str, Sequence[Answer]]) -> list[OutOfScopeRow]:
    """Return, by describer and kind and for all kinds together, what became of the images."""
    rows = []
    for describer, given in answers.items():
        pairs = list(zip(cases, given, strict=True))
        for kind in [*dict.fromkeys(case.kind for case in cases), "out of scope, all"]:
            mine = [_fate(case, one) for case, one in pairs if kind in (case.kind, "out of scope, all")]
            shares = [mine.count(fate) / len(mine) for fate in ("refused", "warned", "judged", "failed")]
            rows.append(OutOfScopeRow(describer, kind, len(mine), *shares))
    return rows


def out_of_scope_subjects(cases: Sequence[OutOfScopeCase]) -> list[Subject]:
    """Return the images as what describers take; there is no truth about them."""
    return [Subject(case.image) for case in cases]


def out_of_scope_markdown(rows: Sequence[OutOfScopeRow]) -> str:
    """Return the rows as a table."""
    lines = [
        "| out of scope | describer | images | refused | judged with a warning | judged without | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(f"{100 * share:.0f} %" for share in (row.refused, row.warned, row.judged, row.failed))
        lines.append(f"| {row.kind} | {row.describer} | {row.count} | {shares} |")
    return "\n".join(lines) + "\n"


def _fate(case: OutOfScopeCase, answer: Answer) -> str:
    if answer.outcome is not Outcome.DESCRIBED:
        return answer.outcome.value
    assert answer.description is not None
    is_warned = bool(answer.warning) or answer.description.modality is not case.image.modality
    return "warned" if is_warned else "judged"


def _sector(draws: np.random.Generator) -> np.ndarray:
    """Return a sector scan of speckle, log-compressed over 50 dB, around dark round cysts.

    Fully developed speckle has Rayleigh-distributed amplitudes (Burckhardt 1978); it is drawn in beam coordinates and
    is therefore wider at depth.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    field = draws.normal(size=(2, 256, 96))
    amplitude = np.hypot(*(gaussian_filter(part, (1.2, 0.8)) for part in field))
    depth, beam = np.mgrid[0:256, 0:96]
    for _ in range(4):
        row, column, radius = draws.uniform(60, 230), draws.uniform(15, 80), draws.uniform(8, 22)
        amplitude[np.hypot(depth - row, 3 * (beam - column)) < radius] *= 0.05
    level = np.clip(1 + 20 * np.log10(np.maximum(amplitude / amplitude.max(), 1e-6)) / 50, 0, 1)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1.0)
    radius, angle = np.hypot(y + 0.1, x - 0.5), np.arctan2(x - 0.5, y + 0.1)
    place = (radius - 0.1) / 0.95 * 255, (angle / 1.2 + 0.5) * 95
    return np.asarray(map_coordinates(level, place, order=1, cval=0.0))
