"""The commands that work on images: assess, restore, degrade."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medq_uni import __version__
from medq_uni.cli.shared import (
    BAD_INPUT,
    NOTICE,
    SOME_FAILED,
    AllowOodOption,
    CompileOption,
    DeviceOption,
    ModalityOption,
    ModelOption,
    OffloadOption,
    OverwriteOption,
    PrecisionOption,
    clear_errors,
    load_restorer,
    progress_bar,
)
from medq_uni.errors import MedQError
from medq_uni.taxonomy import Severity, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from medq_uni.report import ReportItem
    from medq_uni.restorer import Restorer
    from medq_uni.result import Restoration

    Tell = Callable[[str, Restoration], None]
    """Takes the name of an image and what was done."""


class Start(StrEnum):
    """Where sampling starts."""

    DEGRADED = "degraded"
    NOISE = "noise"


class Grade(StrEnum):
    """Grades that can be simulated."""

    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"


def assess(
    path: Annotated[Path, typer.Argument(help="Image file, or folder with one DICOM series.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
    modality: ModalityOption = None,
    instruction: Annotated[str | None, typer.Option(help="Question to ask instead of the usual one.")] = None,
    allow_ood: AllowOodOption = False,
    model: ModelOption = "nano",
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    offload: OffloadOption = False,
) -> None:
    """Describe what is wrong with an image: five aspects, ending Good, Usable or Reject."""
    with clear_errors():
        from medq_uni.io.read_write import read_image

        image = read_image(path, modality=modality)
        restorer = load_restorer(model, device, precision, offload)
        description = restorer.assess(image, instruction=instruction, allow_ood=allow_ood)
    typer.echo(description.to_json().rstrip() if as_json else description.to_text())
    typer.echo(NOTICE, err=True)


def restore(
    path: Annotated[Path, typer.Argument(help="Image file, DICOM series folder, or folder tree.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File, or folder for a folder.")],
    instruction: Annotated[str | None, typer.Option(help="What to do, in your words.")] = None,
    description: Annotated[Path | None, typer.Option(help="Text or JSON file with a description that steers.")] = None,
    start: Annotated[Start | None, typer.Option(help="Start from the degraded image or from noise.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Evaluations of the network.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples to average (noise start).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Restore even what is judged Good.")] = False,
    allow_ood: AllowOodOption = False,
    modality: ModalityOption = None,
    overwrite: OverwriteOption = False,
    maps: Annotated[bool, typer.Option(help="Write residual and uncertainty beside the result.")] = True,
    model: ModelOption = "nano",
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    offload: OffloadOption = False,
    compiled: CompileOption = False,
) -> None:
    """Assess an image, then restore it under the guidance of the assessment."""
    with clear_errors():
        from medq_uni.report import ReportItem
        from medq_uni.restorer import RestoreSettings

        if report is not None:
            _check_report(report)
        restorer = load_restorer(model, device, precision, offload, compiled)
        chosen = {"start": start and start.value, "num_steps": steps, "num_samples": samples}
        wanted: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        sampler = replace(restorer.pretrained.sampler, **wanted)
        options: dict[str, Any] = {
            "settings": RestoreSettings(sampler=sampler, seed=seed, force=force, allow_ood=allow_ood),
            "instruction": instruction,
            "description": _read_description(description),
        }
        options |= {"modality": modality, "overwrite": overwrite, "maps": maps}
        sections: list[ReportItem] = []

        def tell(name: str, result: Restoration) -> None:
            if report is not None:
                sections.append(ReportItem.of(name, result))

        is_tree = path.is_dir() and not _is_one_series(path)
        code = (_restore_tree if is_tree else _restore_one)(restorer, path, output, options, tell)
        if report is not None:
            _write_report(sections, report)
    typer.echo(NOTICE, err=True)
    if code:
        raise typer.Exit(code)


def degrade(
    path: Annotated[Path, typer.Argument(help="Image file, or folder with one DICOM series.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    task: Annotated[
        list[Task] | None, typer.Option(help="Kind of degradation; two of one modality make a mixed one.")
    ] = None,
    severity: Annotated[Grade, typer.Option(help="Grade.")] = Grade.MODERATE,
    method: Annotated[str, typer.Option(help="Way of simulating it: default, scanner, or another one.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of parameters and noise.")] = 0,
    record: Annotated[
        Path | None, typer.Option(help="Replay this record, or the one in this *.medq.json file, instead.")
    ] = None,
    modality: ModalityOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Degrade an image by the physics of its acquisition; the record goes beside it."""
    if (record is None) == (not task):
        raise typer.BadParameter("pass either --task or --record.", param_hint="--task / --record")
    with clear_errors():
        import torch

        from medq_uni.files import check_target
        from medq_uni.io.provenance import Derivation, sidecar_path, write_sidecar
        from medq_uni.io.read_write import check_writable, read_image, write_image
        from medq_uni.physics.degrade import apply_records, degrade
        from medq_uni.physics.effect import own_noise
        from medq_uni.physics.record import read_records

        replayed = None if record is None else read_records(record.read_text(encoding="utf-8"))
        tasks = [one.task for one in replayed] if replayed else list(task or ())
        for target in (output, sidecar_path(output)):
            check_target(target, sources=[path], overwrite=overwrite)
        image = read_image(path, modality=modality or tasks[0].modality)
        check_writable(image, output, overwrite=overwrite)
        if replayed:
            degraded, records = apply_records(image, replayed), replayed
        else:
            wanted = [(one, Severity(severity.value)) for one in dict.fromkeys(tasks)]
            generator = torch.Generator().manual_seed(seed)
            made = degrade(image, wanted, generator, method=method, own=own_noise(image))
            degraded, records = made.image, made.records
        fields = [json.loads(one.to_json()) for one in records]
        derivation = Derivation(
            kind="degraded",
            method=f"MedQ-UNI simulated degradation {', '.join(one.task.value for one in records)}",
            software_version=__version__,
            settings={"degradation": fields},
            seed=records[0].seed,
            tasks=tuple(one.task.value for one in records),
        )
        write_image(degraded, output, derivation=derivation, overwrite=overwrite)
        write_sidecar(sidecar_path(output), {"degradation": fields, "notice": NOTICE}, overwrite=overwrite)
    for one in records:
        typer.echo(one.to_json())


