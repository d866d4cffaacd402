"""Draw docs/demo.png: one phantom of each task before, after, truth and difference.

Run: python -m experiments.picture      (about 20 s)
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from medq_uni.data.phantoms import draw_phantom
from medq_uni.physics.degrade import degrade
from medq_uni.restorer import Restorer
from medq_uni.scaling import CT_WINDOW_HU
from medq_uni.scoring import scores
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

TARGET = Path(__file__).parents[1] / "docs" / "demo.png"
SHOWN = (Task.CT_LOW_DOSE, Task.MR_NOISE, Task.PET_LOW_COUNT)


def main() -> None:
    """Write the picture."""
    restorer = Restorer.from_pretrained("nano")
    figure, axes = plt.subplots(len(SHOWN), 5, figsize=(11, 6.8), facecolor="white")
    for row, task in zip(axes, SHOWN, strict=True):
        generator = generator_of(7, list(Task).index(task))
        truth = draw_phantom(task.modality, generator, size=256).image
        degraded = degrade(truth, [(task, Severity.MODERATE)], generator).image
        result = restorer.restore(degraded)
        is_ct = task.modality is Modality.CT
        low, high = CT_WINDOW_HU if is_ct else (0.0, float(np.percentile(truth.voxels, 99.5)))
        gray = "gray_r" if task.modality is Modality.PET else "gray"
        for axis, name, image in zip(
            row, ("before", "after", "truth"), (degraded, result.restored, truth), strict=False
        ):
            axis.imshow(image.voxels[0], cmap=gray, vmin=low, vmax=high)
            axis.set_title(f"{name} {scores(image, truth)[0]:.1f} dB" if name != "truth" else name, fontsize=9)
        change = result.residual.voxels[0]
        limit = float(np.percentile(np.abs(change), 99)) or 1.0
        row[3].imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
        row[3].set_title("difference", fontsize=9)
        if result.uncertainty is not None:
            row[4].imshow(result.uncertainty.voxels[0], cmap="magma")
            row[4].set_title("uncertainty", fontsize=9)
        for axis in row:
            axis.axis("off")
        row[0].text(0, 1.16, result.description.to_text(), transform=row[0].transAxes, fontsize=8)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.01, wspace=0.03, hspace=0.3)
    figure.savefig(TARGET, dpi=90)
    print(TARGET)


if __name__ == "__main__":
    main()
