"""Print how every acceleration agrees with the plain path, in dB, and what it saves; exit with 1 where one does not.

Every mode restores the same degraded phantoms under the same words. Agreement is the PSNR between its result and that
of the plain path (float32, one tile at a time), over the network's range. The plain path's own PSNR against the truth
stands beside it: an agreement far above that changes nothing that a reader could see.

Run: python -m experiments.acceleration [--model nano] [--device cpu]      (2 CPU cores: about 3 minutes)
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch

from medq_uni.config import Execution, Precision, SamplerConfig
from medq_uni.data.phantoms import draw_phantom
from medq_uni.description import QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.metrics import psnr
from medq_uni.model.device_placement import weight_bytes
from medq_uni.physics.degrade import degrade
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.scaling import scaling_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

SIDE = 256
SLICES = 2
"""Of every modality."""
PLAIN = Execution(precision="float32")
NOISE = SamplerConfig(start="noise", num_steps=2, num_samples=4)


@dataclass(frozen=True)
class Mode:
    """One way of running the same job."""

    name: str
    execution: Execution
    settings: RestoreSettings
    least_db: float
    """Agreement below this is an error."""


def _settings(batch_size: int, sampler: SamplerConfig | None = None) -> RestoreSettings:
    return RestoreSettings(force=True, batch_size=batch_size, sampler=sampler)


def _modes() -> list[Mode]:
    bits: list[tuple[Precision, float]] = [("bfloat16", 45.0), ("int8", 45.0), ("nf4", 40.0)]
    return [
        *(Mode(precision, Execution(precision=precision), _settings(1), least) for precision, least in bits),
        Mode("offload", replace(PLAIN, offload=True), _settings(1), 90.0),
        Mode("compile", replace(PLAIN, compile=True), _settings(1), 90.0),
        Mode("slices at once", PLAIN, _settings(4), 90.0),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    volumes = [_volume(modality) for modality in Modality]
    plain = Restorer.from_pretrained(options.model, device=options.device, execution=PLAIN)
    words = [plain.assess(degraded) for degraded, _ in volumes]
    base, seconds = _run(plain, volumes, words, _settings(1))
    own = [_psnr(result, truth, truth) for result, (_, truth) in zip(base, volumes, strict=True)]
    print("| mode | " + " | ".join(f"{m.value} dB" for m in Modality) + " | least | weights MiB | seconds, ratio |")
    print("|---|---|---|---|---|---|---|")
    columns = " | ".join(f"{value:.1f}" for value in own)
    print(f"| plain, against the truth | {columns} | | {_mebibytes(plain):.0f} | 1.00 |")
    failed = []
    for mode in _modes():
        restorer = Restorer.from_pretrained(options.model, device=options.device, execution=mode.execution)
        failed += _row(mode, restorer, volumes, words, base, seconds)
    one, first = _run(plain, volumes, words, _settings(1, NOISE))
    failed += _row(Mode("4 samples at once", PLAIN, _settings(4, NOISE), 90.0), plain, volumes, words, one, first)
    if failed:
        sys.exit(f"no agreement: {', '.join(failed)}")


def _row(
    mode: Mode,
    restorer: Restorer,
    volumes: list[tuple[MedicalImage, MedicalImage]],
    words: list[QualityDescription],
    base: list[MedicalImage],
    seconds: float,
) -> list[str]:
    found, taken = _run(restorer, volumes, words, mode.settings)
    agreed = [_psnr(result, one, degraded) for result, one, (degraded, _) in zip(found, base, volumes, strict=True)]
    columns = " | ".join(f"{min(value, 200):.1f}" for value in agreed)
    print(
        f"| {mode.name} | {columns} | {mode.least_db:g} | {_mebibytes(restorer):.0f} | {taken / seconds:.2f} |",
        flush=True,
    )
    return [mode.name] if min(agreed) < mode.least_db else []


def _volume(modality: Modality) -> tuple[MedicalImage, MedicalImage]:
    task = next(task for task in Task if task.modality is modality)
    slices = [draw_phantom(modality, generator_of(41, z), size=SIDE).image for z in range(SLICES)]
    truth = replace(slices[0], voxels=np.concatenate([image.voxels for image in slices]))
    return degrade(truth, [(task, Severity.MODERATE)], generator_of(42)).image, truth


def _run(
    restorer: Restorer,
    volumes: list[tuple[MedicalImage, MedicalImage]],
    words: list[QualityDescription],
    settings: RestoreSettings,
) -> tuple[list[MedicalImage], float]:
    """Return the restored volumes and the seconds of the second, warm run."""
    results: list[MedicalImage] = []
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        results = [
            restorer.restore(degraded, description=description, settings=settings).restored
            for (degraded, _), description in zip(volumes, words, strict=True)
        ]
        seconds = time.perf_counter() - began
    return results, seconds


def _psnr(image: MedicalImage, reference: MedicalImage, like: MedicalImage) -> float:
    scaling = scaling_of(like)
    pair = [torch.from_numpy(x.voxels.astype(np.float64))[:, None] for x in (image, reference)]
    return float(psnr(*pair, data_range=scaling.high - scaling.low).mean())


def _mebibytes(restorer: Restorer) -> float:
    execution = restorer.pretrained.execution
    state = restorer.model.state_dict()
    return sum(weight_bytes(name, tuple(weight.shape), execution) for name, weight in state.items()) / 2**20


if __name__ == "__main__":
    main()
