"""Draw docs/gallery: real images of the worklist before and after, beside non-local means, chosen by rule.

Run: python -m experiments.gallery RUN --source DIR

RUN is the folder that ``medq evaluate --benchmark benchmark/worklist/department.json`` has written with the systems
``classical`` and ``nano``; DIR is the folder of volumes that it was drawn from, whose MANIFEST.csv names the licence of
each. Of every modality four images are shown: the degraded ones that gain most, the middle and the least, and the good
one that changes most. Then the noisiest image of every modality as it came from the scanner, whose truth nobody knows.
Nobody picks them by eye.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.data.readers import read_source
from medq_uni.data.sources import load_reference
from medq_uni.evaluate.page import number
from medq_uni.files import write_text
from medq_uni.image import MedicalImage
from medq_uni.notice import SHORT_NOTICE
from medq_uni.physics.effect import own_noise
from medq_uni.restorer import Restorer
from medq_uni.result import Restoration
from medq_uni.scaling import CT_WINDOW_HU
from medq_uni.systems.benchmark import Benchmark, read_benchmarks
from medq_uni.systems.cases import PATCH_SIDE, Case
from medq_uni.systems.classical import filtered, tune
from medq_uni.taxonomy import Modality, Severity

ROOT = Path(__file__).parents[1]
WORKLIST = ROOT / "benchmark" / "worklist" / "department.json"
FOLDER, PAGE = ROOT / "docs" / "gallery", ROOT / "docs" / "gallery.md"
MODEL, PEER = "nano", "nlm"
CAME = (
    "## As they came\n\nOf every modality the middle slice of a test volume that has most noise of its own, not "
    "degraded by us: no truth is known, so no PSNR is given. Left to right: as it came, nano, what nano "
    "changed, its standard deviation.\n"
)
COLUMNS = ("as it came", "non-local means", "nano", "truth", "what nano changed")


@dataclass(frozen=True)
class Shown:
    """One row of a picture."""

    why: str
    """By which rule it was chosen."""
    case: Case
    scores: dict[str, float]
    """PSNR in dB by system; infinite where nothing changed."""


def main() -> None:
    """Write the pictures and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of medq evaluate")
    parser.add_argument("--source", required=True, help="folder of volumes with MANIFEST.csv")
    arguments = parser.parse_args()
    (benchmark,) = read_benchmarks(WORKLIST, (arguments.source,))
    scored = read_scores(arguments.run / "csv" / benchmark.name / "images.csv")
    licences = read_licences(Path(arguments.source) / "MANIFEST.csv")
    restorer = Restorer.from_pretrained(MODEL)
    strengths = dict(tune(PEER, benchmark.val))
    parts = []
    for modality in Modality:
        rows = chosen(benchmark, scored, modality)
        if not rows:
            continue
        results = [restorer.restore(row.case.degraded) for row in rows]
        peers = [filtered(row.case, PEER, strengths[row.case.task]) for row in rows]
        name = f"{modality.value}.jpg"
        FOLDER.mkdir(exist_ok=True)
        draw(rows, results, peers).savefig(FOLDER / name, dpi=80, pil_kwargs={"quality": 82})
        parts += [f"## {modality.value.upper()}\n", f"![real {modality.value.upper()} images](gallery/{name})\n"]
        parts += [table(rows, results, licences), ""]
    noisy = noisiest(arguments.source)
    came = [restorer.restore(image) for _, image in noisy]
    draw_came(came).savefig(FOLDER / "as-they-came.jpg", dpi=80, pil_kwargs={"quality": 82})
    parts += [CAME, "![real images as they came](gallery/as-they-came.jpg)\n"]
    parts += [
        f"- {licences.get(name, 'unknown')}: {one.description.to_text()}"
        for (name, _), one in zip(noisy, came, strict=True)
    ]
    write_text(PAGE, "\n".join([_head(benchmark), *parts]).rstrip() + "\n")
    print(PAGE)


def read_scores(path: Path) -> dict[int, dict[str, float]]:
    """Return the PSNR of every image by its place and system, infinite where nothing changed."""
    found: dict[int, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["scores_psnr"]:
                found.setdefault(int(row["case"]), {})[row["system"]] = float(row["scores_psnr"])
    return found


def read_licences(manifest: Path) -> dict[str, str]:
    """Return source and licence of the volumes of every subject."""
    found: dict[str, list[str]] = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["subject"], []).append(f"{row['source']}, {row['licence']}")
    return {subject: "; ".join(dict.fromkeys(lines)) for subject, lines in found.items()}


