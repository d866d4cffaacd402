"""Print how many image pairs are scored per second, with scikit-image on the same pairs as the yardstick.

Run: python -m experiments.scoring      (a few seconds, one thread)
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from experiments.machine import times_of
from medq_uni.image import MedicalImage
from medq_uni.scoring import data_range_of, score_image, scores
from medq_uni.taxonomy import Modality

SIDE = 256
REPEATS = 9
GOAL = 50
"""Pairs per second."""


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    reference = MedicalImage(np.abs(np.cumsum(rng.normal(size=(1, SIDE, SIDE)), axis=2)), modality=Modality.MR)
    image = reference.with_voxels(reference.voxels + rng.normal(0, 1, reference.shape))
    data_range = data_range_of(reference)
    x, y = (one.voxels[0].astype(np.float64) for one in (image, reference))

    def baseline() -> None:
        peak_signal_noise_ratio(y, x, data_range=data_range)  # type: ignore[no-untyped-call]
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        structural_similarity(y, x, data_range=data_range, **options)  # type: ignore[no-untyped-call]

    print(f"| pairs of {SIDE} x {SIDE}, one thread | pairs per second | ratio to scikit-image | goal |")
    print("|---|---|---|---|")
    cpu = torch.device("cpu")
    yardstick = statistics.median(times_of(baseline, cpu, REPEATS))
    for name, run, goal in (
        ("PSNR and SSIM, scikit-image", baseline, ""),
        ("PSNR and SSIM", lambda: scores(image, reference), ""),
        ("all scores of an image", lambda: score_image(image, reference), f">= {GOAL}"),
    ):
        seconds = statistics.median(times_of(run, cpu, REPEATS))
        print(f"| {name} | {1 / seconds:.0f} | {yardstick / seconds:.2f} | {goal} |")


if __name__ == "__main__":
    main()
