"""The command that trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medq_uni.cli.shared import DeviceOption, SourcesOption, clear_errors, progress_bars

if TYPE_CHECKING:
    from collections.abc import Callable

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file; see recipes/.")]


def train(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")] = Path("runs/run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Stop with a checkpoint after this time.")] = None,
    source: SourcesOption = None,
    dataset: Annotated[Path | None, typer.Option(help="Built dataset to train on, instead of drawn pairs.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw pairs, and for a GPU steps.")] = 2,
    device: DeviceOption = None,
    wandb: Annotated[str | None, typer.Option(help="Also send the log to this project on wandb.")] = None,
    again: Annotated[bool, typer.Option("--replay", help="Compute the step that diverged once more.")] = False,
) -> None:
    """Train a model by a recipe; the finished one is written to OUTPUT/model.

    On several GPUs: torchrun --nproc-per-node 8 --no-python medq train RECIPE -o OUTPUT
    """
    with clear_errors():
        from medq_uni.train.export import publish
        from medq_uni.train.recipe import read_recipe
        from medq_uni.train.replay import replay
        from medq_uni.train.trainer import TrainOptions
        from medq_uni.train.trainer import train as run

        config = read_recipe(recipe)
        if source:
            config = config.with_sources(tuple(source))
        if dataset is not None:
            config = config.with_dataset(str(dataset))
        if again:
            terms, fault = replay(config, output, device=device or "cpu")
            typer.echo(json.dumps({**terms, "fault": fault}))
            return
        with progress_bars() as bars, _told_to_go_on(recipe, output):
            options = TrainOptions(
                resume=resume,
                may_change=True,
                max_minutes=max_minutes,
                workers=workers,
                device=device,
                wandb=wandb,
                report=_reporter(bars),
            )
            trained = run(config, output, options)
        if not trained.is_first:
            return
        if trained.is_finished:
            digest = publish(trained, config, output, output / "model")
            typer.echo(f"{output / 'model'} (sha256 {digest[:12]})")
        else:
            typer.echo(f"stopped; go on with: medq train {recipe} -o {output} --resume")


@contextmanager
def _told_to_go_on(recipe: Path, output: Path) -> Iterator[None]:
    """Say after an interruption how to go on: nothing but the steps since the last checkpoint is lost."""
    try:
        yield
    except KeyboardInterrupt:
        command = f"medq train {recipe} -o {output} --resume"
        typer.echo(f"interrupted; go on from the last checkpoint with: {command}", err=True)
        raise


def _reporter(bars: Callable[[str], Callable[[int, int], None]]) -> Callable[[dict[str, Any]], None]:
    """Return what shows a line of the log: a bar for each stage and each draw of pairs, words for the rest."""
    shown, progress = "", None

    def report(line: dict[str, Any]) -> None:
        nonlocal shown, progress
        if line["event"] == "validation":
            typer.echo(json.dumps(line))
        elif line["event"] == "memory":
            held, step = line["held_gib"], line["activations_gib"]
            needs = f"{held:.2f} GiB for weights and optimizer, about {step:.2f} GiB for a step"
            typer.echo(f"{line['stage']}: {needs}", err=True)
        elif line["event"] == "numbers":
            typer.echo(f"{line['stage']}: {_numbers(line)} is fastest here", err=True)
        elif line["event"] == "timed":
            typer.echo(
                f"{line['stage']}: {line['samples_per_s']:.2f} samples per second with {_numbers(line)}", err=True
            )
        elif line["event"] == "pace":
            peak = f", at most {line['peak_gib']:.2f} GiB on the GPU" if "peak_gib" in line else ""
            waited = f"{100 * line['waited']:.1f} % of the time waiting for them{peak}"
            typer.echo(f"{line['stage']}: {line['samples_per_s']:.1f} samples per second, {waited}", err=True)
        elif line["event"] == "resumed":
            typer.echo(f"{line['stage']}: goes on after step {line['step']}", err=True)
        elif line["event"] == "recipe changed":
            typer.echo(f"{line['stage']}: goes on with another {', '.join(line['keys'])}", err=True)
        else:
            title = str(line.get("stage", line["event"].replace("_", " ")))
            if progress is None or title != shown:
                shown, progress = title, bars(title)
            progress(line["step"], line["steps"])

    return report


def _numbers(line: dict[str, Any]) -> str:
    """Return how steps are computed, in words."""
    numbers = "bfloat16" if line["bfloat16"] else "float32"
    order = "channels last" if line["channels_last"] else "channels first"
    threads = f"{line['threads']} thread{'s' if line['threads'] > 1 else ''}"
    return f"{numbers}, {order}, {threads}"


def ablate(
    plan: Annotated[Path, typer.Argument(help="Plan; see recipes/ablations.json and recipes/baselines.json.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the runs and the table.")],
    source: SourcesOption = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time; run again to go on.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw the pairs.")] = 1,
    device: DeviceOption = None,
) -> None:
    """Train and score recipes that differ in one thing, or baselines, at equal budget; write a table with intervals."""
    with clear_errors():
        from medq_uni.ablate.run import run_ablations

        with progress_bars() as bars:
            is_done = run_ablations(
                plan,
                output,
                sources=tuple(source or ()),
                max_minutes=max_minutes,
                workers=workers,
                device=device,
                report=_reporter(bars),
            )
    if is_done:
        typer.echo((output / "results.md").read_text(encoding="utf-8"), nl=False)
    else:
        typer.echo(f"stopped; go on with: medq ablate {plan} -o {output}")
