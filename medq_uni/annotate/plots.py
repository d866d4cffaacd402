"""Plots of agreement and of the quality of drafts, over rounds."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from medq_uni.annotate.agreement import Agreement
from medq_uni.annotate.majority import SLOTS
from medq_uni.annotate.rounds import RoundReport


def plot_rounds(agreements: Sequence[Agreement], reports: Sequence[RoundReport]) -> bytes:
    """Return a PNG: kappa per slot, quality of the drafts, pairs and reviewers; the last two of the last round.

    Args:
        agreements: One per round, in their order; at least one.
        reports: Of the same rounds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    plot_kappa(axes[0, 0], agreements)
    _plot_drafts(axes[0, 1], reports)
    plot_pairs(axes[1, 0], agreements[-1])
    _plot_reviewers(axes[1, 1], agreements[-1])
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # signs of names that the font does not have are drawn as boxes
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def plot_kappa(axis: Any, agreements: Sequence[Agreement]) -> None:
    """Draw kappa per slot over rounds; slots stand beside each other, so that equal values do not hide each other.

    Args:
        axis: Of matplotlib.
        agreements: One per round, in their order.
    """
    rounds, lowest = [one.round for one in agreements], 0.0
    for number, slot in enumerate(SLOTS):
        found = [(one.round, one.slots[slot]) for one in agreements if one.slots[slot].fleiss_kappa is not None]
        if not found:
            continue
        values = np.array([value.fleiss_kappa for _, value in found], dtype=float)
        ends = [value.interval or (np.nan, np.nan) for _, value in found]
        reach = np.abs(np.array(ends, dtype=float).T - values)
        places = [round + (number - len(SLOTS) / 2) * 0.05 for round, _ in found]
        axis.errorbar(places, values, yerr=reach, marker="o", markersize=4, linewidth=1, elinewidth=1, label=slot)
        lowest = min(lowest, float(np.nanmin([values.min(), *(low for low, _ in ends)])))
    _frame(axis, "Fleiss' kappa per slot, 95 % interval", rounds)
    axis.set_ylim(lowest - 0.05, 1.05)


def _plot_drafts(axis: Any, reports: Sequence[RoundReport]) -> None:
    rounds = [one.round for one in reports]
    for name, label in (
        ("acceptance_rate", "drafts accepted unchanged"),
        ("slots_right", "drafts with all slots right"),
        ("edit_distance", "mean edit distance"),
    ):
        values = [getattr(one, name) for one in reports]
        axis.plot(rounds, [np.nan if value is None else value for value in values], marker="o", label=label)
    _frame(axis, "Quality of the drafts", rounds)
    axis.set_ylim(-0.05, 1.05)


def plot_pairs(axis: Any, agreement: Agreement) -> None:
    """Draw Cohen's kappa of every pair of reviewers, as its mean over the slots.

    Args:
        axis: Of matplotlib.
        agreement: Of one round.
    """
    names = sorted({name for pair in agreement.pairs for name in (pair.first, pair.second)})
    table = np.full((len(names), len(names)), np.nan)
    for pair in agreement.pairs:
        values = [value for value in pair.cohen_kappa.values() if value is not None]
        i, j = names.index(pair.first), names.index(pair.second)
        if values:
            table[i, j] = table[j, i] = np.mean(values)
    axis.set_title(f"Cohen's kappa of pairs, mean over slots, round {agreement.round}", fontsize=10)
    if not names:
        axis.set_axis_off()
        return
    cells = axis.imshow(table, vmin=min(0.0, np.nanmin(table, initial=0.0)), vmax=1, cmap="viridis")
    labels = [_short(name) for name in names]
    axis.set_xticks(range(len(names)), labels, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), labels, fontsize=7)
    for i, j in np.argwhere(~np.isnan(table)):
        brightness = np.dot(cells.to_rgba(table[i, j])[:3], (0.2126, 0.7152, 0.0722))
        color = "black" if brightness > 0.4 else "white"
        axis.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=7, color=color)


def _plot_reviewers(axis: Any, agreement: Agreement) -> None:
    means = []
    for one in agreement.reviewers:
        values = [value for value in one.with_majority.values() if value is not None]
        means.append(float(np.mean(values)) if values else 0.0)
    axis.barh(range(len(means)), means)
    axis.set_yticks(range(len(means)), [_short(one.name) for one in agreement.reviewers], fontsize=7)
    axis.set_xlim(0, 1)
    axis.set_title(f"Share of slots with the majority, round {agreement.round}", fontsize=10)


def _frame(axis: Any, title: str, rounds: Sequence[int]) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("round")
    axis.set_xticks(list(rounds))
    axis.set_xlim(min(rounds, default=1) - 0.5, max(rounds, default=1) + 0.5)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _short(name: str) -> str:
    """Return a name as a plot can write it: short, and with no sign that is read as a formula."""
    plain = name if len(name) <= 20 else name[:19] + "..."
    return plain.replace("$", r"\$")
