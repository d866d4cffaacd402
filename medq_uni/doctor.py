"""What is installed, which weights and device are used, and what one slice costs on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import resource
import time
from typing import Any

import torch

from medq_uni import __version__
from medq_uni.data.phantoms import phantom
from medq_uni.physics.degrade import degrade
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

PACKAGES = ("torch", "numpy", "pydicom", "nibabel", "safetensors", "tokenizers", "scikit-image", "tifffile")
CODECS = {"JPEG 2000": "openjpeg", "JPEG-LS": "jpeg_ls", "JPEG lossless": "gdcm"}
MIB = 1024 * 1024


def examine(model: str = "nano") -> dict[str, Any]:
    """Return findings by name; the cost is measured by restoring a phantom slice of 256 x 256 pixels.

    Args:
        model: Name of an embedded model, or a folder of weights; its files are checked against their hashes.

    Raises:
        WeightsMismatch: If the weights are damaged.
    """
    findings: dict[str, Any] = {
        "medq-uni": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    findings |= {name: importlib.metadata.version(name) for name in PACKAGES}
    for name, module in CODECS.items():
        findings[f"codec {name}"] = "present" if importlib.util.find_spec(module) else "missing"
    restorer = Restorer.from_pretrained(model)
    parameters = sum(p.numel() for p in restorer.model.parameters())
    findings |= {
        "device": str(restorer.device),
        "threads": torch.get_num_threads(),
        "model": restorer.pretrained.config.name,
        "parameters": parameters,
        "weights sha256": restorer.pretrained.sha256[:16] + " (verified)",
    }
    return findings | _cost(restorer)


def _cost(restorer: Restorer) -> dict[str, Any]:
    generator = generator_of(0)
    image = phantom(Modality.MR, generator, size=256)
    image = degrade(image, [(Task.MR_NOISE, Severity.MODERATE)], generator).image
    restorer.restore(image, settings=RestoreSettings(force=True))  # the first run allocates
    began = time.perf_counter()
    description = restorer.assess(image)
    assessed = time.perf_counter()
    restorer.restore(image, description=description, settings=RestoreSettings(force=True))
    return {
        "assess 256x256 (s)": round(assessed - began, 3),
        "restore 256x256 (s)": round(time.perf_counter() - assessed, 3),
        "peak memory (MiB)": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB),
    }
