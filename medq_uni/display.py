"""Slices as pictures of 8 bits, windowed as readers of the modality look at them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from medq_uni.image import MedicalImage, Units
from medq_uni.scaling import CT_WINDOW_HU
from medq_uni.taxonomy import Modality

CT_WIDE_HU = (-1000.0, 1000.0)
HIGH_PERCENTILE = 99.5


@dataclass(frozen=True)
class Window:
    """A range of physical values that is shown from black to white."""

    name: str
    low: float
    high: float


def windows_of(image: MedicalImage) -> tuple[Window, ...]:
    """Return the windows in which a slice is looked at, the first by default.

    CT: soft tissue [-160, 240] HU and wide [-1000, 1000] HU. MR and PET: from 0, or the lowest value if that is below,
    to the 99.5th percentile of the slice.
    """
    if image.modality is Modality.CT or image.units is Units.HU:
        return Window("soft tissue", *CT_WINDOW_HU), Window("wide", *CT_WIDE_HU)
    finite = image.voxels[np.isfinite(image.voxels)]
    low = min(float(finite.min(initial=0.0)), 0.0)
    high = float(np.percentile(finite, HIGH_PERCENTILE)) if finite.size else 0.0
    high = high if high > low else float(finite.max(initial=0.0))
    return (Window("full range", low, high if high > low else low + 1.0),)


def png_of(image: MedicalImage, window: Window) -> bytes:
    """Return the first slice of an image as a gray PNG; the same values give the same bytes, and no header goes in."""
    from PIL import Image

    values = np.nan_to_num(image.voxels[0], nan=window.low, posinf=window.high, neginf=window.low)
    scaled = (values - window.low) * (255 / (window.high - window.low))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
