"""Stored integers <-> physical values, losing as little as the integers allow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medq_uni.io.limits import warn

MAX_REFINEMENT = 12
"""Most halvings of the source's step."""
BLOCK_VALUES = 2**15
"""Values that are scaled at a time."""


class Rescale(NamedTuple):
    """physical = (stored * slope + intercept) * factor; factor turns BQML into SUV, else it is 1."""

    slope: float = 1.0
    intercept: float = 0.0
    factor: float = 1.0


class Stored(NamedTuple):
    """Integers with the rescale that gives them their meaning."""

    values: np.ndarray
    rescale: Rescale


def physical(stored: np.ndarray, rescale: Rescale, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return the physical values, float32, of the shape of ``stored``, in ``out`` where it is given.

    The arithmetic is float64, so that a finer step with larger integers gives the same float32.
    """
    out = np.empty(stored.shape, np.float32) if out is None else out
    rows_at_once = max(1, BLOCK_VALUES // max(1, stored[:1].size)) if stored.ndim else 1
    for at in range(0, len(stored), rows_at_once):  # a block stays in the processor's cache
        values = stored[at : at + rows_at_once].astype(np.float64)
        values *= rescale.slope
        values += rescale.intercept
        values *= rescale.factor
        out[at : at + rows_at_once] = values
    return out


def decimal_string(value: float) -> str:
    """Return the value as a DICOM DS, at most 16 characters, as near as that allows."""
    from pydicom.valuerep import format_number_as_ds

    return str(int(value)) if value == int(value) and abs(value) < 1e15 else str(format_number_as_ds(value))


def quantize(
    values: np.ndarray,
    source: Stored,
    *,
    padding: np.ndarray | None = None,
    max_step: float | None = None,
    is_fixed: bool = False,
) -> Stored:
    """Return integers of the source's type for ``values``.

    Voxels that still have the source's value, and padding, keep their integer and their value to
    the last bit. For the others the source's step is halved while the integers still fit (by
    powers of two, so that the source's values stay on the grid), or until ``max_step`` is reached.

    Args:
        values: Physical values, float32, any shape.
        source: Integers and rescale that the image was read with, of the same shape.
        padding: True where the integer must stay as it is. Forbids another step.
        max_step: Largest step wanted, in physical units; None for the smallest possible.
        is_fixed: Whether the rescale must stay, because the file has no place for one.
    """
    same = values == physical(source.values, source.rescale)
    if padding is not None:
        same |= padding
    if same.all():
        return source
    slope, intercept, factor = source.rescale
    steps = (values.astype(np.float64) / factor - intercept) / slope
    steps[same] = source.values[same]
    limits = np.iinfo(source.values.dtype)
    low, high = float(steps.min()), float(steps.max())
    is_free = not is_fixed and (padding is None or not padding.any())
    if is_free and (np.rint(low) < limits.min or np.rint(high) > limits.max):
        return _remap(steps, source, (low, high), max_step)
    halvings = _halvings(source.rescale, low, high, limits, max_step) if is_free else 0
    scale = 2.0**halvings
    stored = np.rint(steps * scale)
    lost = max(limits.min - float(stored.min()), float(stored.max()) - limits.max)
    if lost > 0.005 * (high - low):
        warn("Some restored values do not fit the source's integers and were clipped. NIfTI keeps them all.")
    stored = np.clip(stored, limits.min, limits.max).astype(source.values.dtype)
    return Stored(stored, Rescale(slope / scale, intercept, factor))


def _halvings(rescale: Rescale, low: float, high: float, limits: np.iinfo, max_step: float | None) -> int:
    """Return how often the step is halved; only halves that a DS can hold exactly count."""
    step = abs(rescale.slope * rescale.factor)
    best = 0
    for halvings in range(1, MAX_REFINEMENT + 1):
        if max_step is not None and step / 2.0**best <= max_step:
            break
        scale = 2.0**halvings
        slope = rescale.slope / scale
        fits = limits.min <= np.rint(low * scale) and np.rint(high * scale) <= limits.max
        if not fits or float(decimal_string(slope)) != slope:
            break
        best = halvings
    return best


def _remap(steps: np.ndarray, source: Stored, extremes: tuple[float, float], max_step: float | None) -> Stored:
    """Return integers with another intercept, or also another slope, for values out of range."""
    slope, intercept, factor = source.rescale
    limits = np.iinfo(source.values.dtype)
    (low, high), room = extremes, float(limits.max) - float(limits.min)
    scale, shift = 1.0, 0.0
    if np.rint(low) >= limits.min:
        scale = float(limits.max) / high * (1.0 - 1e-9)  # the intercept stays, as PET needs (PS3.3 C.8.9.1)
    else:
        while (high - low) * scale > room - 2.0:
            scale /= 2.0
        step = abs(slope * factor)
        while max_step is not None and step / scale > max_step and 2 * scale * (high - low) < room - 2.0:
            scale *= 2.0
        shift = limits.min - np.floor(low * scale)
    new_slope = float(decimal_string(slope / scale))
    new_intercept = float(decimal_string(intercept - shift * new_slope))
    exact = (steps * slope + intercept - new_intercept) / new_slope
    stored = np.clip(np.rint(exact), limits.min, limits.max).astype(source.values.dtype)
    return Stored(stored, Rescale(new_slope, new_intercept, factor))
