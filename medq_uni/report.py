"""A self-contained HTML page: before, after, difference, uncertainty and description, side by side."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medq_uni import __version__
from medq_uni.description import degradation_words
from medq_uni.errors import printable
from medq_uni.files import write_text
from medq_uni.image import MedicalImage
from medq_uni.notice import NOTICE
from medq_uni.result import Restoration
from medq_uni.scaling import CT_WINDOW_HU
from medq_uni.scoring import scores
from medq_uni.taxonomy import Modality

TEMPLATE = Path(__file__).with_name("report.html.j2")
MAX_SIDE = 512
"""Pictures larger than this are reduced."""


@dataclass(frozen=True)
class ReportItem:
    """What a report shows of one image: words and pictures, drawn, so that the volumes need not be kept."""

    title: str
    note: str
    verdict: str
    unchanged: str
    panels: tuple[dict[str, str], ...]
    """Name, scale and PNG of every picture."""
    scores: tuple[tuple[str, str, str], ...]
    """When (before, after), PSNR and SSIM, where the truth is known."""
    aspects: tuple[tuple[str, str], ...]
    """Aspect of the description, and its words."""
    seconds: str
    settings: str

    @classmethod
    def of(
        cls, title: str, restoration: Restoration, *, reference: MedicalImage | None = None, note: str = ""
    ) -> ReportItem:
        """Draw a restoration; of a volume the middle slice is shown.

        Args:
            title: Name of the image.
            restoration: What was done.
            reference: The true image, where it is known; adds its picture and PSNR and SSIM.
            note: A remark beside the title.
        """
        words = restoration.description
        rows = []
        if reference is not None:
            for name, image in (("before", restoration.image), ("after", restoration.restored)):
                decibels, similarity = scores(image, reference)
                rows.append((name, f"{decibels:.2f}", f"{similarity:.4f}"))
        return cls(
            title=printable(title),
            note=note,
            verdict=words.verdict.value,
            unchanged=restoration.why_unchanged,
            panels=tuple(_panels(restoration, reference)),
            scores=tuple(rows),
            aspects=(
                ("Image", f"{words.modality.value.upper()} of the {words.anatomy.value}"),
                ("Degradation", degradation_words(words.degradations)),
                ("Cause", words.cause),
                ("Impact", words.impact),
                ("Verdict", words.verdict.value),
            ),
            seconds=f"{restoration.seconds:.1f}",
            settings=json.dumps(restoration.provenance.to_dict(), indent=2),
        )


def render(items: Sequence[ReportItem], *, title: str = "MedQ-UNI report") -> str:
    """Return the page; it needs no other file and no network.

    Args:
        items: What to show, in this order.
        title: Of the page.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        notice=NOTICE,
        software=f"medq-uni {__version__}",
        items=items,
    )


def write_report(items: Sequence[ReportItem], path: str | Path, *, title: str = "MedQ-UNI report") -> None:
    """Write the page of :func:`render`, whole or not at all; an older report is replaced."""
    write_text(Path(path), render(items, title=title))


def picture(image: MedicalImage, shown: MedicalImage) -> bytes:
    """Return the middle slice as a gray PNG, PET inverted.

    Args:
        image: What is drawn.
        shown: Image whose values set the gray scale, so that several images can be compared.
    """
    low, high = _window(shown)
    level = np.clip((image.voxels[image.shape[0] // 2] - low) / (high - low), 0, 1)
    level = 1 - level if image.modality is Modality.PET else level
    return _png(np.repeat(level[..., None], 3, axis=-1))


def _panels(result: Restoration, reference: MedicalImage | None) -> list[dict[str, str]]:
    middle = result.image.shape[0] // 2
    shown = result.image if reference is None else reference
    low, high = _window(shown)
    units = result.image.units.value
    panels = []
    pictures = [("Before", result.image), ("After", result.restored)]
    if reference is not None:
        pictures.append(("Truth", reference))
    for name, image in pictures:
        panels.append(_panel(name, f"{low:.4g} to {high:.4g} {units}", picture(image, shown)))
    if result.is_unchanged:
        return panels
    residual = result.residual.voxels[middle]
    size = float(np.percentile(np.abs(residual), 99.5)) or 1.0
    change = _colors(residual / size / 2 + 0.5, "RdBu_r")
    panels.append(_panel("Difference", f"-{size:.3g} to {size:.3g} {units}", _png(change)))
    if result.uncertainty is not None:
        sigma = result.uncertainty.voxels[middle]
        top = float(np.percentile(sigma, 99.5)) or 1.0
        panels.append(_panel("Uncertainty", f"0 to {top:.3g} {units}", _png(_colors(sigma / top, "magma"))))
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


def _panel(name: str, scale: str, png: bytes) -> dict[str, str]:
    return {"name": name, "scale": scale, "data": base64.b64encode(png).decode()}


def _png(rgb: np.ndarray) -> bytes:
    from PIL import Image

    drawn = Image.fromarray((rgb * 255 + 0.5).astype(np.uint8))
    drawn.thumbnail((MAX_SIDE, MAX_SIDE))
    if max(drawn.size) < 256:
        factor = -(-256 // max(drawn.size))
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
