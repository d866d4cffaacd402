"""The commands that fetch, inspect, export and average checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medq_uni.cli.shared import OverwriteOption, clear_errors

app = typer.Typer(
    no_args_is_help=True, help="Fetch, inspect and export checkpoints of the released base model; average our own."
)
NameArgument = Annotated[str, typer.Argument(help="Folder, or OWNER/NAME[@REVISION] on the hub.")]


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="OWNER/NAME[@REVISION] on the hub.")]) -> None:
    """Download a checkpoint, or go on with an interrupted download, and check every file against its sha256."""
    with clear_errors():
        from medq_uni.pretrained.hub import fetch as download
        from medq_uni.pretrained.hub import verified_digests

        repository, _, revision = name.partition("@")
        folder = download(repository, revision=revision or None)
        verified_digests(folder, sorted(path for path in folder.iterdir() if path.is_file()))
    typer.echo(str(folder))


@app.command()
def inspect(
    name: NameArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Also hash every file (minutes for large ones).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a checkpoint is, what is missing, and what memory it needs, from headers alone."""
    with clear_errors():
        from medq_uni.pretrained.inspection import inspect_folder
        from medq_uni.pretrained.load import folder_of

        repository, _, revision = name.partition("@")
        findings = inspect_folder(folder_of(repository, revision=revision or None), verify=verify)
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        for line in _lines(findings):
            typer.echo(line)
    if findings["problems"]:
        raise typer.Exit(1)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Model to export: a folder of ours or of the released layout.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Store in bfloat16 instead of float32.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model in the released layout, which the original code reads."""
    with clear_errors():
        from medq_uni.config import Execution
        from medq_uni.pretrained.load import load_pretrained
        from medq_uni.pretrained.released_export import export_released

        _check_output(output, [name], overwrite)
        execution = Execution(precision="bfloat16" if bfloat16 else "float32")
        loaded = load_pretrained(name, execution=execution)
        export_released(loaded.model, loaded.tokenizer, output)
    typer.echo(str(output))


@app.command()
def average(
    names: Annotated[list[str], typer.Argument(help="Models that were trained on from the same weights: folders.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write the mean of the weights of several models; a training that begins with it calibrates its uncertainty."""
    with clear_errors():
        from medq_uni.pretrained.average import average_pretrained

        _check_output(output, names, overwrite)
        digest = average_pretrained(names, output)
    typer.echo(f"{output} (sha256 {digest[:12]})")


def _check_output(output: Path, sources: list[str], overwrite: bool) -> None:
    """Refuse a folder that exists, or that holds a model which is read."""
    from medq_uni.errors import UnwritableImage
    from medq_uni.pretrained.load import folder_of

    if output.exists() and not overwrite:
        raise UnwritableImage(f"{output.name}: exists already. Choose another folder, or pass --overwrite.")
    if any(folder_of(name).resolve().is_relative_to(output.resolve()) for name in sources):
        raise UnwritableImage(f"{output.name}: holds the source, which is never written to. Choose another.")


def _lines(findings: dict[str, Any]) -> list[str]:
    lines = [f"{key:<16}{value}" for key, value in findings.items() if not isinstance(value, list)]
    if findings["memory"]:
        columns = ("weights_gib", "work_gib", "device_gib", "host_gib")
        lines.append(f"{'memory (GiB)':<24}" + "".join(f"{name.removesuffix('_gib'):>10}" for name in columns))
        rows = findings["memory"]
        lines += [f"  {row['mode']:<22}" + "".join(f"{row[name]:>10}" for name in columns) for row in rows]
    return lines + [f"problem: {problem}" for problem in findings["problems"]]
