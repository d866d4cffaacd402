"""The log of a run: every line in ``log.jsonl``, the same in TensorBoard and on wandb, the curves as a picture."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medq_uni.errors import MedQError
from medq_uni.files import atomic_file, write_text
from medq_uni.json_text import parse_json

LOG, CURVES, TENSORBOARD = "log.jsonl", "curves.png", "tensorboard"
NO_CURVES = ("seconds", "waited")
"""Time so far, and the share of it in which the computation waited for its samples."""
Report = Callable[[dict[str, Any]], None]


class RunLogger:
    """Writes what happens in a run.

    Args:
        folder: Folder of the run.
        stages: Names of the stages, in order.
        wandb: Project on wandb that gets the lines too; None sends nothing anywhere.
        report: Called with every line.

    Raises:
        MedQError: If wandb is wanted and not installed.
    """

    def __init__(self, folder: Path, stages: tuple[str, ...], *, wandb: str | None = None, report: Report) -> None:
        self.path, self.stages, self.report = folder / LOG, stages, report
        self.board = _board(folder / TENSORBOARD)
        self.remote = _wandb(wandb, folder) if wandb else None

    def forget_after(self, stage: int, step: int) -> None:
        """Drop lines about steps after the checkpoint that a run goes on from: they will be written again."""
        kept = []
        for line in read_log(self.path):
            place = self.stages.index(line["stage"]), line["step"]
            if place <= (stage, step):
                kept.append(json.dumps(line) + "\n")
        write_text(self.path, "".join(kept))

    def write(self, line: dict[str, Any]) -> None:
        """Add one line: ``event``, ``stage``, ``step`` and numbers."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {name: value for name, value in line.items() if isinstance(value, float)}
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(f"{line['stage']}/{name}", value, line["step"])
        if self.remote is not None:
            self.remote.log({f"{line['stage']}/{name}": value for name, value in numbers.items()})
        self.report(line)

    def close(self) -> None:
        """Finish what other programs read, and draw the curves."""
        if self.board is not None:
            self.board.close()
        if self.remote is not None:
            self.remote.finish()
        if self.path.is_file():
            draw_curves(self.path, self.path.with_name(CURVES))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a last line that was cut short by a crash is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(parse_json(text))
        except ValueError:
            continue
    return lines


def draw_curves(log: Path, target: Path) -> None:
    """Draw every loss term and every validation score of a log over all steps, one panel each.

    Args:
        log: File that a run wrote.
        target: PNG to write; a log without steps draws none.
    """
    curves: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    borders: dict[str, int] = {}
    done = 0
    for line in read_log(log):
        if line["stage"] not in borders:
            borders[line["stage"]] = done
        at = borders[line["stage"]] + line["step"]
        done = max(done, at)
        for name, value in line.items():
            if isinstance(value, float) and name not in NO_CURVES and line["event"] in ("step", "validation"):
                curves[name][0].append(at)
                curves[name][1].append(value)
    if not curves:
        return
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    for place, (name, (steps, values)) in enumerate(sorted(curves.items()), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(steps, values, linewidth=1, marker="." if len(steps) == 1 else "")
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        for stage, border in borders.items():
            axes.axvline(border, color="0.8", linewidth=0.8, zorder=0)
            if place == 1:
                axes.text(border, axes.get_ylim()[1], f" {stage}", fontsize=7, va="top")
    with atomic_file(target) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra; the log has the same numbers
        return None
    return SummaryWriter(str(folder))


def _wandb(project: str, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MedQError("--wandb needs wandb. Install it: pip install wandb") from error
    return wandb.init(project=project, dir=str(folder), name=folder.name, resume="allow", id=folder.name)
