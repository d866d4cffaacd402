"""Print what the grades mean: the effect of every task and grade on training images, and their own noise.

Run: python -m experiments.grades [--data SOURCE ...] [--slices N] [--pictures DIR]    (2 CPU cores, about 2 minutes)
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medq_uni.data import readers, sources
from medq_uni.data.phantoms import draw_phantom
from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import Degraded, degrade
from medq_uni.physics.effect import NOISE_LIMITS, effect, own_noise
from medq_uni.physics.record import DEFAULT_METHOD, SCANNER_METHOD
from medq_uni.physics.tasks import SPECS
from medq_uni.scaling import CT_WINDOW_HU
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

GRADES = tuple(Severity)[1:]
SEED = 515
PICTURE_SIZE = 192
OBSERVED = {Modality.CT: (0.75, 512), Modality.PET: (2.5, 160)}
"""Pixel in mm and side of the images for which detectability is stated."""
QUANTILES = (0.05, 0.5, 0.95)


def main() -> None:
    """Print markdown tables, and write the pictures where a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="sources of real volumes; split train is used")
    parser.add_argument("--slices", type=int, default=20, help="phantoms, and real slices, of every modality")
    parser.add_argument("--pictures", type=Path, help="write one picture per task here")
    options = parser.parse_args()
    sets = {"phantoms": list(_phantoms(options.slices))}
    if options.data:
        sets["real, split train"] = list(_real(options.data, options.slices))
    _print_effects(sets)
    _print_own_noise(sets)
    _print_scanners(sets)
    if options.pictures is not None:
        for task in Task:
            _picture(task, options.pictures)


def _phantoms(count: int) -> Iterator[MedicalImage]:
    for number, modality in enumerate(Modality):
        for index in range(count):
            yield draw_phantom(modality, generator_of(SEED, number, index), size=PICTURE_SIZE).image


