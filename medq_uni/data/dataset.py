"""Datasets of pairs: built by a recipe, split by subject, in shards that can be verified byte by byte."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.config import ConfigError
from medq_uni.config_json import RENAMED, read_json
from medq_uni.data import readers
from medq_uni.data.pairs import PairsConfig, draw_pair, volume_of
from medq_uni.data.shards import THUMBNAIL, DatasetError, StoredPair, read_shard, store, write_shard
from medq_uni.data.sources import SPLIT_ENDS
from medq_uni.distribute import WorkerError, map_items
from medq_uni.files import file_digest, write_text
from medq_uni.json_text import load_json, parse_json

FORMAT = 1
MANIFEST, INDEX, RECIPE = "dataset.json", "index.jsonl", "recipe.json"
DUPLICATE_CORRELATION = 0.9995
"""Slices of two subjects whose small pictures correlate more than this count as one scan under two names."""


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe:
    """What a dataset holds."""

    name: str
    """What it is called."""
    about: tuple[str, ...] = ()
    """Command, size, hours, for people."""
    splits: dict[str, PairsConfig]
    """Sides of the dataset, each drawn from its own split of the sources."""
    pairs_per_shard: int = 200
    """Pairs in every shard but the last of a split."""
    wrong_labels: float = 0.0
    """Probability with which every slot of a description is made wrong (noisy pseudo-labels); recorded."""
    content_sha256: str | None = None
    """Pinned content hash; a build that holds anything else fails."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.splits or self.pairs_per_shard < 1:
            raise ConfigError(f"{self.name}: needs at least one split and one pair per shard.")
        seeds = [pairs.seed for pairs in self.splits.values()]
        if len(set(seeds)) != len(seeds):
            raise ConfigError(f"{self.name}: two splits have the same seed, so they would share phantoms.")
        if any(pairs.unseen for name, pairs in self.splits.items() if name != "test"):
            raise ConfigError(f"{self.name}: unseen pairs are a test of generality; only the split test may have them.")
        unknown = [name for name in self.splits if not name.isidentifier()]
        if unknown:
            raise ConfigError(f"{self.name}: {unknown[0]!r} is no name for a split; use letters and digits.")
        for name, pairs in self.splits.items():
            if name in SPLIT_ENDS and pairs.split != name and pairs.data and pairs.wants_real:
                raise ConfigError(
                    f"{self.name}: the side {name!r} would be drawn from the volumes of split {pairs.split!r}. "
                    f'Write "split": "{name}" there, or "real_fraction": 0 if it wants phantoms alone.'
                )

    def with_sources(self, data: tuple[str, ...]) -> DatasetRecipe:
        """Return the recipe with other sources of real volumes on every side that wants some.

        Raises:
            ConfigError: If the side train, val or test would be drawn from another split of the sources.
        """
        wanting = {name: replace(pairs, data=data) for name, pairs in self.splits.items() if pairs.wants_real}
        return replace(self, splits=self.splits | wanting)


def read_dataset_recipe(path: Path) -> DatasetRecipe:
    """Return the dataset recipe of a JSON file.

    Raises:
        ConfigError: If the file is missing or wrong; the message names the key.
    """
    return read_json(DatasetRecipe, path, where="recipes/ and benchmark/")


@dataclass(frozen=True)
class ShardJob:
    """One shard to write."""

    split: str
    number: int

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"{self.split}-{self.number:06d}.tar"


class Dataset:
    """A finished dataset.

    Attributes:
        folder: Where it lies.
        manifest: What ``dataset.json`` says: recipe, shards with sizes and hashes, content hash.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a dataset.

        Raises:
            DatasetError: If it is missing, unfinished, or of a format that this software cannot read.
        """
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            is_begun = (self.folder / RECIPE).is_file()
            hint = "Its build did not finish; run it again." if is_begun else "Build one with: medq dataset build"
            raise DatasetError(f"{self.folder.name}: no finished dataset here. {hint}")
        try:
            self.manifest: dict[str, Any] = load_json(path)
            known = self.manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path.name}: damaged ({type(error).__name__}). Build the dataset again.") from error
        if known != FORMAT:
            raise DatasetError(f"{path.name}: has format {known}, this software reads format {FORMAT}.")

    def __len__(self) -> int:
        return sum(shard["pairs"] for shard in self.manifest["shards"])

    def index(self) -> Iterator[dict[str, Any]]:
        """Yield what is known about every pair, without its voxels.

        Raises:
            OSError: If the index is gone.
        """
        with (self.folder / INDEX).open(encoding="utf-8") as file:
            for line in file:
                yield parse_json(line)

    def pairs(self, split: str | None = None) -> Iterator[StoredPair]:
        """Yield the pairs of one split, or of all.

        Raises:
            DatasetError: If a shard is missing or damaged.
        """
        for shard in self.manifest["shards"]:
            if split is None or shard["split"] == split:
                yield from read_shard(self.folder / shard["name"])


