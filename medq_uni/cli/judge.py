"""The command that measures descriptions: aspects, a language-model judge, images out of scope, MedQ-Bench."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medq_uni.cli.shared import SOME_FAILED, DeviceOption, SourcesOption, clear_errors, progress_bar
from medq_uni.notice import NOTICE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medq_uni.describers.describer import Answer, Describer
    from medq_uni.judge.judging import Comparison, Judge, Judgment
    from medq_uni.judge.medqbench import Item, Response
    from medq_uni.judge.runs import DescriptionRun

JUDGE_KEY = "MEDQ_JUDGE_KEY"


def judge(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for answers, tables and kept questions.")],
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            help="Built dataset, dataset recipe, folder of recipes, or folder with benchmark.csv. Repeatable."
        ),
    ] = None,
    source: SourcesOption = None,
    describers: Annotated[
        str, typer.Option(help="record, majority, nano or other weights, openai:MODEL@URL; with commas.")
    ] = "record,nano,majority",
    judge_name: Annotated[str | None, typer.Option("--judge", help="MODEL@URL of a chat server that judges.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often the judge is asked everything.")] = 3,
    price_in: Annotated[float, typer.Option(min=0, help="Judge: price of a million tokens of questions.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Judge: price of a million tokens of answers.")] = 0.0,
    medqbench: Annotated[Path | None, typer.Option(help="TSV file of MedQ-Bench.")] = None,
    out_of_scope: Annotated[bool, typer.Option(help="Also show images that should be refused.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Questions to a server at a time.")] = 4,
    timeout: Annotated[float, typer.Option(help="Longest wait for an answer of a server, in seconds.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="Times that a failed question is asked again.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of a describer behind a server.")] = 600,
    judge_max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of the judge.")] = 300,
    device: DeviceOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin without asking.")] = False,
) -> None:
    """Measure how good descriptions are; run again to go on, what was answered is not asked again.

    Keys of servers come from the environment: MEDQ_DESCRIBER_KEY for describers, MEDQ_JUDGE_KEY for the judge.
    """
    if not benchmark and medqbench is None:
        raise typer.BadParameter("give --benchmark, --medqbench, or both.")
    with clear_errors(), ExitStack() as stack:
        from medq_uni.describers.by_name import open_describers
        from medq_uni.describers.chat import ChatDescriber
        from medq_uni.judge.medqbench import read_tsv

        kept = output / "cache"
        run, unreadable = _read_run(benchmark or [], source or [], out_of_scope)
        items = [] if medqbench is None else read_tsv(medqbench)
        limits = {"timeout_s": timeout, "retries": retries}
        names = [name.strip() for name in describers.split(",") if name.strip()]
        chosen = open_describers(
            names, run.truths, kept, device=device, threads=workers, max_tokens=max_tokens, **limits
        )
        for describer in chosen:
            if isinstance(describer, ChatDescriber):
                stack.enter_context(closing(describer.chat))
        prices = {"price_in": price_in, "price_out": price_out}
        one = _open_judge(judge_name, kept, rounds, workers, limits | prices | {"max_tokens": judge_max_tokens})
        if one is not None:
            stack.enter_context(closing(one.chat))
        _ask_describer_consent(chosen, run, items, yes)
        if run.cases:
            for describer in chosen:
                run.ask(describer, progress_bar)
            run.write(output / "descriptions.json")
        responses = _respond(chosen, items, kept, workers)
        unscored = _report(output, run, items, responses, one, yes)
    _finish(output, run.failed, unscored, unreadable)


def _read_run(paths: Sequence[Path], sources: Sequence[str], out_of_scope: bool) -> tuple[DescriptionRun, int]:
    """Return the run of the benchmarks at paths, and how many of their pairs cannot be read; those are named."""
    from medq_uni.judge.runs import DescriptionRun
    from medq_uni.systems.benchmark import read_benchmarks

    read = [found for path in paths for found in read_benchmarks(path, sources)]
    unreadable = [line for found in read for line in found.unreadable]
    for line in unreadable:
        typer.echo(f"warning: {line}", err=True)
    return DescriptionRun.of(read, out_of_scope=out_of_scope), len(unreadable)


def _finish(output: Path, failed: Sequence[Answer], unscored: int, unreadable: int) -> None:
    """Say what is missing, and end with the exit code of failures where something is."""
    typer.echo(NOTICE, err=True)
    if failed or unscored:
        first = f" (the first: {failed[0].reason})" if failed else ""
        typer.echo(
            f"{len(failed)} answers failed{first}, {unscored} questions have no answer or score; the reasons are in "
            f"{output}. Run again to ask what a server left open.",
            err=True,
        )
    if failed or unscored + unreadable:
        raise typer.Exit(SOME_FAILED)


def _open_judge(
    name: str | None,
    kept: Path,
    rounds: int,
    workers: int,
    limits: dict[str, float],
) -> Judge | None:
    if name is None:
        return None
    from medq_uni.describers.by_name import chat_config
    from medq_uni.describers.cache import AnswerCache
    from medq_uni.describers.client import ChatClient
    from medq_uni.judge.judging import Judge

    config = chat_config(f"openai:{name}", key_variable=JUDGE_KEY, **limits)
    assert config is not None
    return Judge(ChatClient(config), AnswerCache(kept), rounds=rounds, workers=workers)


def _ask_describer_consent(chosen: Sequence[Describer], run: DescriptionRun, items: Sequence[Item], yes: bool) -> None:
    """Say how much is sent where, and ask whether to begin where images leave the machine."""
    from medq_uni.describers.chat import ChatDescriber
    from medq_uni.judge.medqbench import estimate
    from medq_uni.judge.out_of_scope import out_of_scope_subjects

    for describer in chosen:
        if not isinstance(describer, ChatDescriber):
            continue
        subjects = [*run.subjects, *out_of_scope_subjects(run.out_of_scope)]
        both = describer.estimate(subjects) + estimate(describer.chat, items)
        is_local = describer.chat.config.is_local
        typer.echo(
            f"{both.questions} images for {describer.name}: about {both.tokens_in} tokens in and at most "
            f"{both.tokens_out} out. The images {'stay on this machine' if is_local else 'LEAVE this machine'}.",
            err=True,
        )
        if not is_local and not yes:
            typer.confirm("Begin?", abort=True, err=True)


def _respond(
    chosen: Sequence[Describer], items: Sequence[Item], kept: Path, workers: int
) -> dict[str, list[Response] | None]:
    """Return the answers to the rows of MedQ-Bench by describer; None where it cannot answer free questions."""
    from medq_uni.describers.cache import AnswerCache
    from medq_uni.describers.chat import ChatDescriber
    from medq_uni.judge.medqbench import respond

    found: dict[str, list[Response] | None] = {}
    for describer in chosen if items else ():
        found[describer.name] = None
        if isinstance(describer, ChatDescriber):
            with progress_bar(f"{describer.name}, MedQ-Bench") as progress:
                found[describer.name] = respond(
                    describer.chat, items, AnswerCache(kept), threads=workers, progress=progress
                )
    return found


def _report(
    output: Path,
    run: DescriptionRun,
    items: Sequence[Item],
    responses: dict[str, list[Response] | None],
    one: Judge | None,
    yes: bool,
) -> int:
    """Write and print every table; return the number of questions without an answer or a score."""
    from medq_uni.files import write_text
    from medq_uni.judge.aspects import aspect_markdown, aspect_table
    from medq_uni.judge.judging import comparisons_of
    from medq_uni.judge.medqbench import choice_markdown, choice_table, reasoning_of, write_responses
    from medq_uni.judge.out_of_scope import out_of_scope_markdown, out_of_scope_table
    from medq_uni.judge.runs import write_csv

    parts = []
    if run.cases:
        aspects = aspect_table(run.cases, run.truths, run.answers)
        write_csv(output / "aspects.csv", aspects)
        parts.append(f"### Aspects against the records: {run.name}\n\n{aspect_markdown(aspects)}")
    if run.out_of_scope_answers:
        outside = out_of_scope_table(run.out_of_scope, run.out_of_scope_answers)
        write_csv(output / "out_of_scope.csv", outside)
        parts.append(f"### Out of scope\n\n{out_of_scope_markdown(outside)}")
    if responses:
        write_responses(output / "medqbench.json", items, responses)
    choices = [row for name, given in responses.items() for row in choice_table(name, items, given)]
    if choices:
        write_csv(output / "medqbench.csv", choices)
        parts.append(f"### MedQ-Bench, multiple choice\n\n{choice_markdown(choices)}")
    unscored = sum(one.text is None for given in responses.values() for one in given or ())
    comparisons = comparisons_of(run.cases, run.truths, run.answers)
    for name, given in responses.items():
        comparisons += reasoning_of(name, items, given)
    if one is not None and comparisons:
        judgments = _judge(one, comparisons, yes)
        unscored += sum(judgment.score is None for judgment in judgments)
        parts.append(_judge_part(output, one, comparisons, judgments))
    text = "\n".join(parts)
    write_text(output / "tables.md", text)
    typer.echo(text, nl=False)
    return unscored


def _judge(one: Judge, comparisons: Sequence[Comparison], yes: bool) -> list[Judgment]:
    """Say what judging costs, ask where it costs something or leaves the machine, and judge."""
    estimate = one.estimate(comparisons)
    is_local = one.chat.config.is_local
    judged = sum(comparison.candidate is not None for comparison in comparisons)
    typer.echo(
        f"{judged} descriptions x {one.rounds} rounds x 4 questions for the judge {one.chat.model}: "
        f"{estimate.questions}, {estimate.kept} of them answered before; about {estimate.tokens_in} tokens in and "
        f"{estimate.tokens_out} out, cost about {estimate.cost:.2f}. "
        f"The texts {'stay on this machine' if is_local else 'LEAVE this machine'}.",
        err=True,
    )
    if not yes and estimate.kept < estimate.questions and (estimate.cost > 0 or not is_local):
        typer.confirm("Begin?", abort=True, err=True)
    with progress_bar("judge") as progress:
        return one.judge(comparisons, progress)


def _judge_part(output: Path, one: Judge, comparisons: Sequence[Comparison], judgments: Sequence[Judgment]) -> str:
    from medq_uni.files import write_text
    from medq_uni.judge.judging import judge_markdown, judge_table
    from medq_uni.judge.runs import write_csv

    rows = judge_table(comparisons, judgments, one.rounds)
    write_csv(output / "judge.csv", rows)
    said = [asdict(judgment) | {"describer": comparisons[judgment.place].describer} for judgment in judgments]
    write_text(output / "judgments.json", json.dumps({"model": one.chat.model, "judgments": said}, indent=1) + "\n")
    head = f"### Judge {one.chat.model}, {one.rounds} rounds (another scale than the aspects)"
    return f"{head}\n\n{judge_markdown(rows)}"
