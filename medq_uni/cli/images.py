"""The commands that change images: restore, degrade."""

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
    SOME_FAILED,
    AllowOodOption,
    CompileOption,
    DeviceOption,
    FrameOption,
    GuessOption,
    ModalityOption,
    ModelOption,
    OffloadOption,
    OverwriteOption,
    PrecisionOption,
    clear_errors,
    is_one_series,
    load_restorer,
    progress_bar,
    tab_line,
    tell_passed_over,
)
from medq_uni.errors import MedQError, printable
from medq_uni.notice import NOTICE
from medq_uni.taxonomy import Severity, Task

if TYPE_CHECKING:
    from medq_uni.cli.reporting import Sections
    from medq_uni.config import SamplerConfig
    from medq_uni.restorer import Restorer


class Start(StrEnum):
    """Where sampling starts."""

    DEGRADED = "degraded"
    NOISE = "noise"


class Grade(StrEnum):
    """Grades that can be simulated."""

    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"


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
    strength: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the correction to apply, instead of the calibrated one."),
    ] = None,
    skip_good: Annotated[
        bool, typer.Option("--skip-good", help="Of what is judged Good write the record alone, no image.")
    ] = False,
    allow_ood: AllowOodOption = False,
    modality: ModalityOption = None,
    frame: FrameOption = None,
    guess: GuessOption = False,
    overwrite: OverwriteOption = False,
    maps: Annotated[bool, typer.Option(help="Write residual and uncertainty beside the result.")] = True,
    model: ModelOption = "nano",
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    offload: OffloadOption = False,
    compiled: CompileOption = False,
) -> None:
    """Assess an image, then restore it under the guidance of the assessment."""
    if force and skip_good:
        raise typer.BadParameter("pass either --force or --skip-good.", param_hint="--skip-good")
    with clear_errors():
        from medq_uni.cli.reporting import Sections
        from medq_uni.io.discover import find_images
        from medq_uni.restorer import RestoreSettings

        sections = Sections(report)
        restorer = load_restorer(model, device, precision, offload, compiled)
        sampler = _sampler(restorer, start, steps, samples)
        options: dict[str, Any] = {
            "settings": RestoreSettings(
                sampler=sampler, seed=seed, force=force, allow_ood=allow_ood, guess=guess, strength=strength
            ),
            "instruction": instruction,
            "description": _read_description(description),
        }
        options |= {"modality": modality, "overwrite": overwrite, "maps": maps, "skip_good": skip_good}
        found = find_images(path) if path.is_dir() and frame is None else None
        if found is not None and not is_one_series(path, found):
            code = _restore_tree(restorer, path, output, options, sections)
        else:
            code = _restore_one(restorer, path, output, options | {"frame": frame}, sections)
            code = code or (tell_passed_over(path, found) if found is not None else 0)
        if not sections.write():
            code = code or SOME_FAILED
    typer.echo(NOTICE, err=True)
    if code:
        raise typer.Exit(code)


def _sampler(restorer: Restorer, start: Start | None, steps: int | None, samples: int | None) -> SamplerConfig:
    """Return how the model samples, but for what the user chose."""
    chosen = {"start": start and start.value, "num_steps": steps, "num_samples": samples}
    wanted: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    return replace(restorer.pretrained.sampler, **wanted)


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
    frame: FrameOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Degrade an image by the physics of its acquisition; the record goes beside it."""
    if (record is None) == (not task):
        raise typer.BadParameter("pass either --task or --record.", param_hint="--task / --record")
    with clear_errors():
        import torch

        from medq_uni.files import check_target, read_text
        from medq_uni.io.provenance import Derivation, sidecar_path, write_sidecar
        from medq_uni.io.read_write import check_writable, read_image, write_image
        from medq_uni.physics.degrade import apply_records, degrade
        from medq_uni.physics.effect import own_noise
        from medq_uni.physics.record import read_records

        replayed = None if record is None else read_records(read_text(record))
        tasks = [one.task for one in replayed] if replayed else list(task or ())
        for target in (output, sidecar_path(output)):
            check_target(target, sources=[path], overwrite=overwrite)
        image = read_image(path, modality=modality or tasks[0].modality, frame=frame)
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
        said = {"modality": degraded.modality and degraded.modality.value, "units": degraded.units.value}
        write_image(degraded, output, derivation=derivation, overwrite=overwrite)
        write_sidecar(sidecar_path(output), said | {"degradation": fields, "notice": NOTICE}, overwrite=overwrite)
    for one in records:
        typer.echo(one.to_json())


def _read_description(path: Path | None) -> Any:
    if path is None:
        return None
    from medq_uni.description import DescriptionError, QualityDescription
    from medq_uni.files import read_text

    text = read_text(path)
    read = QualityDescription.from_json if text.lstrip().startswith("{") else _from_words
    try:
        return read(text)
    except DescriptionError as error:
        raise DescriptionError(f"{path.name}: {error}") from error


def _from_words(text: str) -> Any:
    from medq_uni.description import QualityDescription

    return QualityDescription.from_text(text.strip(), strict=False)


def _restore_one(restorer: Restorer, source: Path, target: Path, options: dict[str, Any], sections: Sections) -> int:
    """Restore one image and return the exit code."""
    from medq_uni.pipeline import restore_file
    from medq_uni.result import RestoredFrames

    with progress_bar("tiles") as progress:
        result = restore_file(restorer, source, target, progress=progress, **options)
    frames = result.frames if isinstance(result, RestoredFrames) else (result,)
    for number, one in enumerate(frames):
        words = one.description.to_text()
        typer.echo(words if len(frames) == 1 else f"frame {number}\t{words}")
    why = " and ".join(dict.fromkeys(one.why_unchanged for one in frames))
    is_left_out = options["skip_good"] and why == "judged Good"
    unchanged = f"{why}, {'not written' if is_left_out else 'returned unchanged'}"
    typer.echo(printable(f"{target}: {unchanged if result.is_unchanged else f'{result.seconds:.1f} s'}"), err=True)
    sections.add(source.name, source, target, result)
    return 0


def _restore_tree(restorer: Restorer, source: Path, target: Path, options: dict[str, Any], sections: Sections) -> int:
    """Restore a tree and return the exit code."""
    from medq_uni.batch import restore_folder

    totals: list[int] = []
    counts = dict.fromkeys(("restored", "unchanged", "skipped", "failed"), 0)
    passed_over: list[Path] = []

    def pass_over(path: Path, reason: str) -> None:
        passed_over.append(path)
        typer.echo(tab_line(str(path), "passed over", reason), err=True)

    with progress_bar("images") as progress:
        results = restore_folder(restorer, source, target, on_start=totals.append, on_passed_over=pass_over, **options)
        for number, result in enumerate(results, start=1):
            counts[result.status] += 1
            renamed = result.status != "failed" and result.place != result.relative
            note = f" [as {result.place}]" if renamed else ""
            line = tab_line(str(result.relative), result.status, f"{result.message}{note}")
            typer.echo(line, err=result.status == "failed")
            progress(number, totals[0])
            if result.item is not None and result.status != "failed":
                sections.add(str(result.relative), result.item, target / result.place, result.restoration)
    said = [f"{count} {status}" for status, count in counts.items()]
    said += [f"{len(passed_over)} passed over"] if passed_over else []
    typer.echo(", ".join(said), err=True)
    total = sum(counts.values())
    if total == 0:
        raise MedQError(f"{source.name}: no image in this folder. Pass DICOM, NIfTI, PNG or TIFF files.")
    if not counts["failed"]:
        return 0
    return BAD_INPUT if counts["failed"] == total else SOME_FAILED