def chosen(benchmark: Benchmark, scored: dict[int, dict[str, float]], modality: Modality) -> list[Shown]:
    """Return the images of a modality that the rule chooses, whole slices before patches."""
    places = [place for place, case in enumerate(benchmark.test) if case.task.modality is modality and place in scored]
    places = [place for place in places if benchmark.test[place].group == "real"] or places
    degraded = [place for place in places if benchmark.test[place].severity is not Severity.NONE]
    good = [place for place in places if benchmark.test[place].severity is Severity.NONE]
    ranked = sorted(degraded, key=lambda place: scored[place][MODEL] - scored[place]["degraded input"])
    rules = [("gains most", ranked[-1:]), ("gains as the middle one", ranked[len(ranked) // 2 :][:1])]
    rules += [("gains least", ranked[:1]), ("good, changed most", sorted(good, key=lambda p: scored[p][MODEL])[:1])]
    return [Shown(why, benchmark.test[place], scored[place]) for why, found in rules for place in found]


def noisiest(source: str) -> list[tuple[str, MedicalImage]]:
    """Return subject and middle slice of the test volume of every modality that has most noise of its own."""
    found: dict[Modality, tuple[float, str, MedicalImage]] = {}
    for volume in read_source(source).volumes:
        if volume.split != "test":
            continue
        whole = load_reference(volume)
        image = whole.slice_at(whole.shape[0] // 2)
        noise = own_noise(image)
        if min(image.shape[1:]) >= PATCH_SIDE and noise > found.get(volume.modality, (0.0,))[0]:
            found[volume.modality] = noise, volume.subject, image
    return [(subject, image) for _, subject, image in found.values()]


def draw_came(results: Sequence[Restoration]) -> Any:
    """Return a figure with a row for every image whose truth is not known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.8 * 4, 2.8 * len(results)), layout="constrained")
    for axes, result in zip(np.atleast_2d(figure.subplots(len(results), 4)), results, strict=True):
        low, high = window(result.image)
        gray = "gray_r" if result.image.modality is Modality.PET else "gray"
        axes[0].imshow(result.image.voxels[0], cmap=gray, vmin=low, vmax=high)
        axes[1].imshow(result.restored.voxels[0], cmap=gray, vmin=low, vmax=high)
        limit = 0.15 * (high - low)
        axes[2].imshow(result.residual.voxels[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
        if result.uncertainty is not None:
            axes[3].imshow(result.uncertainty.voxels[0], cmap="magma", vmin=0, vmax=limit)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    return figure


def draw(rows: Sequence[Shown], results: Sequence[Restoration], peers: Sequence[np.ndarray]) -> Any:
    """Return a figure with a row for every image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(COLUMNS), 2.7 * len(rows)), layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(rows), len(COLUMNS)))
    for axes, row, result, peer in zip(grid, rows, results, peers, strict=True):
        truth = row.case.reference
        low, high = window(truth)
        change = result.residual.voxels[0]
        limit = 0.15 * (high - low)
        for axis, values in zip(
            axes, (row.case.degraded.voxels[0], peer[0], result.restored.voxels[0], truth.voxels[0]), strict=False
        ):
            axis.imshow(values, cmap="gray_r" if truth.modality is Modality.PET else "gray", vmin=low, vmax=high)
        axes[-1].imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
        for axis, title in zip(axes, COLUMNS, strict=True):
            axis.set_title(title if row is rows[0] else "", fontsize=9)
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(row.why, fontsize=9)
    return figure


def window(image: MedicalImage) -> tuple[float, float]:
    """Return lowest and highest value of the gray scale."""
    if image.modality is Modality.CT:
        return CT_WINDOW_HU
    return 0.0, float(np.percentile(image.voxels, 99.7)) or 1.0


def table(rows: Sequence[Shown], results: Sequence[Restoration], licences: dict[str, str]) -> str:
    """Return what belongs to the rows of a picture."""
    lines = [
        "| row | degradation | PSNR: as it came | non-local means | nano | what nano wrote | source and licence |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, result in zip(rows, results, strict=True):
        cells = [_decibels(row.scores[name]) for name in ("degraded input", PEER, MODEL)]
        what = "none" if row.case.severity is Severity.NONE else f"{row.case.severity}, {row.case.task}"
        lines.append(
            f"| {row.why} | {what} | {' | '.join(cells)} | {result.description.to_text()} "
            f"| {licences.get(row.case.subject, 'unknown')} |"
        )
    return "\n".join(lines)


def _decibels(value: float) -> str:
    return "unchanged" if math.isinf(value) else number(value, 1)


def _head(benchmark: Benchmark) -> str:
    return (
        "# Gallery\n\nWritten by `python -m experiments.gallery RUN --source DIR`. Real images of the worklist "
        f"({len(benchmark.test)} images, half of them good), degraded by simulation, so that the truth is known. Of "
        "every modality it shows the degraded image that gains most, the middle one and the one that gains least, and "
        "the good image that nano changes most: a rule chose them, nobody did. Red: nano added; blue: it removed; the "
        f"full color is 15 % of the gray scale. PSNR in dB. {SHORT_NOTICE}\n"
    )


if __name__ == "__main__":
    main()
