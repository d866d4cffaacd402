"""Every describer on a benchmark and out of scope: who said what, and the tables, as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.csv_text import csv_of
from medq_uni.describers.describer import Answer, Describer, Outcome, Subject, describe_all
from medq_uni.describers.record import RecordDescriber, truth_of
from medq_uni.description import QualityDescription
from medq_uni.files import write_text
from medq_uni.judge.out_of_scope import OutOfScopeCase, out_of_scope_cases, out_of_scope_subjects
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.cases import Case, set_hash

Bars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar with a label."""


@dataclass(frozen=True)
class DescriptionRun:
    """A benchmark, what is true of it, and what describers said.

    Attributes:
        name: Of the benchmark, or of several.
        cases: Scored slices.
        truths: What the records say, one per case.
        answers: By describer, one per case.
        out_of_scope: Images outside what assessors are made for; empty where they are left out.
        out_of_scope_answers: By describer, one per such image; without ``record``, which assesses nothing.
    """

    name: str
    cases: tuple[Case, ...] = ()
    truths: tuple[QualityDescription, ...] = ()
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    out_of_scope: tuple[OutOfScopeCase, ...] = ()
    out_of_scope_answers: dict[str, list[Answer]] = field(default_factory=dict)

    @classmethod
    def of(cls, benchmarks: Sequence[Benchmark], *, out_of_scope: bool = True) -> DescriptionRun:
        """Return the run of benchmarks before anybody was asked; of several, each one's sets keep its name."""
        cases: list[Case] = []
        for one in benchmarks:
            named = len(benchmarks) > 1
            cases += [replace(case, group=f"{one.name}, {case.group}") if named else case for case in one.test]
        outside = tuple(out_of_scope_cases()) if out_of_scope and cases else ()
        name = ", ".join(one.name for one in benchmarks)
        return cls(name, tuple(cases), tuple(truth_of(case) for case in cases), out_of_scope=outside)

    @property
    def subjects(self) -> list[Subject]:
        """What describers are shown."""
        return [Subject(case.degraded, truth) for case, truth in zip(self.cases, self.truths, strict=True)]

    def ask(self, describer: Describer, bars: Bars) -> None:
        """Ask one describer about every image."""
        with bars(f"{describer.name}, {self.name}") as progress:
            self.answers[describer.name] = describe_all(describer, self.subjects, progress)
        if self.out_of_scope and not isinstance(describer, RecordDescriber):
            with bars(f"{describer.name}, out of scope") as progress:
                self.out_of_scope_answers[describer.name] = describe_all(
                    describer, out_of_scope_subjects(self.out_of_scope), progress
                )

    @property
    def failed(self) -> list[Answer]:
        """Answers that failed."""
        given = [*self.answers.values(), *self.out_of_scope_answers.values()]
        return [answer for answers in given for answer in answers if answer.outcome is Outcome.FAILED]

    def write(self, path: Path) -> None:
        """Write every answer beside what is true, as JSON."""
        truths = [
            {"set": case.group, "task": case.task.value, "severity": case.severity.value, "truth": truth.to_text()}
            for case, truth in zip(self.cases, self.truths, strict=True)
        ]
        outside = [{"kind": case.kind, "said_to_be": str(case.image.modality)} for case in self.out_of_scope]
        values = {
            "version": __version__,
            "benchmark": self.name,
            "sha256": set_hash(list(self.cases)),
            "answers": _beside(truths, self.answers),
            "out_of_scope": _beside(outside, self.out_of_scope_answers),
        }
        write_text(path, json.dumps(values, indent=1) + "\n")


def _beside(facts: Sequence[dict[str, Any]], answers: dict[str, list[Answer]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [fact | answer.to_dict() for fact, answer in zip(facts, given, strict=True)]
        for name, given in answers.items()
    }


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Write rows of one dataclass as a CSV file; what is None is left empty."""
    if rows:
        write_text(path, csv_of([asdict(row) for row in rows]))
