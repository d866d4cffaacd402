"""Systems by name: the degraded input, tuned filters, models, models with a part switched off, trained baselines."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from medq_uni.config import ConfigError
from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.inference import NO_SKIP, WHOLE
from medq_uni.pretrained.baselines import is_baseline
from medq_uni.pretrained.load import EMBEDDED, MANIFEST
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.systems.cases import Case
from medq_uni.systems.classical import FILTERS, Classical, Strengths, is_at_hand, tune
from medq_uni.systems.learned import LearnedBaseline
from medq_uni.systems.system import Output, System

INPUT = "degraded input"
UNIMEDVL = "General-Medical-AI/UniMedVL"
Variant = Literal["", "forced", "expert-bypassed", "no-skip", "codec-only"]
VARIANTS: dict[str, Variant] = {name: name for name in get_args(Variant) if name}


class NotRun(MedQError):  # noqa: N818 - what the row of such a system says
    """A system that cannot run here; says why."""


@dataclass(frozen=True)
class SystemSpec:
    """A system by name, as light as a string: processes build it where they need it."""

    name: str
    """What it is called in tables."""
    kind: Literal["input", "classical", "model"]
    source: str
    """Name of the filter, or name or folder of the model or trained baseline."""
    variant: Variant = ""
    """Part of a model that is switched off."""
    strengths: Strengths = ()
    """Of a filter."""
    device: str | None = None
    """Where a model computes; None is a GPU where there is one."""


def read_specs(texts: Sequence[str], device: str | None = None) -> list[SystemSpec]:
    """Return the systems that a list of names means.

    Args:
        texts: ``input``; ``gaussian``, ``bilateral``, ``tv``, ``nlm``, ``wavelet``, ``bm3d`` or ``classical`` for all
            of them; ``unimedvl``; ``nano``, a folder of weights, that of a baseline too, or OWNER/NAME; a model also
            with ``:forced`` (good images too), ``:expert-bypassed``, ``:no-skip`` or ``:codec-only`` behind it.
            ``TITLE=`` before a name sets its title.
        device: Where models compute.

    Raises:
        ConfigError: If there is none, a name stands twice, or nothing is known by a name.
    """
    expanded = [one for text in texts for one in (tuple(FILTERS) if text == "classical" else (text,))]
    specs = [_spec(text, device) for text in expanded]
    if not specs:
        raise ConfigError("systems: name at least one, for example nano.")
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"systems: {', '.join(twice)} stands twice. Give each a title of its own: TITLE=NAME.")
    return specs


def _spec(text: str, device: str | None) -> SystemSpec:
    title, _, name = text.rpartition("=")
    if name == "input":
        return SystemSpec(title or INPUT, "input", "")
    if name in FILTERS:
        return SystemSpec(title or name, "classical", name)
    source, _, variant = name.rpartition(":")
    if variant not in VARIANTS:
        source, variant = name, ""
    source = UNIMEDVL if source == "unimedvl" else source
    if (Path(source) / "model" / MANIFEST).is_file():  # the folder of a run
        source = str(Path(source) / "model")
    if source not in EMBEDDED and "/" not in source and not Path(source).exists():
        known = ", ".join(("input", *FILTERS, "classical", "unimedvl", *EMBEDDED))
        raise ConfigError(f"systems: {name!r} is none of {known}, no folder of weights, and not OWNER/NAME.")
    default = Path(source).parent.name if Path(source).name == "model" else Path(source).name
    return SystemSpec(
        title or f"{default}{variant and f' ({variant})'}", "model", source, VARIANTS.get(variant, ""), (), device
    )


def tuned(spec: SystemSpec, val: Sequence[Case]) -> SystemSpec:
    """Return a filter with the strengths that are best on validation slices; other systems as they are.

    Raises:
        NotRun: If the library of the filter is not installed, or there are no validation slices.
    """
    if spec.kind != "classical":
        return spec
    if not is_at_hand(spec.source):
        raise NotRun(f"{spec.source} is not installed; its licence forbids commercial use, so it does not come along")
    try:
        return replace(spec, strengths=tune(spec.source, val))
    except ConfigError as error:
        raise NotRun(str(error)) from error


@functools.lru_cache(maxsize=16)
def build(spec: SystemSpec) -> System:
    """Return the system, loaded once per process.

    Raises:
        NotRun: If its weights are not at hand or cannot be read.
    """
    if spec.kind == "input":
        return DegradedInput()
    if spec.kind == "classical":
        return Classical(spec.source, spec.strengths)
    try:
        if is_baseline(Path(spec.source)):
            return _baseline(spec)
        kind = Model if spec.variant else ToldModel
        return kind(spec, _restorer(spec.source, spec.device))
    except (MedQError, OSError, MemoryError) as error:
        raise NotRun(str(error).splitlines()[0]) from error


def _baseline(spec: SystemSpec) -> LearnedBaseline:
    if spec.variant:
        raise NotRun("a baseline has no part that could be switched off")
    return LearnedBaseline.from_folder(Path(spec.source), name=spec.name, device=spec.device)


@functools.lru_cache(maxsize=4)
def _restorer(source: str, device: str | None) -> Restorer:
    return Restorer.from_pretrained(source, device=device, offline=True)


class DegradedInput:
    """Returns the input as it is."""

    name, identity, parameters = INPUT, "", 0

    def restore(self, case: Case) -> Output:
        """Return the degraded slice."""
        return Output(case.degraded)


class Model:
    """A model as it is used, or with a part switched off.

    Args:
        spec: Says which part.
        restorer: Loaded model.
    """

    def __init__(self, spec: SystemSpec, restorer: Restorer) -> None:
        self.name, self.variant, self.restorer = spec.name, spec.variant, restorer

    @property
    def identity(self) -> str:
        """Return the hash of the weights, with the part that is switched off."""
        return self.restorer.pretrained.sha256 + (f" {self.variant}" if self.variant else "")

    @property
    def parameters(self) -> int:
        """Return the number of weights."""
        return sum(p.numel() for p in self.restorer.model.parameters())

    def restore(self, case: Case) -> Output:
        """Return what the model makes of the degraded slice.

        ``codec-only`` reads the reference: it is the bound that the codec sets, and no restoration.
        """
        if self.variant == "expert-bypassed":
            return Output(self.restorer.decode(case.degraded, skip=True))
        if self.variant == "codec-only":
            return Output(self.restorer.decode(case.reference, skip=False))
        is_forced = self.variant in ("forced", "no-skip")
        settings = RestoreSettings(force=True) if is_forced else None
        parts = NO_SKIP if self.variant == "no-skip" else WHOLE
        found = self.restorer.restore(case.degraded, settings=settings, parts=parts)
        return Output(found.restored, found.uncertainty, found.description)


class ToldModel(Model):
    """A whole model, which can also be told what is wrong."""

    def restore_told(self, case: Case, description: QualityDescription) -> Output:
        """Return what the model makes of the degraded slice under a description that somebody else gives."""
        found = self.restorer.restore(case.degraded, description=description, settings=RestoreSettings(force=True))
        return Output(found.restored, found.uncertainty, found.description)
