"""The commands of annotation: draft, assign, review in the browser, agree, export, rounds, backup."""

from __future__ import annotations

import functools
import json
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medq_uni.cli import accounts
from medq_uni.cli.drafting import ask_consent, chat_describer, corrected_examples, show_drafts, show_queue
from medq_uni.cli.shared import (
    DatasetArgument,
    DeviceOption,
    ModalityOption,
    ModelOption,
    OverwriteOption,
    StoreOption,
    clear_errors,
    load_restorer,
    need_extra,
    open_store,
    progress_bar,
    store_url,
)
from medq_uni.errors import MedQError
from medq_uni.notice import NOTICE

if TYPE_CHECKING:
    from medq_uni.annotate.store import Store
    from medq_uni.describers.describer import Describer

app = typer.Typer(no_args_is_help=True, help="Drafts by a model, three reviews per image, majority, rounds. " + NOTICE)
app.add_typer(accounts.app, name="user")

RoundOption = Annotated[int | None, typer.Option("--round", min=1, help="Round; by default the newest.")]
SlicesOption = Annotated[int, typer.Option(min=1, help="Slices of every volume of a folder, spread over it.")]


class ExportFormat(StrEnum):
    """What is exported."""

    DESCRIPTIONS = "descriptions"
    REVIEWS = "reviews"
    LABEL_STUDIO = "label-studio"
    EXCHANGES = "exchanges"


