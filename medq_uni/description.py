"""The quality description: five aspects as a value, as plain words, and back without loss.

The text has one sentence for each aspect of the paper (section 2.1), in a fixed order:

    Image: MR of the brain. Degradation: moderate motion artifact. Cause: the head moved between lines.
    Impact: cortical edges are doubled. Verdict: usable.

Labels, modality, anatomy, degradations and verdict are fixed words; cause and impact are free. Figures may follow:

    Measured: noise SD 35 HU (30 to 41); mean noise frequency 0.21 per pixel (0.18 to 0.24).
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from medq_uni.errors import MedQError
from medq_uni.json_text import parse_json
from medq_uni.measurement import Measurement, MeasurementError, measurement_schema
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict, tasks_of, verdict_of
from medq_uni.wording import WORDING

DEFAULT_ASSESS = "Assess the quality of this image."
DEFAULT_RESTORE = "Restore this image."
FOLLOW_REPORT = "Restore as the report says."
"""Instruction that goes with a description that a person supplies."""
MAX_FREE_CHARS = 160
PHRASES = {task: words.phrase for task, words in WORDING.items()}
"""What a description calls every kind of degradation."""
LABELS = ("Image", "Degradation", "Cause", "Impact", "Verdict")
MEASURED = "Measured"
"""Label of the figures, which a description may leave out."""
_SYNONYMS = {"mri": "mr", "magnetic resonance": "mr", "computed tomography": "ct", "x-ray ct": "ct"}
_FREE = re.compile(r"[ -9;-~]+")  # printable ASCII without the colon that would look like a label


class DescriptionError(MedQError):
    """A description that cannot be read or built; the message names the aspect."""


@dataclass(frozen=True)
class Degradation:
    """One thing that is wrong with an image, and how much."""

    task: Task
    severity: Severity

    def __post_init__(self) -> None:
        """Refuse the grade none: what is not there is left out."""
        if self.severity is Severity.NONE:
            raise DescriptionError("a degradation needs a severity above none; leave it out instead.")

    @property
    def words(self) -> str:
        """Grade and kind, for example ``moderate motion artifact``."""
        return f"{self.severity.value} {PHRASES[self.task]}"


@dataclass(frozen=True)
class QualityDescription:
    """What is wrong with an image, in the five aspects of the paper.

    Attributes:
        modality: CT, MR or PET.
        anatomy: Body region.
        degradations: Kinds and grades; empty where nothing is wrong.
        cause: Technical cause, one line of at most 160 printable ASCII characters without colon.
        impact: What it means for reading the image, same rules.
        verdict: Good, Usable or Reject.
        measurements: Figures of the degradation, each at most once; empty where nothing was measured. The network
            reads and writes descriptions without them.
    """

    modality: Modality
    anatomy: Anatomy
    degradations: tuple[Degradation, ...]
    cause: str
    impact: str
    verdict: Verdict
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        """Check the free texts and that every degradation is named once."""
        for name, text in (("cause", self.cause), ("impact", self.impact)):
            _check_free(name, text)
        kinds = [degradation.task for degradation in self.degradations]
        if len(set(kinds)) != len(kinds):
            raise DescriptionError(f"degradations: {', '.join(kinds)} names one kind twice.")
        object.__setattr__(self, "degradations", tuple(self.degradations))
        figures = [one.quantity for one in self.measurements]
        if len(set(figures)) != len(figures):
            raise DescriptionError(f"measurements: {', '.join(figures)} states one figure twice.")
        object.__setattr__(self, "measurements", tuple(self.measurements))

    @property
    def worst(self) -> Severity:
        """Worst grade among the degradations, none where there are none."""
        return max((d.severity for d in self.degradations), key=lambda s: s.level, default=Severity.NONE)

    def to_text(self) -> str:
        """Return the description in plain words; :meth:`from_text` is its inverse."""
        return (
            f"Image: {self.modality.value.upper()} of the {self.anatomy.value}. "
            f"Degradation: {degradation_words(self.degradations)}. "
            f"Cause: {self.cause}. Impact: {self.impact}. Verdict: {self.verdict.value}."
        ) + (f" {MEASURED}: {_figures(self.measurements)}." if self.measurements else "")

    @classmethod
    def from_text(cls, text: str, *, strict: bool = True) -> QualityDescription:
        """Return the description that a text spells.

        Args:
            text: As :meth:`to_text` writes it. Not strict, case, spacing, line breaks, the order of the
                aspects, the last period and common synonyms do not matter.
            strict: Whether every character must be where it belongs.

        Raises:
            DescriptionError: If an aspect is missing, unknown or out of place.
        """
        aspects = _split_aspects(text, strict)
        modality, anatomy = _read_image(aspects["Image"], strict)
        found = cls(
            modality=modality,
            anatomy=anatomy,
            degradations=_read_degradations(aspects["Degradation"], strict),
            cause=aspects["Cause"],
            impact=aspects["Impact"],
            verdict=Verdict(_one_of("Verdict", aspects["Verdict"], list(Verdict), strict)),
            measurements=_read_measurements(aspects.get(MEASURED)),
        )
        if strict and found.to_text() != text:
            raise DescriptionError(f"not in the form of a description: {_short(text)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON values, as :func:`json_schema` describes them."""
        return {
            "modality": self.modality.value,
            "anatomy": self.anatomy.value,
            "degradations": [{"task": d.task.value, "severity": d.severity.value} for d in self.degradations],
            "cause": self.cause,
            "impact": self.impact,
            "verdict": self.verdict.value,
        } | ({"measurements": [one.to_dict() for one in self.measurements]} if self.measurements else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QualityDescription:
        """Return the description of :meth:`to_dict`.

        Raises:
            DescriptionError: If a key is missing or a value is not one of the fixed words.
        """
        try:
            return cls(
                modality=Modality(values["modality"]),
                anatomy=Anatomy(values["anatomy"]),
                degradations=tuple(
                    Degradation(Task(d["task"]), Severity(d["severity"])) for d in values["degradations"]
                ),
                cause=values["cause"],
                impact=values["impact"],
                verdict=Verdict(values["verdict"]),
                measurements=tuple(Measurement.from_dict(one) for one in values.get("measurements", ())),
            )
        except DescriptionError:
            raise
        except MeasurementError as error:
            raise DescriptionError(str(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            keys = ", ".join(json_schema()["required"])
            raise DescriptionError(f"a description needs {keys}; found {error}.") from error

    def to_json(self) -> str:
        """Return the description as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> QualityDescription:
        """Return the description of a JSON text.

        Raises:
            DescriptionError: If it is not JSON, or see :meth:`from_dict`.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise DescriptionError(f"not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise DescriptionError(f"a description is a JSON object, got {type(values).__name__}.")
        return cls.from_dict(values)

    @property
    def class_label(self) -> str:
        """The kinds of degradation alone, without grades or anything else."""
        return ", ".join(PHRASES[d.task] for d in self.degradations) or "none"

    def validate(self) -> list[str]:
        """Return what contradicts itself, one sentence each; empty where nothing does."""
        problems = [
            f"{PHRASES[d.task]} does not occur in {self.modality.value.upper()} images."
            for d in self.degradations
            if d.task.modality is not self.modality
        ]
        implied = verdict_of(d.severity for d in self.degradations)
        if implied is not self.verdict:
            problems.append(f"The degradations imply {implied.value}, the verdict says {self.verdict.value}.")
        return problems

    def diff(self, other: QualityDescription) -> list[tuple[str, str, str]]:
        """Return (aspect, value here, value there) for every aspect in which two descriptions differ."""
        here, there = self._aspects(), other._aspects()
        return [(name, here[name], there[name]) for name in here if here[name] != there[name]]

    def with_severity(self, severity: Severity | str) -> QualityDescription:
        """Return the description with every degradation at this grade, and the verdict that follows.

        The grade none removes them all.

        Raises:
            DescriptionError: If there is no such grade.
        """
        if severity not in list(Severity):
            raise DescriptionError(f"severity: needs one of {', '.join(Severity)}; got {_short(str(severity))}")
        severity = Severity(severity)
        if severity is Severity.NONE:
            degradations: tuple[Degradation, ...] = ()
        else:
            degradations = tuple(Degradation(d.task, severity) for d in self.degradations)
        verdict = verdict_of(d.severity for d in degradations)
        return replace(self, degradations=degradations, verdict=verdict)

    def _aspects(self) -> dict[str, str]:
        return {
            "modality": self.modality.value,
            "anatomy": self.anatomy.value,
            "degradations": degradation_words(self.degradations),
            "cause": self.cause,
            "impact": self.impact,
            "verdict": self.verdict.value,
            "measurements": _figures(self.measurements),
        }


def _figures(measurements: tuple[Measurement, ...]) -> str:
    return "; ".join(one.words for one in measurements)


def degradation_words(degradations: tuple[Degradation, ...]) -> str:
    """Return the degradations joined by ``and``, or ``none``."""
    return " and ".join(degradation.words for degradation in degradations) or "none"


def degradation_options(modality: Modality) -> list[str]:
    """Return every list of up to two degradations of a modality, in words."""
    grades = list(Severity)[1:]
    single = [(Degradation(task, grade),) for task in tasks_of(modality) for grade in grades]
    pairs = [
        (Degradation(one, grade), Degradation(other, other_grade))
        for one, other in itertools.combinations(tasks_of(modality), 2)
        for grade, other_grade in itertools.product(grades, grades)
    ]
    return ["none", *(degradation_words(d) for d in (*single, *pairs))]


def json_schema(*, measured: bool = False) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of :meth:`QualityDescription.to_dict`.

    Args:
        measured: Whether figures may be stated, which no language model should make up.
    """
    free = {"type": "string", "minLength": 1, "maxLength": MAX_FREE_CHARS}
    degradation = {
        "type": "object",
        "properties": {
            "task": {"enum": [task.value for task in Task]},
            "severity": {"enum": [severity.value for severity in list(Severity)[1:]]},
        },
        "required": ["task", "severity"],
        "additionalProperties": False,
    }
    properties: dict[str, Any] = {
        "modality": {"enum": [modality.value for modality in Modality]},
        "anatomy": {"enum": [anatomy.value for anatomy in Anatomy]},
        "degradations": {"type": "array", "items": degradation},
        "cause": free,
        "impact": free,
        "verdict": {"enum": [verdict.value for verdict in Verdict]},
    }
    required = list(properties)
    if measured:
        properties["measurements"] = {"type": "array", "items": measurement_schema()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "QualityDescription",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _check_free(name: str, text: str) -> None:
    if not 1 <= len(text) <= MAX_FREE_CHARS or not _FREE.fullmatch(text):
        raise DescriptionError(
            f"{name}: needs one line of 1 to {MAX_FREE_CHARS} printable ASCII characters without colon, "
            f"got {_short(text)}"
        )
    if text != text.strip() or text.endswith(".") or ". " in text:
        raise DescriptionError(f"{name}: needs one sentence without its final period, got {_short(text)}")


def _split_aspects(text: str, strict: bool) -> dict[str, str]:
    flags = 0 if strict else re.IGNORECASE
    text = text if strict else " ".join(text.split())
    if not strict:
        text = re.sub(r"overall,? the quality of this image is (\w+)", r"Verdict: \1", text, flags=flags)
    marks = list(re.finditer(rf"(?:^|(?<=\s))({'|'.join((*LABELS, MEASURED))}): ?", text, flags))
    aspects: dict[str, str] = {}
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=False):
        label = mark.group(1).capitalize()
        if label in aspects:
            raise DescriptionError(f"{label}: appears twice in {_short(text)}")
        aspects[label] = text[mark.end() : end].strip().removesuffix(".")
    missing = [label for label in LABELS if label not in aspects]
    if missing:
        raise DescriptionError(
            f"no {', '.join(missing)} in {_short(text)} A description has the labels "
            f"{', '.join(f'{label}:' for label in LABELS)}"
        )
    return aspects


def _read_image(content: str, strict: bool) -> tuple[Modality, Anatomy]:
    words = content if strict else content.lower()
    modality_words, separator, anatomy_words = words.partition(" of the ")
    if not separator and not strict:
        modality_words, separator, anatomy_words = words.partition(" of ")
    if not separator:
        raise DescriptionError(f"Image: needs '<modality> of the <anatomy>', got {_short(content)}")
    spelled = modality_words.lower()
    if not strict:
        spelled = re.sub(r" (image|scan|slice)$", "", spelled.removeprefix("a ").removeprefix("an "))
        spelled = _SYNONYMS.get(spelled, spelled)
    modality = Modality(_one_of("Image", spelled, list(Modality), strict))
    return modality, Anatomy(_one_of("Image", anatomy_words, list(Anatomy), strict))


def _read_degradations(content: str, strict: bool) -> tuple[Degradation, ...]:
    if _normal(content, strict) in ("none", "none found", "no degradation"):
        return ()
    found = []
    for part in content.split(" and "):
        grade, _, phrase = part.strip().partition(" ")
        severity = Severity(_one_of("Degradation", grade, [str(s) for s in list(Severity)[1:]], strict))
        phrases = {_normal(words, strict): task for task, words in PHRASES.items()}
        chosen = _one_of("Degradation", _normal(phrase, strict), list(phrases), strict)
        found.append(Degradation(phrases[chosen], severity))
    return tuple(found)


def _read_measurements(content: str | None) -> tuple[Measurement, ...]:
    try:
        return () if content is None else tuple(Measurement.from_words(part) for part in content.split("; "))
    except MeasurementError as error:
        raise DescriptionError(str(error)) from error


def _one_of(aspect: str, word: str, valid: list[str], strict: bool) -> str:
    choices = [str(choice) for choice in valid]
    if _normal(word, strict) in choices:
        return _normal(word, strict)
    near = difflib.get_close_matches(word.lower(), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DescriptionError(f"{aspect}: needs one of {', '.join(choices)}; got {_short(word)}{hint}")


def _normal(word: str, strict: bool) -> str:
    return word if strict else word.strip().lower()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...") + "."
