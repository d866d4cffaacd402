"""The main job on real DICOM files that come inside pydicom, and on phantoms whose truth is known. Offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medq_uni.data.phantoms import draw_phantom
from medq_uni.image import MedicalImage
from medq_uni.io.read_write import read_image
from medq_uni.physics.degrade import degrade
from medq_uni.report import ReportItem, write_report
from medq_uni.restorer import Restorer
from medq_uni.result import Restoration
from medq_uni.scoring import scores
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity, Task, Verdict

REAL_FILES = (
    ("CT_small.dcm", Task.CT_LOW_DOSE),
    ("MR_small.dcm", Task.MR_NOISE),
    ("eCT_Supplemental.dcm", Task.CT_LOW_DOSE),
    ("emri_small.dcm", Task.MR_UNDERSAMPLING),
)
"""Files of pydicom's package, and the degradation in which a good one is shown once more."""
PHANTOM_TASKS = tuple(Task)
SEED = 7
Say = Callable[[str], object]


def run_demo(folder: Path, *, model: str = "nano", say: Say = print) -> Path:
    """Assess and restore every image of the demo, write the results, and return the path of the report.

    Args:
        folder: Restored files and ``report.html`` go here; earlier results are replaced.
        model: Name of an embedded model, or a folder of weights.
        say: Called with every line for people.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    restorer = Restorer.from_pretrained(model)
    items: list[ReportItem] = []
    for name, task in REAL_FILES:
        items += _real(restorer, name, task, folder, say)
    for task in PHANTOM_TASKS:
        items.append(_phantom(restorer, task, say))
    report = folder / "report.html"
    write_report(items, report, title="MedQ-UNI demo")
    return report


def _real(restorer: Restorer, name: str, task: Task, folder: Path, say: Say) -> list[ReportItem]:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        say(f"\n{name}: not in this release of pydicom, left out")
        return []
    image = read_image(str(path))
    is_single = image.shape[0] == 1
    image = image if is_single else image.slice_at(image.shape[0] // 2)
    result = restorer.restore(image)
    _tell(say, f"{name} (real {task.modality.value.upper()})", result)
    items = [ReportItem.of(f"{name}, as it comes", result, note="real, no truth known")]
    if is_single:
        result.save(folder / f"{Path(name).stem}.restored.dcm", overwrite=True)
    if result.description.verdict is Verdict.GOOD:
        degraded = degrade(image, [(task, Severity.MODERATE)], generator_of(SEED))
        result = restorer.restore(degraded.image)
        words = f"after our own {degraded.records[0].severity.value} {task.value}"
        _tell(say, f"{name}, {words}", result, image)
        items.append(ReportItem.of(f"{name}, {words}", result, reference=image))
    return items


def _phantom(restorer: Restorer, task: Task, say: Say) -> ReportItem:
    generator = generator_of(SEED, list(Task).index(task))
    truth = draw_phantom(task.modality, generator, size=256).image
    degraded = degrade(truth, [(task, Severity.MODERATE)], generator)
    result = restorer.restore(degraded.image)
    title = f"Phantom, {degraded.records[0].severity.value} {task.value}"
    _tell(say, title, result, truth)
    return ReportItem.of(title, result, reference=truth)


def _tell(say: Say, title: str, result: Restoration, truth: MedicalImage | None = None) -> None:
    say(f"\n{title}")
    say(f"  {result.description.to_text()}")
    if result.is_unchanged:
        say(f"  {result.why_unchanged}: returned bit-identical")
    if truth is not None:
        before, after = scores(result.image, truth), scores(result.restored, truth)
        say(f"  PSNR {before[0]:.2f} -> {after[0]:.2f} dB   SSIM {before[1]:.3f} -> {after[1]:.3f}")
    say(f"  {result.seconds:.1f} s")
