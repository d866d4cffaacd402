"""How well the scanner methods of CT and PET keep what was asked of them, and how long they take.

python -m experiments.scanner --draws 40
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medq_uni.data.phantoms import draw_phantom
from medq_uni.physics import ct_scanner
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.record import SCANNER_METHOD
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task
from tests.physics.spectrum import BIN, binned, disc, peak_of, power_of, radial

SEED = 7
REPEATS = 6
"""Realisations over which a spectrum is averaged."""


def main() -> None:
    """Print markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the slices in pixels")
    parser.add_argument("--draws", type=int, default=40, help="scanners that are drawn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _print_ct(options.size, options.draws)
    for task in (Task.CT_LOW_DOSE, Task.PET_LOW_COUNT):
        _print_seconds(task, options.size, options.draws)


def _print_ct(size: int, draws: int) -> None:
    print("| image | draws | SD error, median | largest | peak error in cycles per pixel, median | largest | within |")
    print("|---|---|---|---|---|---|---|")
    for name in ("disc", "phantom"):
        deviations, errors, within = [], [], []
        for number in range(draws):
            generator = generator_of(SEED, number)
            image = (
                disc(size, 20.0, -1000.0, Modality.CT)
                if name == "disc"
                else draw_phantom(Modality.CT, generator, size=size).image
            )
            params = ct_scanner.draw_scan(Severity.from_level(1 + number % 3), generator)
            truth = torch.from_numpy(image.voxels[0].copy())
            tissue = ct_scanner.soft_tissue(truth)
            options = {"params": params, "spacing_mm": image.spacing_mm[1:]}
            made = [
                ct_scanner.scan(truth, **options, generator=generator_of(number, i)) - truth for i in range(REPEATS)
            ]
            change = torch.stack(made)
            deviations.append(float(change[:, tissue].std(1).mean()) / params["noise_sd_hu"] - 1)
            params["softened"] = 0.0  # it changes the image, whose spectrum is none of noise
            change = _changes(truth, options)
            frequency, power = radial(power_of(change, tissue), *truth.shape)
            asked = binned(functools.partial(ct_scanner.noise_power, params), *truth.shape)
            found, peak = (peak_of(frequency, one) for one in (power, asked))
            errors.append(found - peak)
            within.append(abs(found - peak) <= max(0.1 * peak, BIN) + 1e-6)
            if not within[-1]:
                print("#", name, number, f"{found:.3f} {peak:.3f}", {k: round(v, 3) for k, v in params.items()})
        sd, peak_error = np.abs(deviations), np.abs(errors)
        numbers = f"{np.median(sd):.4f} | {sd.max():.4f} | {np.median(peak_error):.4f} | {peak_error.max():.4f}"
        print(f"| {name} | {draws} | {numbers} | {100 * np.mean(within):.0f} % |", flush=True)


def _changes(truth: Tensor, options: dict[str, Any]) -> Tensor:
    made = [ct_scanner.scan(truth, **options, generator=generator_of(SEED, i)) - truth for i in range(REPEATS)]
    return torch.stack(made)


def _print_seconds(task: Task, size: int, draws: int) -> None:
    seconds, hits = [], []
    for number in range(draws):
        severity = Severity.from_level(1 + number % 3)
        image = draw_phantom(task.modality, generator_of(SEED, number, 1), size=size).image
        record = draw_record(task, severity, generator_of(SEED, number, 2), method=SCANNER_METHOD)
        apply_records(image, record)  # the first time builds the projector
        start = time.perf_counter(), time.process_time()
        apply_records(image, record)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        made = degrade(image, [(task, severity)], generator_of(SEED, number, 3), method=SCANNER_METHOD)
        hits.append(made.records[0].severity is severity)
    (wall, processor), longest = np.mean(seconds, 0), np.max(seconds, 0)[1]
    times = f"mean {wall:.3f} s, of the processor {processor:.3f} s, at most {longest:.3f} s"
    print(f"{task.value}: {times} for one slice; {100 * np.mean(hits):.0f} % hit the grade", flush=True)


if __name__ == "__main__":
    main()
