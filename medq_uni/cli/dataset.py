"""The commands that build, check and show datasets of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medq_uni.cli.shared import BAD_INPUT, OverwriteOption, SourcesOption, clear_errors, progress_bar

app = typer.Typer(no_args_is_help=True, help="Build, verify and show datasets of degraded and reference pairs.")
FolderArgument = Annotated[Path, typer.Argument(help="Folder of the dataset.")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="Dataset recipe; see recipes/ and benchmark/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the dataset.")],
    source: SourcesOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, or Ray tasks at a time.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster that shares OUTPUT, or auto.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first problem of a source.")] = False,
) -> None:
    """Draw the pairs of a recipe into shards; run again after an interruption to go on."""
    with clear_errors():
        from medq_uni.data.dataset import build_dataset, read_dataset_recipe

        config = read_dataset_recipe(recipe)
        if source:
            config = config.with_sources(tuple(source))
        with progress_bar("pairs") as progress:
            dataset = build_dataset(
                config,
                output,
                workers=workers,
                address=ray,
                strict=strict,
                progress=progress,
                warn=lambda problem: typer.echo(f"warning: {problem}", err=True),
            )
    shards = dataset.manifest["shards"]
    size = sum(shard["bytes"] for shard in shards) / 2**20
    typer.echo(f"{output}: {len(dataset)} pairs in {len(shards)} shards, {size:.0f} MiB")
    typer.echo(f"content sha256 {dataset.manifest['content_sha256']}")


@app.command()
def verify(folder: FolderArgument) -> None:
    """Hash every byte, decode every pair, and look for subjects or scans on two sides."""
    with clear_errors():
        from medq_uni.data.verify import verify_dataset

        with progress_bar("shards") as progress:
            problems = verify_dataset(folder, progress=progress)
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{folder}: {len(problems)} problems", err=True)
        raise typer.Exit(BAD_INPUT)
    typer.echo(f"{folder}: whole")


@app.command()
def show(
    folder: FolderArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="PNG; default: FOLDER.png.")] = None,
    columns: Annotated[int, typer.Option(min=1, max=12, help="Pairs of every task and grade.")] = 4,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a contact sheet: pairs of every task and grade, degraded beside reference."""
    with clear_errors():
        from medq_uni.data.verify import contact_sheet
        from medq_uni.files import check_target

        target = output or folder.with_name(folder.name + ".png")
        check_target(target, overwrite=overwrite)
        contact_sheet(folder, target, columns=columns)
    typer.echo(str(target))
