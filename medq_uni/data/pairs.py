"""Degraded and reference slices with their records, drawn one by one."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from medq_uni.config import ConfigError
from medq_uni.data import ood, readers, sources
from medq_uni.data.augment import augment
from medq_uni.data.lesions import with_lesions
from medq_uni.data.phantoms import draw_phantom
from medq_uni.data.textures import draw_texture
from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import Degraded, UnusableValues, degrade
from medq_uni.physics.effect import NOISE_LIMITS, effect, grade_of, own_noise, total_effect
from medq_uni.physics.record import DEFAULT_METHOD, MEASURED, SCANNER_METHOD, DegradationRecord
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import generator_of, randint
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, tasks_of

REFERENCE_DRAWS = 8
"""How many slices are tried for a usable image before a phantom takes its place."""
PHANTOM_VOLUME = "phantom"


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference slice, the same slice degraded, and how."""

    degraded: MedicalImage
    reference: MedicalImage
    task: Task
    """The task that it was made for; a mixed degradation has another one beside it."""
    records: tuple[DegradationRecord, ...]
    """What was done, with the grades that were measured."""
    effects: tuple[float, ...]
    """What was measured, one number per record."""
    own_noise: float
    """Noise of the reference itself, as ``own_noise`` estimates it; 0 for phantoms, whose truth is known."""
    anatomy: Anatomy
    subject: str
    source: str
    """``phantom``, ``real`` or ``unseen`` (made by :mod:`medq_uni.data.ood`)."""
    volume: str
    """Name of the volume in its source; ``phantom``; the kind of an out-of-distribution reference."""
    z: int
    """Number of the slice in its volume."""
    volume_peak: float | None = None
    """99.9th percentile of the MR or PET volume that the reference is a slice of; None where there is no such."""

    @property
    def severity(self) -> Severity:
        """The worst grade."""
        return max((record.severity for record in self.records), key=lambda severity: severity.level)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pairs are drawn."""

    count: int
    """Number of pairs."""
    seed: int
    """Seed of everything that is drawn."""
    data: tuple[str, ...] = ()
    """Sources of real volumes, each a folder or KIND:FOLDER; none uses phantoms alone."""
    split: str = "train"
    """Split of the real volumes."""
    real_fraction: float = 0.45
    """Share of pairs made from real volumes, where there are any."""
    phantom_sizes: tuple[int, ...] = (192, 224, 256, 256, 320)
    """Sides of the phantoms in pixels, drawn with equal chance."""
    texture_fraction: float = 0.0
    """Share of phantoms that are random textures of no anatomy (:mod:`medq_uni.data.textures`)."""
    none_fraction: float = 0.15
    """Share of pairs that are not degraded at all."""
    grades: tuple[Severity, ...] = ()
    """Grades that take turns, every task through all of them; none draws them at random."""
    mixed_fraction: float = 0.0
    """Share of degraded MR pairs that have a second degradation."""
    alternative: bool = False
    """Whether degradations are simulated by an alternative, independent method, for a test of shift."""
    scanner_fraction: float = 0.0
    """Share of simulated pairs that are degraded by the whole chain of acquisition, where their tasks have one."""
    vary_real: bool = False
    """Whether real slices are augmented (matrix size, contrast, orientation, noise) before they are degraded."""
    lesion_fraction: float = 0.0
    """Share of pairs whose truth gets a few lesions of known contrast before it is degraded."""
    unseen: bool = False
    """Whether the references are out of distribution (:mod:`medq_uni.data.ood`): a test of generality."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if isinstance(self.data, str):
            raise ConfigError(f"data must be a list of sources, got {self.data!r}. Write [{self.data!r}].")
        if self.count < 1 or not self.phantom_sizes:
            raise ConfigError("pairs: count must be at least 1, and phantom_sizes must not be empty.")
        shares = (
            "real_fraction",
            "none_fraction",
            "mixed_fraction",
            "scanner_fraction",
            "lesion_fraction",
            "texture_fraction",
        )
        wrong = next((name for name in shares if not 0 <= getattr(self, name) <= 1), None)
        if wrong is not None:
            raise ConfigError(f"pairs: {wrong} must lie between 0 and 1, got {getattr(self, wrong)}.")
        if self.alternative and self.scanner_fraction:
            raise ConfigError("pairs: a pair has one simulation; set alternative to false, or scanner_fraction to 0.")
        if self.unseen and self.data:
            raise ConfigError("pairs: unseen references are made by code; leave out data, or set unseen to false.")

    @property
    def wants_real(self) -> bool:
        """Whether a share of the pairs is made from real volumes, where there are any."""
        return self.real_fraction > 0 and not self.unseen

    @property
    def wants_only_real(self) -> bool:
        """Whether all pairs are made from real volumes: without any there are none."""
        return self.real_fraction >= 1 and not self.unseen


