"""Print what it costs to read files in a worker under limits, against reading them in the process itself.

Both ways take turns in one run. The first read of a process also starts the worker, which is told apart.

Run: python -m experiments.reading      (about 2 minutes, 200 MB of temporary files)
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medq_uni.image import MedicalImage
from medq_uni.io.discover import find_images
from medq_uni.io.guard import SWITCH
from medq_uni.io.read_write import read_image, write_image

NUM_SLICES, SIDE = 300, 512
NUM_SMALL, SMALL_SIDE = 200, 128
REPEATS = 5


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        series, small = Path(folder) / "series", Path(folder) / "small"
        write_series(series)
        write_small(small)
        began = time.perf_counter()
        read_image(next(small.iterdir()))
        start = time.perf_counter() - began
        print("| what | in the process (s) | in a worker (s) | ratio | ratio of processor time |")
        print("|---|---|---|---|---|")
        for name, read in (
            (f"CT series, {NUM_SLICES} slices of {SIDE} x {SIDE}", lambda: read_image(series)),
            (f"folder, {NUM_SMALL} files of {SMALL_SIDE} x {SMALL_SIDE}", lambda: read_all(small)),
        ):
            print(f"| {name} | {row(read)} |", flush=True)
        print(f"\nFirst read of a process, with the start of the worker: {start:.2f} s")


def row(read: Callable[[], object]) -> str:
    """Return the columns of one line: medians over turns."""
    taken: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    for switch in ("off", "on") * REPEATS:
        os.environ[SWITCH] = switch
        began, used = time.perf_counter(), processor_time()
        read()
        taken[switch].append((time.perf_counter() - began, processor_time() - used))
    plain, guarded = ([statistics.median(column) for column in zip(*one[1:], strict=True)] for one in taken.values())
    shares = f"{guarded[0] / plain[0]:.2f} | {guarded[1] / plain[1]:.2f}"
    return f"{plain[0]:.2f} | {guarded[0]:.2f} | {shares}"


def processor_time() -> float:
    """Return the processor seconds of this process and its live workers."""
    from medq_uni.io import guard

    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for worker in guard._pool._idle:
        fields = Path(f"/proc/{worker._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def read_all(folder: Path) -> None:
    """Read every image of a folder."""
    for item in find_images(folder):
        read_image(item)


def write_series(folder: Path) -> None:
    """Write a CT series with a header of some hundred elements."""
    stored = np.random.default_rng(0).normal(1000, 200, (NUM_SLICES, SIDE, SIDE)).clip(0, 4000).astype(np.uint16)
    folder.mkdir()
    for number, pixels in enumerate(stored):
        write_slice(folder / f"{number:03d}.dcm", pixels, number)


def write_slice(path: Path, pixels: np.ndarray, number: int) -> None:
    """Write one CT slice."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = (
        f"1.2.3.{path.stem.lstrip('0') or 0}.{number + 1}"
    )
    header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3.4", f"1.2.3.5.{len(path.parent.name)}.{pixels.shape[0]}"
    header.Modality, header.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.PatientID, header.InstanceNumber = "phantom", number + 1
    header.ImageOrientationPatient, header.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, number]
    header.PixelSpacing, header.SliceThickness = [0.7, 0.7], 1
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    block = header.private_block(0x0011, "PHANTOM", create=True)
    for element in range(60):
        block.add_new(element, "LO", f"private element {element}")
    header.PixelData = pixels.tobytes()
    header.save_as(path, enforce_file_format=True)


def write_small(folder: Path) -> None:
    """Write single slices of every format that is read."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(NUM_SMALL):
        values = random.integers(0, 4000, (SMALL_SIDE, SMALL_SIDE), dtype=np.uint16)
        suffix = (".dcm", ".nii.gz", ".png", ".tif")[number % 4]
        path = folder / f"{number:03d}{suffix}"
        if suffix == ".dcm":
            (folder / str(number)).mkdir()
            write_slice(folder / str(number) / path.name, values, number)
        else:
            write_image(MedicalImage(values.astype(np.float32)), path)


if __name__ == "__main__":
    main()