@app.command()
def draft(
    dataset: DatasetArgument,
    describer: Annotated[str, typer.Option(help="URL of an OpenAI-compatible server, nano, or record.")],
    store: StoreOption = None,
    round_number: Annotated[int, typer.Option("--round", min=1, help="Round.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images to draft now.")] = None,
    modality: ModalityOption = None,
    slices: SlicesOption = 1,
    model: ModelOption = "nano",
    device: DeviceOption = None,
    model_name: Annotated[str | None, typer.Option(help="Model of the server; by default its only one.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Corrected images of the round before in every prompt.")] = 4,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Questions to the server at a time.")] = 4,
    rpm: Annotated[float | None, typer.Option(help="Most questions per minute.")] = None,
    timeout: Annotated[float, typer.Option(help="Longest wait for an answer, in seconds.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="Times that a failed question is asked again.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 400,
    price_in: Annotated[float, typer.Option(min=0, help="Price of a million tokens of questions.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Price of a million tokens of answers.")] = 0.0,
    max_cost: Annotated[float | None, typer.Option(help="Refuse to begin, and stop, above this cost.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin without asking.")] = False,
) -> None:
    """Draft the images of DATASET, a dataset or a folder of image files; run again to go on.

    The key of a server comes from the environment variable MEDQ_DESCRIBER_KEY.
    """
    with clear_errors(), open_store(dataset, store, create=True) as opened, ExitStack() as stack:
        from medq_uni.annotate.drafts import draft_images, pending_keys
        from medq_uni.annotate.images import open_source
        from medq_uni.describers.record import RecordDescriber

        source = open_source(dataset, modality=modality, slices=slices)
        if describer == "record":
            chosen: Describer = RecordDescriber()
        elif describer == "nano":
            from medq_uni.describers.model import ModelDescriber

            chosen = ModelDescriber(model, load_restorer(model, device, None, False))
        else:
            from medq_uni.describers.client import ChatClient, ChatConfig

            config = ChatConfig(
                url=describer,
                model=model_name,
                timeout_s=timeout,
                retries=retries,
                requests_per_minute=rpm,
                max_tokens=max_tokens,
                price_in=price_in,
                price_out=price_out,
                max_cost=max_cost,
            )
            keys = pending_keys(opened, source, round_number)[:limit]
            chat = stack.enter_context(closing(ChatClient(config)))
            corrected = corrected_examples(opened, source, round_number, examples)
            chosen = chat_describer(chat, opened, corrected, threads)
            ask_consent(chosen, opened, source, keys, yes)
        with progress_bar("drafts") as progress:
            report = draft_images(opened, source, chosen, round=round_number, limit=limit, progress=progress)
    show_drafts(report, source.problems(), round_number)


@app.command()
def assign(
    dataset: DatasetArgument,
    store: StoreOption = None,
    round_number: RoundOption = None,
    reviewers: Annotated[int, typer.Option(min=1, help="Different reviewers per image.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of every choice.")] = 0,
) -> None:
    """Give every drafted image of a round to three reviewers, balanced and at random; run again after changes."""
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.assignment import assign_round

        chosen = round_number or _newest(opened)
        count = assign_round(opened, chosen, seed=seed, needed=reviewers)
    typer.echo(f"round {chosen}: {count} assignments made")


@app.command()
def status(dataset: DatasetArgument, store: StoreOption = None) -> None:
    """Show how far the reviewers and the rounds are."""
    with clear_errors(), open_store(dataset, store) as opened:
        typer.echo(f"{len(opened.images())} images in {opened.database.name}")
        for account in opened.accounts.all():
            progress = opened.reviews.progress(account.id)
            note = "  disabled" if account.is_disabled else ""
            typer.echo(
                f"{account.role.value:<15}{account.name:<24}{progress.done:>7} of {progress.total:<7}"
                f"{progress.doubted:>5} with doubts{note}"
            )
        for number in opened.rounds():
            counts = opened.outcomes.counts(number)
            drafted = sum(1 for _ in opened.drafts(number))
            states = ", ".join(f"{count} {state.value}" for state, count in counts.items())
            typer.echo(f"round {number}: {drafted} drafted, {states}")


@app.command()
def agree(
    dataset: DatasetArgument,
    store: StoreOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for agreement.json and .png.")] = None,
) -> None:
    """Measure how well the reviewers agree, over rounds: Fleiss per slot, Cohen per pair, each against the majority."""
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.agreement import measure_agreement
        from medq_uni.annotate.rounds import measure_round

        names = {account.id: account.name for account in opened.accounts.all()}
        numbers = opened.outcomes.rounds()
        if output is not None:
            _check_outside(output, dataset, store)
        found = [measure_agreement(number, opened.outcomes.reviewed(number), names) for number in numbers]
        if not any(one.images for one in found):
            raise MedQError("no image has two finished reviews yet. Wait for the reviews.")
        for one in found:
            typer.echo(f"round {one.round}, {one.images} images with two reviews or more")
            for slot, value in one.slots.items():
                low, high = value.interval or (None, None)
                kappa = f"kappa {_number(value.fleiss_kappa)} ({_number(low)} to {_number(high)})"
                typer.echo(f"  {slot:<18}{kappa}  same {_number(value.observed)}")
        if output is not None:
            from medq_uni.annotate.plots import plot_rounds
            from medq_uni.files import write_bytes, write_text

            reports = [measure_round(opened, number) for number in numbers]
            values = {"agreement": [one.to_dict() for one in found], "drafts": [one.to_dict() for one in reports]}
            write_text(output / "agreement.json", json.dumps(values, indent=1) + "\n")
            write_bytes(output / "agreement.png", plot_rounds(found, reports))
            typer.echo(f"{output}: agreement.json, agreement.png", err=True)


@app.command()
def adjudicate(
    dataset: DatasetArgument,
    key: Annotated[str | None, typer.Argument(help="Image to decide; without, the queue is shown.")] = None,
    store: StoreOption = None,
    round_number: RoundOption = None,
    description: Annotated[Path | None, typer.Option(help="JSON file with the decision.")] = None,
    by: Annotated[str | None, typer.Option(help="Name of the administrator who decides.")] = None,
) -> None:
    """Show the images without a majority and what is disputed, or decide one; the web screen does the same."""
    if key is not None and (description is None or by is None):
        raise typer.BadParameter("a decision needs both --description and --by.", param_hint="KEY")
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.records import ReviewEntry
        from medq_uni.description import QualityDescription
        from medq_uni.files import read_text

        chosen = round_number or _newest(opened)
        if key is None or description is None or by is None:
            show_queue(opened, chosen)
            return
        account = opened.accounts.find(by)
        if account is None:
            raise MedQError("there is no such account. List them with: medq annotate user list")
        decided = QualityDescription.from_json(read_text(description))
        newest = opened.outcomes.resolution(key, chosen)
        number = 0 if newest is None else newest.number
        opened.outcomes.resolve(key, chosen, account.id, based_on=number, entry=ReviewEntry.of(decided))
    typer.echo(f"{key}: decided")


@app.command()
def export(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSONL file; a folder for Label Studio.")],
    store: StoreOption = None,
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.DESCRIPTIONS,
    round_number: RoundOption = None,
    modality: ModalityOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write descriptions by key, reviews with their history, tasks of Label Studio, or questions to describers."""
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.export import export_descriptions, export_exchanges, export_reviews
        from medq_uni.files import check_target

        chosen = round_number or _newest(opened)
        if form is ExportFormat.LABEL_STUDIO:
            _check_new(output)
        _check_outside(output, dataset, store)
        check_target(output, sources=[dataset], overwrite=overwrite)
        if form is ExportFormat.LABEL_STUDIO:
            from medq_uni.annotate.images import open_source
            from medq_uni.annotate.label_studio import export_label_studio

            count = export_label_studio(opened, open_source(dataset, modality=modality), chosen, output)
        elif form is ExportFormat.EXCHANGES:
            typer.echo(f"{output}: {export_exchanges(opened, output)} questions of all rounds")
            return
        elif form is ExportFormat.REVIEWS:
            count = export_reviews(opened, chosen, output)
        else:
            count = export_descriptions(opened, chosen, output)
    typer.echo(f"{output}: {count} images of round {chosen}")


def _check_outside(output: Path, dataset: Path, store: str | None) -> None:
    """Refuse an output in the dataset, which is only read, or in the place of its store."""
    target, url = output.resolve(), store_url(dataset, store)
    if dataset.resolve() in (target, *target.parents):
        raise MedQError(f"{output.name}: lies in the dataset, which is only read. Choose another place.")
    if "://" not in url and target == Path(url).resolve():
        raise MedQError(f"{output.name}: is the store of the annotations. Choose another name.")


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise MedQError(f"{folder.name}: exists already, and such a folder is never replaced. Choose another name.")


@app.command("import")
def import_annotations(
    dataset: DatasetArgument,
    file: Annotated[Path, typer.Argument(help="JSON export of Label Studio.")],
    store: StoreOption = None,
    round_number: RoundOption = None,
    reviewer: Annotated[list[str] | None, typer.Option(help="ANNOTATOR=NAME: whose account it is. Repeatable.")] = None,
) -> None:
    """Take annotations made in Label Studio as reviews; what is there already is not added again."""
    pairs = [text.partition("=") for text in reviewer or []]
    if any(not separator for _, separator, _ in pairs):
        raise typer.BadParameter("needs ANNOTATOR=NAME.", param_hint="--reviewer")
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.label_studio import import_reviews, read_label_studio

        chosen = round_number or _newest(opened)
        names = {annotator: name for annotator, _, name in pairs}
        added, kept = import_reviews(opened, chosen, read_label_studio(file), names)
    typer.echo(f"round {chosen}: {added} reviews added, {kept} were there")


@app.command("round")
def show_rounds(
    dataset: DatasetArgument,
    store: StoreOption = None,
    round_number: RoundOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for what the describer learns from this round.")
    ] = None,
    modality: ModalityOption = None,
) -> None:
    """Show how good the drafts of every round were; write the corrections of one as fine-tuning data."""
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.rounds import measure_round, write_tuning_data

        for number in opened.rounds():
            one = measure_round(opened, number)
            typer.echo(
                f"round {number}: {one.images} images with a result, accepted {_number(one.acceptance_rate)}, "
                f"all slots right {_number(one.slots_right)}, edit distance {_number(one.edit_distance)} "
                f"({', '.join(one.describers) or 'no drafts'})"
            )
            for slot, count in sorted(one.changed.items(), key=lambda item: -item[1]):
                typer.echo(f"  {slot:<18}changed in {count}")
        if output is not None:
            from medq_uni.annotate.images import open_source
            from medq_uni.files import check_target

            _check_new(output)
            _check_outside(output, dataset, store)
            check_target(output, sources=[dataset])
            chosen = round_number or _newest(opened)
            count = write_tuning_data(opened, open_source(dataset, modality=modality), chosen, output)
            typer.echo(f"{output}: {count} images of round {chosen}", err=True)


@app.command()
def backup(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="SQLite file, or .jsonl for an archive.")],
    store: StoreOption = None,
) -> None:
    """Write a checked copy of the store while it is in use; a PostgreSQL store becomes a .jsonl archive."""
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.backup import back_up

        counts = back_up(opened, output)
    typer.echo(f"{output}: {sum(counts.values())} rows, checked")


@app.command()
def restore(
    dataset: DatasetArgument,
    file: Annotated[Path, typer.Argument(help="What medq annotate backup wrote.")],
    store: StoreOption = None,
) -> None:
    """Fill a new, empty store from a backup, of either kind."""
    with clear_errors(), open_store(dataset, store, create=True) as opened:
        from medq_uni.annotate.backup import restore as fill

        counts = fill(file, opened)
    typer.echo(f"{opened.database.name}: {sum(counts.values())} rows, checked")


@app.command()
def serve(
    dataset: DatasetArgument,
    store: StoreOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8765,
    name: Annotated[list[str] | None, typer.Option(help="Host name that browsers use. Repeatable.")] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address of a proxy that says where requests come from (X-Forwarded-For). Repeatable."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM), for https.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
) -> None:
    """Open the screen in which reviewers correct drafts and administrators decide."""
    with clear_errors():
        need_extra("serve", "sqlalchemy", "alembic", "fastapi", "uvicorn", "argon2", "multipart")
        from medq_uni.review.server import serve as run

        url = store_url(dataset, store)
        run(
            url,
            dataset,
            host=host,
            port=port,
            names=name or (),
            proxies=proxy or (),
            tls=(certificate, key),
            announce=functools.partial(typer.echo, err=True),
        )


def _newest(store: Store) -> int:
    rounds = store.rounds()
    return rounds[-1] if rounds else 1


def _number(value: float | None) -> str:
    return "  -  " if value is None else f"{value:5.2f}"