@dataclass(frozen=True, eq=False)
class Reference:
    """A slice that a pair is made from."""

    image: MedicalImage
    own_noise: float
    anatomy: Anatomy
    subject: str
    volume: str
    z: int
    lower: tuple[float, MedicalImage] | None = None
    """Dose reduction and voxels of the same slice measured at a lower dose."""
    source: str = "phantom"
    """See :class:`Pair`, as for the next."""
    volume_peak: float | None = None


def draw_pair(config: PairsConfig, index: int) -> Pair:
    """Return pair number ``index``: the same for any number of workers and any order.

    A pair measured at two doses is taken where the source has one; elsewhere the degradation is simulated.
    """
    generator = generator_of(config.seed, index)
    task = _task(index)
    severity = _severity(config, index, generator)
    use_real = bool(config.data) and _chance(config.real_fraction, generator)
    reference = _real_reference(config, task, severity is Severity.NONE, generator) if use_real else None
    made_by_code = _ood_reference if config.unseen else _phantom_reference
    reference = reference or made_by_code(config, task.modality, index, generator)
    if reference.lower is not None:
        made = _measured(reference, reference.lower, task)
    else:
        reference = _perhaps_with_lesions(reference, config, index)
        made = _simulated(reference, config, index, severity, generator)
    return Pair(
        degraded=made.image,
        reference=reference.image,
        task=task,
        records=made.records,
        effects=made.effects,
        own_noise=reference.own_noise,
        anatomy=reference.anatomy,
        subject=reference.subject,
        source=reference.source,
        volume=reference.volume,
        z=reference.z,
        volume_peak=reference.volume_peak,
    )


def _simulated(
    reference: Reference, config: PairsConfig, index: int, severity: Severity, generator: torch.Generator
) -> Degraded:
    """Return a reference degraded by the task of pair ``index``, and perhaps by another one of its modality."""
    task = _task(index)
    wanted = [(task, severity)]
    others = [other for other in tasks_of(task.modality) if other is not task]
    if others and severity is not Severity.NONE and _chance(config.mixed_fraction, generator):
        wanted.append((others[randint(len(others), generator)], Severity.from_level(1 + randint(3, generator))))
    method = _scanner_or_default(config, index, [one for one, _ in wanted])
    if config.alternative and len(wanted) == 1:
        alternatives = tuple(SPECS[task].alternatives)
        method = alternatives[randint(len(alternatives), generator)]
    try:
        return degrade(reference.image, wanted, generator, own=reference.own_noise, method=method)
    except UnusableValues as error:
        if reference.source != "real":
            raise
        raise sources.ManifestError(
            f"{reference.volume}, slice {reference.z}: {error} Else leave this volume out of the source."
        ) from error


def _scanner_or_default(config: PairsConfig, index: int, tasks: list[Task]) -> str:
    """Return the method of a pair's tasks; whatever else is drawn for the pair stays the same."""
    chosen = _chance(config.scanner_fraction, generator_of(config.seed, index, 4))  # 3 is taken by training
    return SCANNER_METHOD if chosen and all(SPECS[task].scanner for task in tasks) else DEFAULT_METHOD


def _task(index: int) -> Task:
    return list(Task)[index % len(Task)]


def volume_of(config: PairsConfig, index: int) -> str:
    """Return the name of the volume that pair ``index`` is drawn from first, without reading it.

    Work that is sorted by it reads every volume once.
    """
    generator = generator_of(config.seed, index)
    _severity(config, index, generator)
    if not config.data or not _chance(config.real_fraction, generator):
        return PHANTOM_VOLUME
    volume = _draw_volume(config, _task(index).modality, generator)
    return PHANTOM_VOLUME if volume is None else volume.name


