"""How well the scanner methods of CT and PET keep what was asked of them, and how long they take.

python -m experiments.scanner --draws 40
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from medq_uni.data.phantoms import draw_phantom
from medq_uni.image import MedicalImage
from medq_uni.physics import ct_scanner
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.record import SCANNER_METHOD
from medq_uni.physics.spectra import frequencies
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

SEED = 7
BIN = 0.02
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
    for task in (Task.CT_LOW_DOSE,):
        _print_seconds(task, options.size, options.draws)


def disc(size: int, pixel_mm: float = 1.0) -> MedicalImage:
    """Return a uniform disc of water in air."""
    place = torch.arange(size) - (size - 1) / 2
    inside = torch.hypot(place[:, None], place[None]) < 0.42 * size
    return MedicalImage(torch.where(inside, 20.0, -1000.0).numpy(), (3.0, pixel_mm, pixel_mm), modality=Modality.CT)


def radial_power(change: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centers of the bins (F,) and the mean power (F,) of changes (B, H, W) where a mask holds."""
    masked = (change - change[:, inside].mean()) * inside
    power = torch.fft.rfft2(masked).abs().square().mean(0)
    number = (frequencies(*change.shape[1:]) / BIN).round().long()
    radial = torch.bincount(number.flatten(), weights=power.flatten()) / torch.bincount(number.flatten()).clamp(min=1)
    return torch.arange(len(radial)) * BIN, radial


def _print_ct(size: int, draws: int) -> None:
    print("| image | draws | SD error, median | largest | peak error in cycles per pixel, median | largest | within |")
    print("|---|---|---|---|---|---|---|")
    for name in ("disc", "phantom"):
        deviations, errors, within = [], [], []
        for number in range(draws):
            generator = generator_of(SEED, number)
            image = disc(size) if name == "disc" else draw_phantom(Modality.CT, generator, size=size).image
            params = ct_scanner.draw_scan(Severity.from_level(1 + number % 3), generator)
            truth = torch.from_numpy(image.voxels[0].copy())
            tissue = ct_scanner.soft_tissue(truth)
            options = {"params": params, "spacing_mm": image.spacing_mm[1:]}
            made = [ct_scanner.scan(truth, **options, generator=generator_of(number, i)) - truth for i in range(REPEATS)]
            change = torch.stack(made)
            deviations.append(float(change[:, tissue].std(1).mean()) / params["noise_sd_hu"] - 1)
            frequency, power = radial_power(change, tissue)
            asked = ct_scanner.noise_power(params, frequency.clamp(min=0.002))
            keep = frequency <= 0.5
            found, peak = (float(frequency[keep][one[keep].argmax()]) for one in (power, asked))
            errors.append(found - peak)
            within.append(abs(found - peak) <= max(0.1 * peak, BIN) + 1e-6)
            if not within[-1]:
                print("#", name, number, f"{found:.3f} {peak:.3f}", {k: round(v, 3) for k, v in params.items()})
        sd, peak_error = np.abs(deviations), np.abs(errors)
        numbers = f"{np.median(sd):.4f} | {sd.max():.4f} | {np.median(peak_error):.4f} | {peak_error.max():.4f}"
        print(f"| {name} | {draws} | {numbers} | {100 * np.mean(within):.0f} % |", flush=True)


def _print_seconds(task: Task, size: int, draws: int) -> None:
    seconds, hits = [], []
    for number in range(draws):
        severity = Severity.from_level(1 + number % 3)
        image = draw_phantom(task.modality, generator_of(SEED, number, 1), size=size).image
        record = draw_record(task, severity, generator_of(SEED, number, 2), method=SCANNER_METHOD)
        start = time.perf_counter()
        apply_records(image, record)
        seconds.append(time.perf_counter() - start)
        made = degrade(image, [(task, severity)], generator_of(SEED, number, 3), method=SCANNER_METHOD)
        hits.append(made.records[0].severity is severity)
    times = f"mean {np.mean(seconds):.3f} s, median {np.median(seconds):.3f} s, largest {max(seconds):.3f} s"
    print(f"{task.value}: {times} for one slice; {100 * np.mean(hits):.0f} % hit the grade", flush=True)


if __name__ == "__main__":
    main()