def _read_description(path: Path | None) -> Any:
    if path is None:
        return None
    from medq_uni.description import DescriptionError, QualityDescription

    text = path.read_text(encoding="utf-8")
    read = QualityDescription.from_json if text.lstrip().startswith("{") else _from_words
    try:
        return read(text)
    except DescriptionError as error:
        raise DescriptionError(f"{path.name}: {error}") from error


def _from_words(text: str) -> Any:
    from medq_uni.description import QualityDescription

    return QualityDescription.from_text(text.strip(), strict=False)


def _is_one_series(folder: Path) -> bool:
    """Return whether a folder holds nothing but one DICOM series, directly."""
    from medq_uni.io.discover import find_images

    found = find_images(folder)
    return len(found) == 1 and found[0].format == "dicom" and found[0].path == folder


def _check_report(path: Path) -> None:
    from medq_uni.files import check_target

    if path.suffix.lower() not in (".html", ".htm"):
        raise MedQError(f"--report {path.name}: a report replaces its file; give it a name that ends in .html.")
    check_target(path, overwrite=True)


def _restore_one(restorer: Restorer, source: Path, target: Path, options: dict[str, Any], tell: Tell) -> int:
    """Restore one image and return the exit code."""
    from medq_uni.pipeline import restore_file

    with progress_bar("tiles") as progress:
        result = restore_file(restorer, source, target, progress=progress, **options)
    typer.echo(result.description.to_text())
    note = "judged Good, returned unchanged" if result.is_unchanged else f"{result.seconds:.1f} s"
    typer.echo(f"{target}: {note}", err=True)
    tell(source.name, result)
    return 0


def _restore_tree(restorer: Restorer, source: Path, target: Path, options: dict[str, Any], tell: Tell) -> int:
    """Restore a tree and return the exit code."""
    from medq_uni.batch import restore_folder

    totals: list[int] = []
    counts = dict.fromkeys(("restored", "unchanged", "skipped", "failed"), 0)
    with progress_bar("images") as progress:
        results = restore_folder(restorer, source, target, on_start=totals.append, **options)
        for number, result in enumerate(results, start=1):
            counts[result.status] += 1
            renamed = result.status != "failed" and result.place != result.relative
            note = f" [as {result.place}]" if renamed else ""
            typer.echo(f"{result.relative}\t{result.status}\t{result.message}{note}")
            progress(number, totals[0])
            if result.restoration is not None:
                tell(str(result.relative), result.restoration)
    typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()), err=True)
    total = sum(counts.values())
    if total == 0:
        raise MedQError(f"{source.name}: no image in this folder. Pass DICOM, NIfTI, PNG or TIFF files.")
    if not counts["failed"]:
        return 0
    return BAD_INPUT if counts["failed"] == total else SOME_FAILED


def _write_report(sections: list[ReportItem], path: Path) -> None:
    from medq_uni.report import write_report

    if not sections:
        typer.echo(f"{path}: no report, since nothing was restored in this run", err=True)
        return
    write_report(sections, path)
    typer.echo(f"{path}: report", err=True)
