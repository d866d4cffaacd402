"""A row of panels, and its PNG: what the plots of the evaluation begin and end with."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

DPI = 110


def row_of_panels(count: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a figure of matplotlib, which no screen shows, and its axes from left to right.

    Args:
        count: Panels, at least one.
        width: Of the figure in inches.
        height: Of the figure in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def png_of(figure: Any) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
