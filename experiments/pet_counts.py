"""Fit how strong the noise of the scanner method of PET is: the numbers of ``pet_scanner.EFFECT``.

python -m experiments.pet_counts --draws 400
"""

from __future__ import annotations

import argparse
import math

import torch

from medq_uni.data.phantoms import draw_phantom
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.physics.effect import effect
from medq_uni.physics.pet_scanner import EFFECT, effect_features
from medq_uni.physics.record import SCANNER_METHOD, DegradationRecord
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

SEED = 11
SIZES = (96, 128, 192)
LEAST, MOST = 0.02, 0.9
"""Effects that are of use; beyond, activities that are cut off at 0 bend the law."""


def main() -> None:
    """Print one row of coefficients for each kind of reconstruction, and the spread that they leave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="scanners that are drawn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[int, list[tuple[list[float], float]]] = {0: [], 1: []}
    for number in range(options.draws):
        for kind in rows if number % 2 == 0 else (0,):
            found = _measured(number, kind)
            if LEAST <= found[1] <= MOST:
                rows[kind].append((found[0], math.log(found[1])))
    for kind, measured in rows.items():
        features = torch.tensor([one[0] for one in measured], dtype=torch.float64)
        wanted = torch.tensor([one[1] for one in measured], dtype=torch.float64)
        solution = torch.linalg.lstsq(features, wanted[:, None], driver="gelsd").solution[:, 0]
        residual, before = (features @ one - wanted for one in (solution, torch.tensor(EFFECT[kind]).double()))
        print(kind, len(measured), tuple(round(value, 3) for value in solution.tolist()))
        print(f"  standard deviation of the logarithm {residual.std():.3f}, with today's numbers {before.std():.3f}")


def _measured(number: int, kind: int) -> tuple[list[float], float]:
    generator = generator_of(SEED, number)
    size = SIZES[number % len(SIZES)]
    image = draw_phantom(Modality.PET, generator, size=size).image
    record = draw_record(Task.PET_LOW_COUNT, Severity.MODERATE, generator, method=SCANNER_METHOD)
    counts = 10 ** float(torch.rand(1, generator=generator) * 3 - 0.5) * (30 if kind else 1)
    params = record.params | {"fbp": kind, "counts_per_mm2": counts}
    made = apply_records(image, DegradationRecord(record.task, record.severity, params, 1, SCANNER_METHOD))
    return effect_features(params), effect(made, image, record.task, method=SCANNER_METHOD)


if __name__ == "__main__":
    main()
