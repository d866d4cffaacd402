"""Drafts: what a describer says about every image before an expert looks at it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from medq_uni.annotate.images import DatasetImages, ImageSource
from medq_uni.annotate.records import StoreError
from medq_uni.annotate.store import Store
from medq_uni.data.reference_text import describe
from medq_uni.data.shards import records_of
from medq_uni.describers.chat import BudgetSpent, ServerDown, in_order
from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.seeding import generator_of, seed_of
from medq_uni.taxonomy import Anatomy, Modality

PATIENCE = 3
"""Images in a row that a describer may leave without any answer before the run stops."""


class Describer(Protocol):
    """Says what is wrong with a slice."""

    name: str
    """What the store calls it."""

    def __call__(self, key: str, image: MedicalImage) -> QualityDescription:
        """Return the description of a slice.

        Raises:
            MedQError: If it cannot say.
        """


class FunctionDescriber:
    """A describer from a function, for example the assessment of a model of our own."""

    def __init__(self, name: str, function: Callable[[MedicalImage], QualityDescription]) -> None:
        self.name, self._function = name, function

    def __call__(self, key: str, image: MedicalImage) -> QualityDescription:
        """Return what the function says."""
        return self._function(image)


class RecordDescriber:
    """Says what the degradation records of a dataset say, in words that depend on the key alone."""

    name = "record"

    def __init__(self, source: ImageSource) -> None:
        """Take the records of a dataset.

        Raises:
            MedQError: If the images come from a folder, which has no records.
        """
        if not isinstance(source, DatasetImages):
            raise MedQError("these images have no degradation records; only a dataset has. Use another --describer.")
        self._source = source

    def __call__(self, key: str, image: MedicalImage) -> QualityDescription:
        """Return the description that follows from the records of a pair."""
        meta = self._source.meta(key)
        seed = seed_of(key, num_bytes=4)
        return describe(
            Modality(meta["modality"]), Anatomy(meta["anatomy"]), records_of(meta), generator_of(seed, 0, 3)
        )


@dataclass(frozen=True)
class DraftReport:
    """What a run did.

    Attributes:
        drafted: Images that got a draft now.
        kept: Images that had one already.
        failed: (key, reason) of the others.
        stopped: Why the run stopped early; empty where it did not.
    """

    drafted: int
    kept: int
    failed: tuple[tuple[str, str], ...]
    stopped: str = ""


def draft_images(
    store: Store,
    source: ImageSource,
    describer: Describer,
    *,
    round: int = 1,
    limit: int | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DraftReport:
    """Draft the images of a source that have no draft in a round; run it again to go on.

    Args:
        store: Where drafts go; images that it does not know are added.
        source: Of the images.
        describer: Says what is wrong.
        round: Number of the round, from 1.
        limit: Most images to draft now; None drafts all.
        threads: Images at a time.
        progress: Called with the number of images done and the total.

    Raises:
        StoreError: If the store cannot be written, for example because the disk is full; what was drafted is kept.
    """
    keys = pending_keys(store, source, round)
    kept = sum(1 for _ in source.records()) - len(keys)
    keys = keys[:limit]
    failed: list[tuple[str, str]] = []
    zero_init, stopped = 0, ""

    def draft(key: str) -> None:
        image = source.image(key)
        if image.modality is None:
            image = replace(image, modality=store.image(key).modality)
        store.add_draft(key, round, describer.name, describer(key, image))

    ahead = 1 if threads == 1 else 2 * threads  # one slow image does not let the other threads wait
    with ThreadPoolExecutor(threads) as pool:
        for number, (key, future) in enumerate(in_order(pool, draft, keys, ahead), start=1):
            try:
                future.result()
                zero_init = 0
            except StoreError:
                raise
            except BudgetSpent as error:
                stopped = str(error)
            except (ValueError, OSError) as error:
                zero_init = zero_init + 1 if isinstance(error, ServerDown) else 0
                failed.append((key, str(error)))
            if zero_init == PATIENCE:
                stopped = f"stopped: {PATIENCE} images in a row got no answer. {failed[-1][1]}"
            if progress is not None:
                progress(number, len(keys))
            if stopped:
                break
    undrafted = set(store.undrafted(round))
    return DraftReport(sum(key not in undrafted for key in keys), kept, tuple(failed), stopped)


def pending_keys(store: Store, source: ImageSource, round: int) -> list[str]:
    """Return the keys of a source's images without a draft in a round; what the store does not know is added."""
    records = list(source.records())
    store.add_images(records)
    undrafted = set(store.undrafted(round))
    return [record.key for record in records if record.key in undrafted]