def _severity(config: PairsConfig, index: int, generator: torch.Generator) -> Severity:
    if config.grades:
        return config.grades[(index // len(Task)) % len(config.grades)]
    if _chance(config.none_fraction, generator):
        return Severity.NONE
    return Severity.from_level(1 + randint(3, generator))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < probability


def _phantom_reference(config: PairsConfig, modality: Modality, index: int, generator: torch.Generator) -> Reference:
    side = config.phantom_sizes[randint(len(config.phantom_sizes), generator)]
    own = generator_of(config.seed, index, 5)
    is_texture = _chance(config.texture_fraction, own)
    drawn = draw_texture(modality, own, size=side) if is_texture else draw_phantom(modality, generator, size=side)
    return Reference(drawn.image, 0.0, drawn.anatomy, f"phantom-{config.seed}-{index}", PHANTOM_VOLUME, 0)


def _ood_reference(config: PairsConfig, modality: Modality, index: int, generator: torch.Generator) -> Reference:
    """Return a picture, the Shepp-Logan head, or a phantom in the contrast of another modality, in turns."""
    side = config.phantom_sizes[randint(len(config.phantom_sizes), generator)]
    drawn = ood.draw(modality, index // (len(Task) * max(len(config.grades), 1)), generator, size=side)
    return Reference(drawn.image, 0.0, Anatomy.BODY, drawn.name, drawn.kind, 0, source="unseen")


def _real_reference(
    config: PairsConfig, task: Task, must_be_good: bool, generator: torch.Generator
) -> Reference | None:
    """Return a slice that holds enough of the body and is good where it must be; None where none was found."""
    for _ in range(REFERENCE_DRAWS):
        volume = _draw_volume(config, task.modality, generator)
        if volume is None:
            return None
        candidates = _slices(volume)
        if not candidates:
            continue
        z = candidates[randint(len(candidates), generator)]
        image = sources.load_reference(volume).slice_at(z)
        is_augmented = config.vary_real and not volume.lower
        if is_augmented:
            image = augment(image, generator)
        own = own_noise(image)
        if must_be_good and own > NOISE_LIMITS[task.modality]:
            continue
        lower = None
        if volume.lower and SPECS[task].params_of_dose is not None and not must_be_good:
            one = volume.lower[randint(len(volume.lower), generator)]
            lower = one.reduction, sources.load_lower(volume, one).slice_at(z)
        peak = None if is_augmented else sources.volume_peak(volume)
        return Reference(image, own, volume.anatomy, volume.subject, volume.name, z, lower, "real", peak)
    return None


def _perhaps_with_lesions(reference: Reference, config: PairsConfig, index: int) -> Reference:
    """Return a reference with lesions, or as it is; whatever else is drawn for the pair stays the same."""
    generator = generator_of(config.seed, index, 2)  # 1 draws the crop of a cached pair
    if not _chance(config.lesion_fraction, generator):
        return reference
    return replace(reference, image=with_lesions(reference.image, generator))


def _measured(reference: Reference, lower: tuple[float, MedicalImage], task: Task) -> Degraded:
    """Return the scan at a lower dose as the degraded one, graded like a simulated one."""
    reduction, image = lower
    params_of_dose = SPECS[task].params_of_dose
    assert params_of_dose is not None, "a lower dose is taken for tasks that reduce the dose alone"
    measured = total_effect(effect(image, reference.image, task, method=MEASURED), reference.own_noise, task)
    record = DegradationRecord(task, grade_of(task, measured), params_of_dose(reduction), method=MEASURED)
    return Degraded(image, (record,), (measured,))


def _draw_volume(config: PairsConfig, modality: Modality, generator: torch.Generator) -> sources.Volume | None:
    """Return a volume of a modality; None where the sources have others only, so that phantoms stand in."""
    groups = _groups(config.data, config.split, modality)
    if not groups:
        if not any(_groups(config.data, config.split, other) for other in Modality):
            subjects = len({volume.subject for source in config.data for volume in _volumes(source)})
            raise sources.ManifestError(
                f"{', '.join(config.data)}: no volume in split {config.split!r} ({subjects} subjects in all; about one "
                "in ten goes to val, one to test). Give more subjects, or a manifest that says who goes where, or set "
                "real_fraction of these pairs to 0."
            )
        return None
    group = groups[randint(len(groups), generator)]
    return group[randint(len(group), generator)]


@functools.lru_cache(maxsize=16)
def _volumes(source: str) -> tuple[sources.Volume, ...]:
    return tuple(readers.read_source(source).volumes)


@functools.lru_cache(maxsize=16)
def _groups(data: tuple[str, ...], split: str, modality: Modality) -> tuple[tuple[sources.Volume, ...], ...]:
    # volumes of one collection count as one group, so that many small crops do not outweigh a few whole scans
    groups: dict[str, list[sources.Volume]] = {}
    for volume in (volume for source in data for volume in _volumes(source)):
        if volume.modality is modality and volume.split == split:
            groups.setdefault(volume.group, []).append(volume)
    return tuple(tuple(group) for group in groups.values())


@functools.lru_cache(maxsize=4096)
def _slices(volume: sources.Volume) -> tuple[int, ...]:
    return tuple(sources.usable_slices(volume))
