"""A self-contained HTML page: before, after, difference, uncertainty and description, side by side."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medq_uni import __version__
from medq_uni.description import degradation_words
from medq_uni.image import MedicalImage
from medq_uni.io.atomic import write_text
from medq_uni.metrics import psnr, ssim
from medq_uni.preprocess import CT_WINDOW_HU
from medq_uni.restoration import RESEARCH_USE, Restoration
from medq_uni.taxonomy import Modality

TEMPLATE = Path(__file__).with_name("report.html.j2")
MAX_SIDE = 512
"""Pictures larger than this are reduced."""


@dataclass(frozen=True, eq=False)
class ReportItem:
    """One image of a report."""

    title: str
    restoration: Restoration
    reference: MedicalImage | None = None
    """The true image, where it is known; adds its picture and PSNR and SSIM."""
    note: str = ""


def render(items: Sequence[ReportItem], *, title: str = "MedQ-UNI report") -> str:
    """Return the page; it needs no other file and no network.

    Args:
        items: What to show, in this order. Of a volume the middle slice is shown.
        title: Of the page.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        notice=RESEARCH_USE,
        software=f"medq-uni {__version__}",
        items=[_item(item) for item in items],
    )


def write_report(items: Sequence[ReportItem], path: str | Path, *, title: str = "MedQ-UNI report") -> None:
    """Write the page of :func:`render`, whole or not at all; an older report is replaced."""
    write_text(Path(path), render(items, title=title))


def scores(image: MedicalImage, reference: MedicalImage) -> tuple[float, float]:
    """Return PSNR in dB and SSIM of an image against its reference, over all slices.

    CT is clipped to [-160, 240] HU with a data range of 400; MR and PET use the range from 0 to the 99.9th
    percentile of the reference, unclipped.
    """
    pair = [torch.from_numpy(x.voxels.astype(np.float64))[:, None] for x in (image, reference)]
    if reference.modality is Modality.CT:
        pair = [x.clamp(*CT_WINDOW_HU) for x in pair]
        data_range = CT_WINDOW_HU[1] - CT_WINDOW_HU[0]
    else:
        data_range = float(np.percentile(reference.voxels, 99.9))
    return float(psnr(*pair, data_range=data_range).mean()), float(ssim(*pair, data_range=data_range).mean())


def _item(item: ReportItem) -> dict[str, Any]:
    result = item.restoration
    words = result.description
    rows = []
    if item.reference is not None:
        for name, image in (("before", result.image), ("after", result.restored)):
            decibels, similarity = scores(image, item.reference)
            rows.append((name, f"{decibels:.2f}", f"{similarity:.4f}"))
    return {
        "title": item.title,
        "note": item.note,
        "verdict": words.verdict.value,
        "unchanged": result.is_unchanged,
        "panels": _panels(item),
        "scores": rows,
        "aspects": (
            ("Image", f"{words.modality.value.upper()} of the {words.anatomy.value}"),
            ("Degradation", degradation_words(words.degradations)),
            ("Cause", words.cause),
            ("Impact", words.impact),
            ("Verdict", words.verdict.value),
        ),
        "seconds": f"{result.seconds:.1f}",
        "settings": json.dumps(result.settings, indent=2),
    }


def _panels(item: ReportItem) -> list[dict[str, str]]:
    result = item.restoration
    middle = result.image.shape[0] // 2
    low, high = _window(result.image if item.reference is None else item.reference)
    units = result.image.units.value
    gray = f"{low:.4g} to {high:.4g} {units}"
    is_pet = result.image.modality is Modality.PET
    panels = []
    pictures = [("Before", result.image), ("After", result.restored)]
    if item.reference is not None:
        pictures.append(("Truth", item.reference))
    for name, image in pictures:
        level = np.clip((image.voxels[middle] - low) / (high - low), 0, 1)
        panels.append(_panel(name, gray, np.repeat((1 - level if is_pet else level)[..., None], 3, axis=-1)))
    if result.is_unchanged:
        return panels
    residual = result.residual.voxels[middle]
    size = float(np.percentile(np.abs(residual), 99.5)) or 1.0
    change = _colors(residual / size / 2 + 0.5, "RdBu_r")
    panels.append(_panel("Difference", f"-{size:.3g} to {size:.3g} {units}", change))
    if result.uncertainty is not None:
        sigma = result.uncertainty.voxels[middle]
        top = float(np.percentile(sigma, 99.5)) or 1.0
        panels.append(_panel("Uncertainty", f"0 to {top:.3g} {units}", _colors(sigma / top, "magma")))
    return panels


def _window(image: MedicalImage) -> tuple[float, float]:
    if image.modality is Modality.CT:
        inside = image.voxels[image.voxels > -900]
        is_soft = inside.size > 0 and np.percentile(inside, 20) > -300
        return CT_WINDOW_HU if is_soft else (-1000.0, 400.0)
    high = float(np.percentile(image.voxels, 99.7)) or float(image.voxels.max()) or 1.0
    return 0.0, high


def _colors(level: np.ndarray, name: str) -> np.ndarray:
    import matplotlib

    return np.asarray(matplotlib.colormaps[name](np.clip(level, 0, 1)))[..., :3]


def _panel(name: str, scale: str, rgb: np.ndarray) -> dict[str, str]:
    from PIL import Image

    picture = Image.fromarray((rgb * 255 + 0.5).astype(np.uint8))
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    if max(picture.size) < 256:
        factor = -(-256 // max(picture.size))
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return {"name": name, "scale": scale, "data": base64.b64encode(buffer.getvalue()).decode()}
