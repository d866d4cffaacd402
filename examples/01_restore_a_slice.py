"""Degrade a phantom slice, let the model say what is wrong, restore it, and write a report.

Run: python examples/01_restore_a_slice.py [FOLDER]     (2 CPU cores, about 5 s)
"""

import sys
from pathlib import Path

import torch

from medq_uni import Restorer
from medq_uni.data.phantoms import phantom
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.report import ReportItem, scores, write_report
from medq_uni.taxonomy import Modality, Severity, Task


def main(folder: Path) -> None:
    """Run the example and write ``report.html`` into ``folder``."""
    generator = torch.Generator().manual_seed(1)
    truth = phantom(Modality.MR, generator, size=192)
    record = draw_record(Task.MR_NOISE, Severity.MODERATE, generator)
    degraded = apply_records(truth, record)

    restorer = Restorer.from_pretrained("nano")
    result = restorer.restore(degraded)

    print(result.description.to_text())
    for name, image in (("degraded", degraded), ("restored", result.restored)):
        decibels, similarity = scores(image, truth)
        print(f"{name}: PSNR {decibels:.2f} dB, SSIM {similarity:.3f}")
    write_report([ReportItem.of("MR phantom", result, reference=truth)], folder / "report.html")
    print(folder / "report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
