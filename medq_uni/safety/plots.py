"""What the safety checks found, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medq_uni.figures import png_of, row_of_panels
from medq_uni.safety.calibration import LEVELS
from medq_uni.safety.lesion_survival import ERASED_CRC
from medq_uni.safety.output_cache import Measurement
from medq_uni.safety.tables import grouped, rows_of
from medq_uni.systems.build import INPUT

PANEL_INCHES = (4.2, 3.4)
_OF_INPUT: dict[str, Any] = {"color": "0.4", "ls": "--"}


def safety_plots(results: dict[str, Any]) -> dict[str, bytes]:
    """Return PNG pictures by name: ``crc``, contrast recovery by size; ``nps``, noise power spectra; ``coverage``.

    Args:
        results: Of :func:`medq_uni.safety.checks.run_safety`. A picture without any measurement is left out.
    """
    makers = {"crc": _crc, "nps": _nps, "coverage": _coverage}
    found = {name: maker(results) for name, maker in makers.items()}
    return {name: picture for name, picture in found.items() if picture is not None}


def _crc(results: dict[str, Any]) -> bytes | None:
    systems = list(rows_of(results, "lesions"))
    panels = _values(systems, "modality")
    if not panels:
        return None
    figure, axes = _figure(len(panels))
    for axis, modality in zip(axes, panels, strict=True):
        shown = [(INPUT, systems[0][1], "crc_of_input"), *((n, rows, "crc") for n, rows in systems if n != INPUT)]
        for name, rows, field in shown:
            mine = grouped([row for row in rows if row["modality"] == modality], "radius_px")
            sizes = sorted(size for (size,) in mine)
            values = [[row[field] for row in mine[size,]] for size in sizes]
            middle = [np.median(one) for one in values]
            axis.plot(sizes, middle, marker="o", label=name, **(_OF_INPUT if name == INPUT else {}))
        axis.axhline(1, color="0.8", lw=0.8, zorder=0)
        axis.axhline(ERASED_CRC, color="0.8", lw=0.8, ls=":", zorder=0)
        axis.set(title=modality.upper(), xlabel="radius (pixels)", ylabel="contrast recovery (median)")
    return _png(figure, axes)


def _nps(results: dict[str, Any]) -> bytes | None:
    systems = [(name, [r for r in rows if r["kind"] == "noise"]) for name, rows in rows_of(results, "texture")]
    panels = _values(systems, "task")
    if not panels:
        return None
    figure, axes = _figure(len(panels))
    for axis, task in zip(axes, panels, strict=True):
        found = [(name, [row for row in rows if row["task"] == task]) for name, rows in systems]
        fullest = max((rows for _, rows in found), key=len)
        shown = [(INPUT, fullest, "nps_of_input"), *((n, rows, "nps") for n, rows in found if rows and n != INPUT)]
        for name, rows, field in shown:
            mean = np.mean([row[field] for row in rows], axis=0)
            axis.plot(rows[0]["frequency"], mean, label=name, **(_OF_INPUT if name == INPUT else {}))
        axis.set(title=task, xlabel="frequency (cycles per pixel)", ylabel="NPS over the input's variance")
    return _png(figure, axes)


def _coverage(results: dict[str, Any]) -> bytes | None:
    systems = [(name, [r for r in rows if r["slices"] > 0]) for name, rows in rows_of(results, "calibration")]
    panels = _values(systems, "group")
    if not panels:
        return None
    figure, axes = _figure(len(panels))
    for axis, group in zip(axes, panels, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", lw=0.8, label="calibrated")
        for name, rows in systems:
            for row in (row for row in rows if row["group"] == group):
                axis.plot(LEVELS, row["coverage"], label=f"{name}, {row['modality'].upper()}")
        axis.set(title=group, xlabel="nominal coverage", ylabel="measured coverage")
    return _png(figure, axes)


def _values(systems: Sequence[tuple[str, list[Measurement]]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for _, rows in systems for row in rows))


def _figure(panels: int) -> tuple[Any, list[Any]]:
    return row_of_panels(panels, width=PANEL_INCHES[0] * panels, height=PANEL_INCHES[1])


def _png(figure: Any, axes: Sequence[Any]) -> bytes:
    axes[0].legend(fontsize=7)
    return png_of(figure)
