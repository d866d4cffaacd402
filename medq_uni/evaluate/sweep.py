"""A sweep over the chain of acquisition: degradations of one strength, of which one nuisance at a time is varied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medq_uni.config import ConfigError
from medq_uni.config_json import read_json
from medq_uni.data.pairs import Pair, PairsConfig, draw_pair
from medq_uni.image import MedicalImage
from medq_uni.physics.after_scanner import AFTER_LIMITS
from medq_uni.physics.degrade import apply_records
from medq_uni.physics.effect import effect, grade_of, total_effect
from medq_uni.physics.record import SCANNER_METHOD, DegradationRecord, Parameter
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import generator_of, seed_of
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.cases import Case, drawn_cases, group_of
from medq_uni.taxonomy import Severity, Task

AIMS = 3
"""How often a strength is corrected until the effect is the wanted one."""
NOISE_EXPONENT = -0.5
"""Of the effect of more counts, where nothing is known yet: noise falls as their square root."""
LARGEST_STEP = math.log(20.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a nuisance."""

    label: str
    """What stands at the axis; a number, where the nuisance is one."""
    params: dict[str, Parameter]
    """Of the scanner, by the names of its records."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One nuisance of one task, all else held fast."""

    task: Task
    """Whose method ``scanner`` degrades."""
    name: str
    """What is varied, with its unit."""
    params: dict[str, Parameter]
    """Those that all points share; a point can replace them."""
    points: tuple[Point, ...]
    """In the order of the axis."""
    effect: float | None = None
    """Error that every image has, as NRMSE or SD in HU, where the parameters alone do not fix it."""
    strength: str = ""
    """Parameter that is changed until the effect is that one."""

    def __post_init__(self) -> None:
        """Check names."""
        scanner = SPECS[self.task].scanner
        if scanner is None:
            raise ConfigError(f"curve {self.name!r}: {self.task.value} has no method {SCANNER_METHOD!r}.")
        known = (*scanner.draw(Severity.MODERATE, generator_of(0)), *AFTER_LIMITS)
        named = {*self.params, *(name for point in self.points for name in point.params)}
        unknown = sorted(named - set(known))
        if unknown:
            raise ConfigError(
                f"curve {self.name!r}: {unknown[0]!r} is no parameter of the scanner of {self.task.value}, which has "
                f"{', '.join(known)}."
            )
        if not self.points or (self.effect is not None and self.strength not in self.params):
            raise ConfigError(
                f"curve {self.name!r} needs points, and a strength among its params where it has an effect."
            )


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """Which images are degraded how."""

    name: str
    """Of the sweep in tables and folders."""
    phantoms: PairsConfig
    """Pairs whose references are degraded, of every task in turns."""
    real: PairsConfig
    """The same of real volumes, where sources are given; phantoms that stand in are left out."""
    val: PairsConfig
    """Pairs on which filters are tuned."""
    curves: tuple[Curve, ...]
    about: tuple[str, ...] = ()
    """For whoever reads the recipe."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep that was drawn."""

    recipe: SweepRecipe
    benchmark: Benchmark
    places: tuple[tuple[int, int], ...]
    """Of every test slice of the benchmark: numbers of the curve and of its point."""


def read_sweep(path: Path, sources: Sequence[str] = ()) -> Sweep:
    """Return the sweep of a recipe, such as ``benchmark/sweep/chains.json``, drawn here and now.

    Args:
        path: The recipe.
        sources: Real volumes (FOLDER or KIND:FOLDER); without any there are phantoms alone.

    Raises:
        ConfigError: If the recipe cannot be read or names parameters that there are not.
        RecordError: If a parameter is out of range.
    """
    recipe = read_json(SweepRecipe, path, where="benchmark/sweep/")
    if sources:
        recipe = replace(recipe, real=replace(recipe.real, data=tuple(sources)))
    configs = [recipe.phantoms, *([recipe.real] if sources else [])]
    references = [found for config in configs for found in _references(config)]
    drawn = [
        (place, case)
        for place, curve, point in _points(recipe)
        for number, reference in enumerate(one for one in references if one.task is curve.task)
        for case in [_case(reference, number, curve, point)]
    ]
    cases = tuple(case for _, case in drawn)
    benchmark = Benchmark(recipe.name, cases, tuple(drawn_cases(recipe.val)))
    return Sweep(recipe, benchmark, tuple(place for place, _ in drawn))


def _points(recipe: SweepRecipe) -> Iterator[tuple[tuple[int, int], Curve, Point]]:
    for curve_number, curve in enumerate(recipe.curves):
        for point_number, point in enumerate(curve.points):
            yield (curve_number, point_number), curve, point


def _references(config: PairsConfig) -> Iterator[Pair]:
    for index in range(config.count):
        pair = draw_pair(config, index)
        if not (config.data and pair.source == "phantom"):
            yield pair


def _case(pair: Pair, number: int, curve: Curve, point: Point) -> Case:
    """Return a reference degraded as a point says; the noise of one reference is that of one seed at all points."""
    seed = seed_of(f"sweep/{curve.task.value}/{number}", num_bytes=3)
    record = DegradationRecord(
        curve.task, Severity.MODERATE, curve.params | point.params, seed=seed, method=SCANNER_METHOD
    )
    try:
        record = _aimed(pair.reference, record, curve)
        degraded = apply_records(pair.reference, record)
    except KeyError as error:
        raise ConfigError(f"curve {curve.name!r}, point {point.label!r}: parameter {error} is missing.") from error
    seen = effect(degraded, pair.reference, curve.task, method=SCANNER_METHOD)
    found = total_effect(seen, pair.own_noise, curve.task)
    record = replace(record, severity=grade_of(curve.task, found))
    group = group_of(pair.source, pair.volume, min(pair.reference.shape[1:]), 1)
    images = degraded, pair.reference
    return Case(curve.task, record.severity, pair.subject, group, *images, pair.anatomy, (record,), pair.volume_peak)


def _aimed(reference: MedicalImage, record: DegradationRecord, curve: Curve) -> DegradationRecord:
    """Return a record whose strength gives the effect of the curve: steps of the secant rule on logarithms."""
    if curve.effect is None:
        return record
    place, exponent = math.log(float(record.params[curve.strength])), NOISE_EXPONENT
    before: tuple[float, float] | None = None
    for _ in range(AIMS):
        found = math.log(max(effect(apply_records(reference, record), reference, curve.task), 1e-6))
        if before is not None and abs(place - before[0]) > 1e-3:
            measured = (found - before[1]) / (place - before[0])
            exponent = min(max(measured, 3 * NOISE_EXPONENT), NOISE_EXPONENT / 3)
        before = place, found
        step = (math.log(curve.effect) - found) / exponent
        place += min(max(step, -LARGEST_STEP), LARGEST_STEP)
        record = replace(record, params=record.params | {curve.strength: math.exp(place)})
    return record