def _real(data: list[str], count: int) -> Iterator[MedicalImage]:
    """Yield slices that take turns among the volumes of a modality."""
    volumes = [v for source in data for v in readers.read_source(source).volumes if v.split == "train"]
    for modality in Modality:
        chosen: list[tuple[sources.Volume, int]] = []
        for volume in (volume for volume in volumes if volume.modality is modality):
            usable = sources.usable_slices(volume)
            chosen += (
                [(volume, z) for z in sorted({usable[len(usable) // 3], usable[2 * len(usable) // 3]})]
                if usable
                else []
            )
        step = max(1, len(chosen) // count)
        for volume, z in chosen[::step][:count]:
            yield sources.load_reference(volume).slice_at(z)


def _print_effects(sets: dict[str, list[MedicalImage]]) -> None:
    print("| task | grade | bounds | set | slices | 5 % | median | 95 % | hit the grade | alternative, median |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for task in Task:
        for grade in GRADES:
            for name, images in sets.items():
                chosen = [image for image in images if image.modality is task.modality]
                made = [_degrade(image, task, grade, index, DEFAULT_METHOD) for index, image in enumerate(chosen)]
                effects = [one.effects[0] for one in made]
                hit = np.mean([one.records[0].severity is grade for one in made])
                other = next(iter(SPECS[task].alternatives))
                alternative = np.median(
                    [_degrade(image, task, grade, i, other).effects[0] for i, image in enumerate(chosen)]
                )
                numbers = " | ".join(f"{value:.3g}" for value in np.quantile(effects, QUANTILES))
                scale = SPECS[task].effect
                bounds = (*scale.bounds, np.inf)[grade.level - 1 : grade.level + 1]
                span = f"{bounds[0]:g} to {bounds[1]:g} {scale.unit}"
                head = f"{task.value} | {grade.value} | {span} | {name} | {len(chosen)}"
                print(f"| {head} | {numbers} | {100 * hit:.0f} % | {alternative:.3g} |")
            print(f"{task.value} {grade.value}", file=sys.stderr, flush=True)


def _degrade(image: MedicalImage, task: Task, grade: Severity, index: int, method: str) -> Degraded:
    generator = generator_of(SEED, list(Task).index(task), grade.level, index)
    return degrade(image, [(task, grade)], generator, method=method)


def _print_own_noise(sets: dict[str, list[MedicalImage]]) -> None:
    print("\n| modality | set | slices | own noise, 5 % | median | 95 % | limit | within it |")
    print("|---|---|---|---|---|---|---|---|")
    for name, images in sets.items():
        found: dict[Modality, list[float]] = defaultdict(list)
        for image in images:
            if image.modality is not None:
                found[image.modality].append(own_noise(image))
        for modality, values in found.items():
            numbers = " | ".join(f"{value:.3g}" for value in np.quantile(values, QUANTILES))
            within = np.mean(np.array(values) <= NOISE_LIMITS[modality])
            limit = f"{NOISE_LIMITS[modality]:g}"
            print(f"| {modality.value} | {name} | {len(values)} | {numbers} | {limit} | {100 * within:.0f} % |")


def _print_scanners(sets: dict[str, list[MedicalImage]]) -> None:
    """Print what noise of scanners hides, beside its plain measure, and what the observer sees at the bounds."""
    print("\n| task | grade | set | slices | hides as much as, median | plain, 5 % | median | 95 % | hit the grade |")
    print("|---|---|---|---|---|---|---|---|---|")
    tasks = [task for task in Task if SPECS[task].effect.observer is not None]
    for task in tasks:
        for grade in GRADES:
            for name, images in sets.items():
                chosen = [image for image in images if image.modality is task.modality]
                made = [_degrade(image, task, grade, index, SCANNER_METHOD) for index, image in enumerate(chosen)]
                hit = np.mean([one.records[0].severity is grade for one in made])
                hidden = np.median([one.effects[0] for one in made])
                plain = [effect(one.image, image, task) for one, image in zip(made, chosen, strict=True)]
                numbers = " | ".join(f"{value:.3g}" for value in np.quantile(plain, QUANTILES))
                unit, head = SPECS[task].effect.unit, f"{task.value} | {grade.value} | {name} | {len(chosen)}"
                print(f"| {head} | {hidden:.3g} {unit} | {numbers} | {100 * hit:.0f} % |", flush=True)
    print("\n| task | bound | disc | contrast | d' |\n|---|---|---|---|---|")
    for task in tasks:
        scale = SPECS[task].effect
        assert scale.observer is not None
        for bound in scale.bounds:
            seen = scale.observer.detectability(bound, *OBSERVED[task.modality])
            for diameter, value in zip(scale.observer.discs_mm, seen, strict=True):
                of = "of the signal" if scale.is_relative else scale.unit
                head = f"{task.value} | {bound:g} {scale.unit} | {diameter:g} mm | {scale.observer.contrast:g} {of}"
                print(f"| {head} | {value:.1f} |")


def _picture(task: Task, folder: Path) -> None:
    """Write one phantom under every grade and, in the second row, the changes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    reference = draw_phantom(task.modality, generator_of(SEED, 99, list(Task).index(task)), size=PICTURE_SIZE).image
    truth = reference.voxels[0]
    low, high = CT_WINDOW_HU if task.modality is Modality.CT else (0, float(np.percentile(truth, 99.7)))
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.2), layout="constrained")
    for column, grade in enumerate(Severity):
        made = _degrade(reference, task, grade, 0, DEFAULT_METHOD)
        voxels = made.image.voxels[0]
        axes[0, column].imshow(voxels, cmap="gray", vmin=low, vmax=high)
        unit = SPECS[task].effect.unit
        title = grade.value if grade is Severity.NONE else f"{grade.value}: {made.effects[0]:.3g} {unit}"
        axes[0, column].set_title(title, fontsize=10)
        span = (high - low) / 3
        axes[1, column].imshow(voxels - truth, cmap="RdBu_r", vmin=-span, vmax=span)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(f"{task.value} on a phantom; below, the change", fontsize=11)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{task.value}.png", dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
