"""Drafts: what a describer says about every image before an expert looks at it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from medq_uni.annotate.images import DatasetImages, ImageSource
from medq_uni.annotate.records import StoreError
from medq_uni.annotate.store import Store
from medq_uni.data.shards import records_of
from medq_uni.describers.client import BudgetSpent, in_order
from medq_uni.describers.describer import PATIENCE, Answer, Describer, Outcome, Subject
from medq_uni.describers.record import RecordDescriber, recorded
from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.taxonomy import Anatomy, Modality


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
    progress: Callable[[int, int], None] | None = None,
) -> DraftReport:
    """Draft the images of a source that have no draft in a round; run it again to go on.

    Args:
        store: Where drafts go; images that it does not know are added.
        source: Of the images.
        describer: Says what is wrong. What it warns of is warned of here.
        round: Number of the round, from 1.
        limit: Most images to draft now; None drafts all.
        progress: Called with the number of images done and the total.

    Raises:
        MedQError: If records are asked for, and the images come from a folder, which has none.
        StoreError: If the store cannot be written, for example because the disk is full; what was drafted is kept.
    """
    _check_records(describer, source)
    keys = pending_keys(store, source, round)
    kept = sum(1 for _ in source.records()) - len(keys)
    keys = keys[:limit]

    def draft(key: str) -> Answer:
        answer = describer(subject_of(store, source, key))
        if answer.description is not None:
            store.add_draft(key, round, describer.name, answer.description)
        return answer

    tally = _Tally()
    ahead = 1 if describer.threads == 1 else 2 * describer.threads  # one slow image does not let the others wait
    with ThreadPoolExecutor(describer.threads) as pool:
        for number, (key, future) in enumerate(in_order(pool, draft, keys, ahead), start=1):
            tally.count(key, future)
            if progress is not None:
                progress(number, len(keys))
            if tally.stopped:
                break
    undrafted = set(store.undrafted(round))
    drafted = sum(key not in undrafted for key in keys)
    return DraftReport(drafted, kept, tuple(tally.failed), tally.stopped)


@dataclass
class _Tally:
    """What came of the images so far."""

    failed: list[tuple[str, str]] = field(default_factory=list)
    unanswered: int = 0
    """Images in a row that a server left without any answer."""
    stopped: str = ""

    def count(self, key: str, future: Future[Answer]) -> None:
        """Note what came of an image, and whether the run has to stop."""
        try:
            answer = future.result()
        except StoreError:
            raise
        except BudgetSpent as error:
            self.stopped = str(error)
            return
        except (MedQError, OSError) as error:
            answer = Answer(Outcome.FAILED, reason=str(error))
        self.unanswered = 0 if answer.is_final else self.unanswered + 1
        if answer.description is None:
            self.failed.append((key, answer.reason))
        if answer.warning:
            warnings.warn(answer.warning, stacklevel=3)
        if self.unanswered == PATIENCE:
            self.stopped = f"stopped: {PATIENCE} images in a row got no answer. {answer.reason}"


def _check_records(describer: Describer, source: ImageSource) -> None:
    if isinstance(describer, RecordDescriber) and not isinstance(source, DatasetImages):
        raise MedQError("these images have no degradation records; only a dataset has. Use another --describer.")


def subject_of(store: Store, source: ImageSource, key: str) -> Subject:
    """Return what a describer is shown of an image: with the modality that the store knows, and what its records say.

    Raises:
        StoreError: If store or source have no such image.
        MedQError: If it cannot be read.
    """
    image = source.image(key)
    if image.modality is None:
        image = replace(image, modality=store.image(key).modality)
    return Subject(image, truth_in(source, key), key)


def truth_in(source: ImageSource, key: str) -> QualityDescription | None:
    """Return what the records of an image say, in words that depend on its key alone; None where it has none."""
    if not isinstance(source, DatasetImages):
        return None
    meta = source.meta(key)
    return recorded(Modality(meta["modality"]), Anatomy(meta["anatomy"]), records_of(meta), key)


def pending_keys(store: Store, source: ImageSource, round: int) -> list[str]:
    """Return the keys of a source's images without a draft in a round; what the store does not know is added."""
    records = list(source.records())
    store.add_images(records)
    undrafted = set(store.undrafted(round))
    return [record.key for record in records if record.key in undrafted]
