"""PSNR and SSIM of several systems on one set, with intervals that know that slices share subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medq_uni.evaluate.sets import Case
from medq_uni.evaluate.systems import System
from medq_uni.report import scores
from medq_uni.restoration import Restoration
from medq_uni.taxonomy import Severity, Task

RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """Scores of one system on one task of one group of cases."""

    group: str
    task: Task
    system: str
    count: int
    subjects: int
    psnr: float
    psnr_sd: float
    ssim: float
    gain: float
    """Mean PSNR above the degraded input, dB."""
    gain_low: float
    """Lower end of the 95 % interval of the gain, resampling subjects."""
    worse: float
    """Share of images with a lower PSNR than the degraded input."""


def restoration_table(
    cases: Sequence[Case], systems: dict[str, System], *, progress: Callable[[int, int], None] | None = None
) -> list[Row]:
    """Return the scores of every system on the degraded cases, by group and task.

    Args:
        cases: Those of grade none are left out; see :func:`harm_on_good_images`.
        systems: By name, in the order of the table.
        progress: Called with the number of cases done and their total.
    """
    scored = [case for case in cases if case.severity is not Severity.NONE]
    found: dict[tuple[str, Task, str], list[tuple[str, float, float, float]]] = defaultdict(list)
    for number, case in enumerate(scored, start=1):
        before = scores(case.degraded, case.reference)[0]
        for name, system in systems.items():
            decibels, similarity = scores(system(case), case.reference)
            found[case.group, case.task, name].append((case.subject, decibels, similarity, decibels - before))
        if progress is not None:
            progress(number, len(scored))
    return [_row(group, task, name, values) for (group, task, name), values in found.items()]


def _row(group: str, task: Task, name: str, values: list[tuple[str, float, float, float]]) -> Row:
    subjects = [value[0] for value in values]
    decibels, similarity, gain = (np.array([value[i] for value in values]) for i in (1, 2, 3))
    return Row(
        group=group,
        task=task,
        system=name,
        count=len(values),
        subjects=len(set(subjects)),
        psnr=float(decibels.mean()),
        psnr_sd=float(decibels.std()),
        ssim=float(similarity.mean()),
        gain=float(gain.mean()),
        gain_low=clustered_lower_bound(gain, subjects),
        worse=float((gain < 0).mean()),
    )


def clustered_lower_bound(values: np.ndarray, subjects: Sequence[str], *, seed: int = 0) -> float:
    """Return the lower end of :func:`clustered_interval`."""
    return clustered_interval(values, subjects, seed=seed)[0]


def clustered_interval(values: np.ndarray, subjects: Sequence[str], *, seed: int = 0) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % quantiles of the mean when whole subjects are drawn with replacement (bootstrap).

    Args:
        values: One per image.
        subjects: Subject of each image.
        seed: Of the resampling.
    """
    names = sorted(set(subjects))
    sums = np.array([values[[s == name for s in subjects]].sum() for name in names])
    counts = np.array([sum(s == name for s in subjects) for name in names])
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Harm:
    """What happens to images that need no restoration."""

    group: str
    modality: str
    count: int
    unchanged: float
    """Share that comes back bit-identical."""
    worst_psnr: float
    """Lowest PSNR against the input among the others; infinite where there are none."""


def harm_on_good_images(cases: Sequence[Case], system: System) -> list[Harm]:
    """Return, by group and modality, what a system does to the cases of grade none."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for case in cases:
        if case.severity is Severity.NONE:
            restored = system(case)
            same = np.array_equal(restored.voxels, case.degraded.voxels)
            decibels = np.inf if same else scores(restored, case.reference)[0]
            found[case.group, case.task.modality.value].append(decibels)
    return [
        Harm(group, modality, len(v), float(np.mean(np.isinf(v))), float(np.min(v)))
        for (group, modality), v in found.items()
    ]


@dataclass(frozen=True)
class Coverage:
    """How honest the uncertainty map is."""

    group: str
    modality: str
    count: int
    """Slices that were altered."""
    within_one: float
    """Share of pixels whose error is at most one predicted standard deviation; 0.683 is honest."""
    within_two: float
    """The same for two; 0.954 would be Gaussian."""


def coverage(cases: Sequence[Case], restore: Callable[[Case], Restoration]) -> list[Coverage]:
    """Return, by group and modality, how often the error lies within the predicted spread, degraded cases only.

    Args:
        cases: Those of grade none, and those that come back without an uncertainty, are left out.
        restore: Restores a degraded slice.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for case in cases:
        if case.severity is Severity.NONE:
            continue
        result = restore(case)
        if result.uncertainty is None:
            continue
        error = np.abs(result.restored.voxels - case.reference.voxels)
        within = [float((error <= k * result.uncertainty.voxels).mean()) for k in (1, 2)]
        found[case.group, case.task.modality.value].append((within[0], within[1]))
    return [
        Coverage(group, modality, len(v), *(float(np.mean([pair[i] for pair in v])) for i in (0, 1)))
        for (group, modality), v in found.items()
    ]
