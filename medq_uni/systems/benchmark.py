"""A benchmark by path: a built dataset, a dataset recipe, a folder of recipes, or a list of image files."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medq_uni.config import ConfigError
from medq_uni.data.dataset import MANIFEST, DatasetRecipe, read_dataset_recipe
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.io.read_write import read_image
from medq_uni.systems.cases import Case, dataset_cases, drawn_cases, set_hash
from medq_uni.taxonomy import Severity, Task

LIST = "benchmark.csv"
Word = TypeVar("Word", Task, Severity)
COLUMNS = ("degraded", "reference", "task", "severity", "subject")


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Slices that are scored, and others on which filters are tuned."""

    name: str
    test: tuple[Case, ...]
    val: tuple[Case, ...]
    """Never scored; empty where the benchmark has no split of that name."""
    unreadable: tuple[str, ...] = ()
    """Why listed pairs cannot be scored, one line each."""

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the scored slices and their references."""
        return set_hash(self.test)


def read_benchmarks(path: Path, sources: Sequence[str] = ()) -> list[Benchmark]:
    """Return the benchmarks at a path.

    Args:
        path: Folder of a built dataset; a dataset recipe, whose pairs are drawn here and now; a folder of recipes; or a
            folder with ``benchmark.csv``, a row for each pair of image files: degraded and reference (paths inside the
            folder), task, severity, subject, and if wanted split (test or val).
        sources: Real volumes (FOLDER or KIND:FOLDER) for recipes that want some; without any, those that want a share
            are drawn of phantoms, and in a folder of recipes those that want real volumes alone are left out.

    Raises:
        ConfigError: If there is no benchmark at the path, it has no test split, it wants volumes and there are none, or
            a side would be drawn from the volumes of another split.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        splits = {name: tuple(dataset_cases(path, name)) for name in ("test", "val")}
        return [_checked(Benchmark(path.name, splits["test"], splits["val"]), path)]
    if (path / LIST).is_file():
        return [_checked(_listed(path), path)]
    if path.is_file():
        return [_drawn(path, read_dataset_recipe(path), sources)]
    recipes = sorted(path.glob("*.json")) if path.is_dir() else []
    if not recipes:
        raise ConfigError(
            f"{path} is no benchmark. Give the folder of a dataset that was built (medq dataset build), a dataset "
            f"recipe, a folder of recipes, or a folder with {LIST}."
        )
    read = [(one, read_dataset_recipe(one)) for one in recipes]
    drawn = [_drawn(one, recipe, sources) for one, recipe in read if sources or not _is_real(recipe)]
    if not drawn:
        raise ConfigError(f"all benchmarks in {path} are made of real volumes. Say where they are with --source.")
    return drawn


def _is_real(recipe: DatasetRecipe) -> bool:
    test = recipe.splits.get("test")
    return test is not None and test.wants_only_real


def _drawn(path: Path, recipe: DatasetRecipe, sources: Sequence[str]) -> Benchmark:
    if _is_real(recipe) and not sources:
        raise ConfigError(f"{path} is made of real volumes. Say where they are with --source.")
    recipe = recipe.with_sources(tuple(sources)) if sources else recipe
    splits = {name: tuple(drawn_cases(pairs)) for name, pairs in recipe.splits.items() if name in ("test", "val")}
    return _checked(Benchmark(path.stem, splits.get("test", ()), splits.get("val", ())), path)


def _listed(folder: Path) -> Benchmark:
    """Read the pairs of ``benchmark.csv``; what cannot be read is listed and not lost."""
    found: dict[str, list[Case]] = {"test": [], "val": []}
    unreadable = []
    text = (folder / LIST).read_text(encoding="utf-8-sig")  # spreadsheets write a mark in front
    first = text.partition("\n")[0]
    with io.StringIO(text) as file:
        reader = csv.DictReader(file, delimiter=";" if first.count(";") > first.count(",") else ",")
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if lacking:
            raise ConfigError(f"{folder / LIST} has no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}.")
        for number, row in enumerate(reader, start=2):
            try:
                split = row.get("split") or "test"
                if split not in found:
                    raise MedQError(f"split {split!r} is none of {', '.join(found)}")
                task, severity = _one_of(Task, row["task"]), _one_of(Severity, row["severity"])
                if not row["subject"]:
                    raise MedQError("subject is missing; images of one subject are resampled together")
                images = [_file(folder, row[name] or "", task) for name in ("degraded", "reference")]
                if images[0].shape != images[1].shape:
                    raise MedQError(f"degraded is {images[0].shape} and reference {images[1].shape}")
                degraded, reference = images
                found[split].append(
                    Case(task, severity, row["subject"], "files", degraded=degraded, reference=reference)
                )
            except (MedQError, OSError) as error:
                unreadable.append(f"{LIST} line {number}: {error}".splitlines()[0])
    return Benchmark(folder.name, tuple(found["test"]), tuple(found["val"]), tuple(unreadable))


def _file(folder: Path, name: str, task: Task) -> MedicalImage:
    if not (folder / name).is_file():
        raise MedQError(f"{name or 'an unnamed file'} is missing")
    return read_image(folder / name, modality=task.modality)


def _one_of(words: type[Word], text: str) -> Word:
    if text not in list(words):
        raise MedQError(f"{text!r} is none of {', '.join(words)}")
    return words(text)


def _checked(benchmark: Benchmark, path: Path) -> Benchmark:
    if not benchmark.test:
        why = "".join(f"\n  {line}" for line in benchmark.unreadable[:5])
        raise ConfigError(f"{path} has no pair in its split test that can be scored.{why}")
    return benchmark
