"""Every describer on a benchmark and out of scope: who said what, and the tables, as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.describers.cache import Answer, Outcome
from medq_uni.describers.describers import Describer, Subject, TruthDescriber, describe_all, truth_of
from medq_uni.description import QualityDescription
from medq_uni.files import write_text
from medq_uni.judge.out_of_scope import OutOfScopeCase, scope_cases, scope_subjects
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
        scope: Images outside what assessors are made for; empty where they are left out.
        scope_answers: By describer, one per such image; without ``record``, which assesses nothing.
    """

    name: str
    cases: tuple[Case, ...] = ()
    truths: tuple[QualityDescription, ...] = ()
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    scope: tuple[OutOfScopeCase, ...] = ()
    scope_answers: dict[str, list[Answer]] = field(default_factory=dict)

    @classmethod
    def of(cls, benchmarks: Sequence[Benchmark], *, out_of_scope: bool = True) -> DescriptionRun:
        """Return the trial of benchmarks before anybody was asked; of several, each one's sets keep its name."""
        cases: list[Case] = []
        for one in benchmarks:
            named = len(benchmarks) > 1
            cases += [replace(case, group=f"{one.name}, {case.group}") if named else case for case in one.test]
        scope = tuple(scope_cases()) if out_of_scope and cases else ()
        name = ", ".join(one.name for one in benchmarks)
        return cls(name, tuple(cases), tuple(truth_of(case) for case in cases), scope=scope)

    @property
    def subjects(self) -> list[Subject]:
        """What describers are shown."""
        return [Subject(case.degraded, truth) for case, truth in zip(self.cases, self.truths, strict=True)]

    def ask(self, describer: Describer, bars: Bars) -> None:
        """Ask one describer about every image."""
        with bars(f"{describer.name}, {self.name}") as progress:
            self.answers[describer.name] = describe_all(describer, self.subjects, progress)
        if self.scope and not isinstance(describer, TruthDescriber):
            with bars(f"{describer.name}, out of scope") as progress:
                self.scope_answers[describer.name] = describe_all(describer, scope_subjects(self.scope), progress)

    @property
    def failed(self) -> list[Answer]:
        """Answers that failed."""
        given = [*self.answers.values(), *self.scope_answers.values()]
        return [answer for answers in given for answer in answers if answer.outcome is Outcome.FAILED]

    def write(self, path: Path) -> None:
        """Write every answer beside what is true, as JSON."""
        truths = [
            {"set": case.group, "task": case.task.value, "severity": case.severity.value, "truth": truth.to_text()}
            for case, truth in zip(self.cases, self.truths, strict=True)
        ]
        scope = [{"kind": case.kind, "said_to_be": str(case.image.modality)} for case in self.scope]
        values = {
            "version": __version__,
            "benchmark": self.name,
            "sha256": set_hash(list(self.cases)),
            "answers": _beside(truths, self.answers),
            "out_of_scope": _beside(scope, self.scope_answers),
        }
        write_text(path, json.dumps(values, indent=1) + "\n")


def _beside(facts: Sequence[dict[str, Any]], answers: dict[str, list[Answer]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [fact | answer.to_dict() for fact, answer in zip(facts, given, strict=True)]
        for name, given in answers.items()
    }


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Write rows of one dataclass as a CSV file; what is None is left empty."""
    if not rows:
        return
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=[one.name for one in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, buffer.getvalue())
