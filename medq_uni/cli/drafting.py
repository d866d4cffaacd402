"""What the annotation commands show before they begin, and while something waits."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from medq_uni.cli.shared import BAD_INPUT, SOME_FAILED
from medq_uni.errors import MedQError

if TYPE_CHECKING:
    from medq_uni.annotate.drafts import DraftReport
    from medq_uni.annotate.images import ImageSource
    from medq_uni.annotate.store import Store
    from medq_uni.describers.chat import ChatDescriber, Examples
    from medq_uni.describers.client import ChatClient
    from medq_uni.describers.describer import Subject
    from medq_uni.describers.prompts import Example
    from medq_uni.taxonomy import Modality


def corrected_examples(store: Store, source: ImageSource, round_number: int, count: int) -> Examples:
    """Return what is shown before a question of a round: corrections of the round before, chosen once."""
    from medq_uni.annotate.rounds import choose_examples

    @functools.cache
    def corrected(modality: Modality) -> list[Example]:
        if round_number == 1 or count == 0:
            return []
        return choose_examples(store, source, round_number - 1, modality, count + 1)

    def examples(key: str, modality: Modality) -> list[Example]:
        return [one for one in corrected(modality) if one.key != key][:count]  # never the answer to the question

    return examples


def chat_describer(chat: ChatClient, store: Store, examples: Examples, threads: int) -> ChatDescriber:
    """Return the describer behind a server, whose questions and answers the store keeps."""
    from medq_uni.annotate.exchanges import StoredExchanges
    from medq_uni.describers.chat import ChatDescriber

    memory = StoredExchanges(store, chat.config.max_tokens)
    return ChatDescriber(chat, memory, prefix="external", threads=threads, may_refuse=False, examples=examples)


def ask_consent(describer: ChatDescriber, store: Store, source: ImageSource, keys: list[str], yes: bool) -> None:
    """Say what a run costs and where the images go, and ask whether to begin where either matters.

    Raises:
        MedQError: If it would cost more than is allowed.
    """
    subject = _first_readable(store, source, keys)
    if subject is None:
        return
    estimate, config = describer.estimate([subject], count=len(keys)), describer.chat.config
    where = "stay on this machine" if config.is_local else "LEAVE this machine"
    typer.echo(
        f"{estimate.questions} images for {describer.chat.model}: about {estimate.tokens_in} tokens in and at most "
        f"{estimate.tokens_out} out, cost at most about {estimate.cost:.2f}. The images {where}.",
        err=True,
    )
    if config.max_cost is not None and estimate.cost > config.max_cost:
        raise MedQError(f"the estimate is above --max-cost {config.max_cost:g}. Draft fewer (--limit) or allow more.")
    if not yes and (estimate.cost > 0 or not config.is_local):
        typer.confirm("Begin?", abort=True, err=True)


def _first_readable(store: Store, source: ImageSource, keys: list[str]) -> Subject | None:
    from medq_uni.annotate.drafts import subject_of

    for key in keys:
        with suppress(MedQError, OSError):
            return subject_of(store, source, key)
    return None


def show_drafts(report: DraftReport, problems: list[str], round_number: int) -> None:
    """Print what a run did; end with the exit code of failures where there are any.

    Args:
        report: Of the run.
        problems: Why files of the source gave no image.
        round_number: Round that was drafted.
    """
    for key, reason in report.failed:
        typer.echo(f"{key}\t{reason}")
    for problem in problems:
        typer.echo(f"no image\t{problem}")
    counts = f"{report.drafted} drafted, {report.kept} had one, {len(report.failed) + len(problems)} failed"
    typer.echo(f"round {round_number}: {counts}", err=True)
    if report.stopped:
        typer.echo(f"{report.stopped} What is drafted is kept; run the same command to go on.", err=True)
    if report.stopped or report.failed or problems:
        raise typer.Exit(SOME_FAILED if report.drafted or (report.kept and not report.failed) else BAD_INPUT)


def show_queue(store: Store, round_number: int) -> None:
    """Print the images of a round that wait for adjudication, with what is disputed and the votes."""
    from medq_uni.annotate.majority import settle

    after = ""
    while queue := store.outcomes.disputed(round_number, after=after):
        for standing in queue:
            image = next(store.outcomes.reviewed(round_number, key=standing.key))
            settled = settle([one.entry for one in image.reviews])
            parts = []
            for slot in settled.disputed:
                votes = settled.votes.get(slot, {})
                parts.append(f"{slot} " + "/".join(f"{value}:{count}" for value, count in votes.items()))
            typer.echo(f"{standing.key}\t{'; '.join(parts)}")
        after = queue[-1].key
