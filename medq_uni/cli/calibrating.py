"""The command that measures a model on good images and writes what follows beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medq_uni.cli.shared import DeviceOption, SourcesOption, clear_errors, progress_bar


def calibrate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the calibrated copy, or of what --check measured.")
    ],
    model: Annotated[str, typer.Argument(help="Name or folder of a model.")] = "nano",
    source: SourcesOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print what the calibration of the model is worth on these images.")
    ] = False,
    split: Annotated[str, typer.Option(help="Split of the sources whose subjects are measured.")] = "val",
    count: Annotated[int, typer.Option(min=10, help="Images to draw.")] = 240,
    seed: Annotated[int, typer.Option(help="Of the images and degradations.")] = 20280,
    device: DeviceOption = None,
) -> None:
    """Choose when an image counts as degraded, how far a correction goes, and how sure it is.

    Your good images (--source, a folder or KIND:FOLDER) are degraded by simulation and restored. Operating points,
    steps and scales follow from what the model did to them, and are written into a copy of the model. The subjects must
    not have been trained on. Run the command again with the same folder to go on where it stopped. --check with other
    subjects (--split test) shows what a calibration is worth.
    """
    with clear_errors():
        from medq_uni.calibrate.run import calibrate as run
        from medq_uni.calibrate.run import check_model, draw, pairs_config, summary
        from medq_uni.config import ConfigError

        if not source:
            raise ConfigError("calibrate: give good images of known subjects with --source DIR.")
        cases = draw(pairs_config(source, split=split, count=count, seed=seed))
        with progress_bar("images") as progress:
            if check:
                said = check_model(model, cases, output, device=device, progress=progress)
            else:
                done = run(model, cases, output, device=device, progress=progress)
                said = f"{summary(done.calibration)}\n{output} (sha256 {done.sha256[:12]})"
    typer.echo(said)
