"""What a model does to images whose truth is known: the one pass that every calibration is derived from."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from medq_uni.config import ConfigError
from medq_uni.config_json import from_json
from medq_uni.measurement import Quantity
from medq_uni.physics.effect import foreground
from medq_uni.physics.measured_quantities import quantities_of
from medq_uni.pretrained.calibration import VERSION, Calibration, OperatingPoint
from medq_uni.pretrained.load import Pretrained
from medq_uni.quantities import encoded
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.result import Restoration
from medq_uni.scaling import scaling_of
from medq_uni.scoring import psnr_gain
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Modality, Severity, Task

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of a correction that are tried."""
LEVELS = tuple(round(0.025 * k, 3) for k in range(1, 40))
"""At which the ratio of error and predicted standard deviation is kept."""
MOST_PIXELS = 20_000
ROWS = "evidence.jsonl"
Told = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Said:
    """One degradation that the assessment names."""

    task: Task
    severity: Severity


@dataclass(frozen=True, kw_only=True)
class Read:
    """A quantity that is known, and what was read of it, on the scale on which networks are told it."""

    true: float
    found: float
    deviation: float
    """Standard deviation of the error that the model expects."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model did to one image."""

    index: int
    """Its place among the images."""
    subject: str
    modality: Modality
    severity: Severity
    """Measured grade; none is a good image."""
    log_odds: float
    """Of a degradation, as the network has them."""
    said: tuple[Said, ...]
    """What it would say is wrong, were anything wrong."""
    gains: tuple[float, ...]
    """Gain in PSNR over the input in dB by :data:`SHARES`; empty of a good image, which has nothing to gain."""
    readings: dict[Quantity, Read]
    """What it read of every quantity that is known; empty where it reads none."""
    ratios: tuple[float, ...]
    """Quantiles at :data:`LEVELS` of |error| / predicted standard deviation in the body, as it is scaled without a
    calibration; empty where nothing is predicted, and of good images."""


def measure(
    pretrained: Pretrained, cases: Sequence[Case], folder: Path, *, progress: Told | None = None
) -> list[Evidence]:
    """Return what a model does to every case, from a file where it was measured before.

    Args:
        pretrained: Its own calibration is left aside.
        cases: Single slices with their truth.
        folder: Where the rows are kept; the same model and cases go on there.
        progress: Called with the number of cases done and their total.

    Raises:
        ConfigError: If the folder holds rows of another model or other cases.
    """
    rows = _kept(folder / ROWS, identity_of(pretrained, cases))
    restorer = Restorer(replace(pretrained, calibration=_open_minded()))
    with (folder / ROWS).open("a", encoding="utf-8") as file:
        for index, case in enumerate(cases):
            if index not in rows:
                rows[index] = _evidence(restorer, index, case)
                file.write(json.dumps(asdict(rows[index])) + "\n")
                file.flush()
            if progress is not None:
                progress(index + 1, len(cases))
    return [rows[index] for index in range(len(cases))]


def identity_of(pretrained: Pretrained, cases: Sequence[Case]) -> str:
    """Return a hash of network and images."""
    digest = hashlib.sha256(pretrained.sha256.encode())
    for case in cases:
        digest.update(f"{case.task}/{case.severity}/{case.subject}".encode())
        digest.update(case.degraded.voxels.tobytes())
        digest.update(case.reference.voxels.tobytes())
    return digest.hexdigest()


def _kept(path: Path, identity: str) -> dict[int, Evidence]:
    """Return the rows of a file that belong to this model and these cases; a last line that was cut off is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    if not whole:
        path.write_text(json.dumps({"identity": identity}) + "\n", encoding="utf-8")
        return {}
    if json.loads(whole[0]) != {"identity": identity}:
        raise ConfigError(f"{path.name} is of another model, or of other images. Give another folder, or remove it.")
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    rows = [from_json(Evidence, line) for line in whole[1:]]
    return {row.index: row for row in rows}


def _open_minded() -> Calibration:
    """Return a calibration under which a degradation is always named, and nothing else changes."""
    always = OperatingPoint(temperature=1.0, offset=0.0, cut=-math.inf, flagged=1.0, noticed=1.0, error=0.0)
    points = dict.fromkeys(Modality, always)
    return Calibration(version=VERSION, source_sha256="", subjects={}, images={}, operating_points=points)


def _evidence(restorer: Restorer, index: int, case: Case) -> Evidence:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an image that a user would be warned of counts like any other
        settings = RestoreSettings(force=True, strength=1.0, allow_ood=True)
        found = restorer.restore(case.degraded, settings=settings)
    assert found.provenance.log_odds is not None, "every assessment has them"
    is_good = case.severity is Severity.NONE
    return Evidence(
        index=index,
        subject=case.subject,
        modality=case.task.modality,
        severity=case.severity,
        log_odds=found.provenance.log_odds,
        said=tuple(Said(task=one.task, severity=one.severity) for one in found.description.degradations),
        gains=() if is_good else tuple(_gain(case, found, share) for share in SHARES),
        readings=_readings(restorer, case),
        ratios=() if is_good else _ratios(case, found),
    )


def _readings(restorer: Restorer, case: Case) -> dict[Quantity, Read]:
    reading = restorer.assessor.read(case.degraded)
    if reading is None:
        return {}
    noise = (case.degraded.voxels[0] - case.reference.voxels[0]) / scaling_of(case.degraded).wide_span
    inside = torch.from_numpy(foreground(case.reference)[0])
    true = quantities_of(case.task.modality, case.records, torch.from_numpy(noise), inside)
    found, deviation = (dict(zip(Quantity, x[0].tolist(), strict=True)) for x in (reading.value, reading.deviation))
    return {
        one: Read(true=encoded(one, value), found=found[one], deviation=deviation[one])
        for one, value in true.values.items()
    }


def _gain(case: Case, found: Restoration, share: float) -> float:
    change = found.restored.voxels - case.degraded.voxels
    part = case.degraded.with_voxels(case.degraded.voxels + np.float32(share) * change)
    return psnr_gain(case.degraded, part, case.reference, case.data_range)


def _ratios(case: Case, found: Restoration) -> tuple[float, ...]:
    if found.uncertainty is None:
        return ()
    counts = foreground(case.reference) & (found.uncertainty.voxels > 0)  # what passes through is not restored
    if not counts.any():
        return ()
    error = np.abs(found.restored.voxels[counts].astype(np.float64) - case.reference.voxels[counts])
    ratio = error / found.uncertainty.voxels[counts]
    return tuple(float(one) for one in np.quantile(ratio[:: max(1, len(ratio) // MOST_PIXELS)], LEVELS))