def build_dataset(
    recipe: DatasetRecipe,
    folder: str | Path,
    *,
    workers: int = 1,
    address: str | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Dataset:
    """Write the dataset of a recipe; shards that are there already are kept, so an interrupted build goes on.

    The bytes depend on the recipe and the sources alone, not on workers, machines or interruptions.

    Args:
        recipe: What to draw.
        folder: Where to; new, empty, or begun with the same recipe.
        workers: Processes on this machine, or tasks at a time on Ray.
        address: Ray cluster to run on, ``auto`` or ``ray://host:port``; the folder must be shared with it.
        strict: Whether a problem of a source (missing file, wrong dose pair, broken slice) stops the build.
        progress: Called with the number of pairs done and the total.
        warn: Called with every problem of a source.

    Raises:
        DatasetError: If the folder holds another dataset, a source is unusable, or one subject or scan is on two sides.
        ManifestError: If a source does not exist, or holds nothing that can be used.
    """
    folder = Path(folder)
    problems = _check_sources(recipe, strict, warn)
    _claim(recipe, folder)
    jobs = [
        ShardJob(split, number)
        for split, pairs in recipe.splits.items()
        for number in range(-(-pairs.count // recipe.pairs_per_shard))
    ]
    total = sum(pairs.count for pairs in recipe.splits.values())
    shards: list[dict[str, Any]] = []
    metas: list[dict[str, Any]] = []
    make = functools.partial(_make_shard, recipe, folder)
    try:
        for job, (shard, made) in zip(jobs, map_items(make, jobs, workers=workers, address=address), strict=True):
            shards.append({"name": job.name, "split": job.split, **shard})
            metas += [{**meta, "shard": job.name} for meta in made]
            if progress is not None:
                progress(len(metas), total)
    except WorkerError as error:
        raise DatasetError(f"{error} Shards that are finished are kept; run the same command to go on.") from error
    _finish(recipe, folder, shards, metas, problems)
    return Dataset(folder)


def _finish(
    recipe: DatasetRecipe,
    folder: Path,
    shards: list[dict[str, Any]],
    metas: list[dict[str, Any]],
    problems: list[str],
) -> None:
    """Check the whole, then write the index and, last, the manifest."""
    leaks = leaks_between_splits(metas)
    if leaks:
        raise DatasetError(f"{len(leaks)} leaks between splits, the first: {leaks[0]}")
    content = content_hash(metas)
    if recipe.content_sha256 not in (None, content):
        raise DatasetError(
            f"{recipe.name}: the content hash is {content[:16]}..., the recipe pins {recipe.content_sha256[:16]}... "
            "The sources or the software differ from those that it was made with."
        )
    write_text(folder / INDEX, "".join(json.dumps(meta, sort_keys=True) + "\n" for meta in metas))
    manifest = {
        "format": FORMAT,
        "name": recipe.name,
        "recipe": asdict(recipe),
        "shards": shards,
        "index_sha256": file_digest(folder / INDEX),
        "content_sha256": content,
        "problems": problems,
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def content_hash(metas: list[dict[str, Any]]) -> str:
    """Return the sha256 of what a dataset holds: sources, records, grades and words, but no voxels.

    Voxels differ in their last bits between machines; what was drawn does not.
    """
    kept = ("key", "task", "severity", "anatomy", "subject", "volume", "slice", "shape", "records", "description")
    text = json.dumps([{key: meta[key] for key in kept} for meta in metas], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def leaks_between_splits(metas: list[dict[str, Any]]) -> list[str]:
    """Return every subject that is on two sides, then every near-duplicate slice."""
    sides: dict[str, str] = {}
    leaks = [
        f"subject {meta['subject']} is in {sides[meta['subject']]} and in {meta['split']}."
        for meta in metas
        if sides.setdefault(meta["subject"], meta["split"]) != meta["split"]
    ]
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for meta in metas:
        if meta["source"] == "real":
            groups.setdefault((meta["modality"], meta["split"]), {})[meta["thumbnail"]] = meta["key"]
    names = sorted(groups)
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            if names[first][0] == names[second][0]:
                leaks += _near_duplicates(groups[names[first]], groups[names[second]])
    return list(dict.fromkeys(leaks))


def _near_duplicates(one: dict[str, str], other: dict[str, str]) -> list[str]:
    left, right = _unit_rows(list(one)), _unit_rows(list(other))
    keys, others = list(one.values()), list(other.values())
    found = []
    for start in range(0, len(left), 1024):  # 1024 rows at a time keep memory small
        for row, column in np.argwhere(left[start : start + 1024] @ right.T > DUPLICATE_CORRELATION):
            found.append(
                f"{keys[start + row]} and {others[column]} show nearly the same slice under two subjects. "
                "Leave one of the scans out."
            )
    return found


def _unit_rows(thumbnails: list[str]) -> np.ndarray:
    rows = np.array([list(bytes.fromhex(text)) for text in thumbnails], dtype=np.float32)
    rows = rows.reshape(-1, THUMBNAIL**2)
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


def _make_shard(recipe: DatasetRecipe, folder: Path, job: ShardJob) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write one shard unless it is there, and return its size, hash and index lines."""
    path = folder / job.name
    metas = _kept(path)
    if metas is None:
        pairs = recipe.splits[job.split]
        first = job.number * recipe.pairs_per_shard
        indices = range(first, min(first + recipe.pairs_per_shard, pairs.count))
        drawn: dict[int, StoredPair] = {}
        for index in sorted(indices, key=lambda index: (volume_of(pairs, index), index)):  # reads every volume once
            pair = draw_pair(pairs, index)
            drawn[index] = store(pair, split=job.split, index=index, seed=pairs.seed, wrong_labels=recipe.wrong_labels)
        write_shard(path, (drawn[index] for index in indices))
        metas = [drawn[index].meta for index in indices]
    return {"pairs": len(metas), "bytes": path.stat().st_size, "sha256": file_digest(path)}, metas


def _kept(path: Path) -> list[dict[str, Any]] | None:
    """Return the index lines of a shard that an earlier run finished; None if there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return [pair.meta for pair in read_shard(path)]
    except DatasetError:
        return None


def _check_sources(recipe: DatasetRecipe, strict: bool, warn: Callable[[str], None] | None) -> list[str]:
    bare = next((name for name, pairs in recipe.splits.items() if pairs.wants_only_real and not pairs.data), None)
    if bare is not None:
        raise DatasetError(
            f"{recipe.name}: split {bare} wants real volumes alone and has no source. "
            "Pass sources (--source KIND:FOLDER)."
        )
    sources = sorted({source for pairs in recipe.splits.values() for source in pairs.data})
    problems = readers.problems_of(sources)
    for problem in problems:
        if warn is not None:
            warn(problem)
    if problems and strict:
        raise DatasetError(f"{len(problems)} problems with the sources, the first: {problems[0]}")
    return problems


def _claim(recipe: DatasetRecipe, folder: Path) -> None:
    """Make the folder this recipe's, or refuse."""
    text = json.dumps(asdict(recipe), indent=1, sort_keys=True) + "\n"
    path = folder / RECIPE
    if path.is_file():
        if _with_present_keys(path.read_text(encoding="utf-8")) != json.loads(text):
            raise DatasetError(f"{folder.name}: holds a dataset of another recipe. Choose another folder.")
    elif folder.is_dir() and any(folder.iterdir()):
        raise DatasetError(f"{folder.name}: the folder is not empty. Choose another one.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def _with_present_keys(text: str) -> Any:
    """Return the recipe of a folder that an earlier version began, its keys as they are called now; None if damaged."""
    try:
        values = parse_json(text)
        for name, pairs in values["splits"].items():
            values["splits"][name] = {RENAMED.get(key, key): value for key, value in pairs.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return values
