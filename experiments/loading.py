"""Print what loading a released checkpoint costs: peak host memory beyond the model, and seconds.

A synthetic checkpoint with the released shapes and fewer layers is written first, then loaded in a process of its own
for every mode. The bound is the largest weight plus 2 GB.

Run: python -m experiments.loading [--layers 2] [--folder DIR]     (2 CPU cores, 16 GiB: about 3 minutes)
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from experiments.machine import measured_alone
from medq_uni.config import Execution
from medq_uni.pretrained.released import ReleasedFolder, load_released

GB = 1e9
MODES = (
    ("bfloat16", "bfloat16"),
    ("bfloat16", "int8"),
    ("float32", "bfloat16"),
    ("float32", "float32"),
)


def main() -> None:
    """Write the checkpoints, load them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written; by default a temporary folder")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(Path(options.measure[0]), options.measure[1])))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("| stored | loaded as | model (GB) | peak beyond it (GB) | bound (GB) | seconds | GB/s read |")
        print("|---|---|---|---|---|---|---|")
        for stored, precision in MODES:
            path = Path(folder) / stored
            if not path.is_dir():
                code = _WRITE.format(path=str(path), layers=options.layers, dtype=stored)
                subprocess.run([sys.executable, "-c", code], check=True)
            found = measured_alone("benchmarks.loading", str(path), precision)
            numbers = " | ".join(f"{found[key]:.2f}" for key in ("model", "beyond", "bound", "seconds", "rate"))
            print(f"| {stored} | {precision} | {numbers} |", flush=True)
            if found["beyond"] > found["bound"]:
                sys.exit("peak host memory is above its bound")


_WRITE = """
import torch
from pathlib import Path
from experiments.synthetic import write_checkpoint
write_checkpoint(Path({path!r}), {layers}, torch.{dtype})
"""


def _measure(folder: Path, precision: str) -> dict[str, float]:
    """Load once and return sizes in GB and seconds."""
    execution = Execution(precision=precision)  # type: ignore[arg-type]
    released = ReleasedFolder(folder)
    config, stored = released.config(), released.stored
    if precision == "int8":
        logging.disable()
        import torchao.quantization  # noqa: F401 (its own memory is not the model's)
    before = _status("VmRSS")
    began = time.perf_counter()
    model = load_released(released, config, execution=execution)
    for weight in model.state_dict().values():  # pages of a memory map count once they are touched
        weight.sum() if type(weight) is torch.Tensor else None
    seconds = time.perf_counter() - began
    size = sum(_bytes(weight) for weight in model.state_dict().values())
    largest = max(one.file.stat().st_size and _stored_bytes(one.shape, one.dtype) for one in stored.values())
    read = sum(path.stat().st_size for path in released.weight_files)
    return {
        "model": size / GB,
        "beyond": (_status("VmHWM") - before - size) / GB,
        "bound": (largest + 2 * GB) / GB,
        "seconds": seconds,
        "rate": read / GB / seconds,
    }


def _status(name: str) -> int:
    """Return a line of this process's status in bytes: VmRSS now, VmHWM at its highest."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def _stored_bytes(shape: tuple[int, ...], dtype: str) -> int:
    count = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}[dtype]
    for side in shape:
        count *= side
    return count


def _bytes(weight: torch.Tensor) -> int:
    if type(weight) in (torch.Tensor, torch.nn.Parameter):
        return weight.numel() * weight.element_size()
    return sum(_bytes(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])


if __name__ == "__main__":
    main()
