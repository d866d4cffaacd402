"""What the corrections of a round teach: how good the drafts were, examples for the next prompt, data to learn from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.majority import SLOTS, slots_of
from medq_uni.annotate.records import Draft, StoreError
from medq_uni.annotate.store import Store
from medq_uni.data.descriptions import description_line
from medq_uni.describers.prompts import Example, messages_for
from medq_uni.description import QualityDescription
from medq_uni.display import png_of, windows_of
from medq_uni.files import atomic_folder
from medq_uni.taxonomy import Modality


@dataclass(frozen=True)
class Correction:
    """A draft and what became of it."""

    draft: Draft
    result: QualityDescription
    how: str
    """``majority`` or ``adjudication``."""

    @property
    def distance(self) -> float:
        """Edit distance of the two texts; see :func:`edit_distance`."""
        return edit_distance(self.draft.description.to_text(), self.result.to_text())

    @property
    def changed(self) -> tuple[str, ...]:
        """Slots in which the two differ, cause and impact among them."""
        if self.draft.description == self.result:
            return ()
        before, after = slots_of(self.draft.description), slots_of(self.result)
        texts = [
            name for name in ("cause", "impact") if getattr(self.draft.description, name) != getattr(self.result, name)
        ]
        return (*(slot for slot in SLOTS if before[slot] != after[slot]), *texts)


@dataclass(frozen=True)
class RoundReport:
    """How good the drafts of a round were.

    Attributes:
        round: Its number.
        describers: Who drafted.
        images: Images whose result is known and that had a draft.
        accepted: Those of them whose draft was not changed at all.
        acceptance_rate: accepted over images; None without images.
        slots_right: Share of images in which no slot but cause and impact was changed; None without images.
        edit_distance: Mean over images of the normalised distance, 0 (the same) to 1; None without images.
        changed: How often every slot was changed.
    """

    round: int
    describers: tuple[str, ...]
    images: int
    accepted: int
    acceptance_rate: float | None
    slots_right: float | None
    edit_distance: float | None
    changed: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)


def edit_distance(one: str, other: str) -> float:
    """Return the Levenshtein distance of two texts over the length of the longer one, 0 to 1.

    Computed column by column with bits (Hyyro 2003, after Myers 1999).
    """
    if one == other:
        return 0.0
    if not one or not other:
        return 1.0
    places: dict[str, int] = {}
    for place, char in enumerate(one):
        places[char] = places.get(char, 0) | 1 << place
    full, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = full, 0, len(one)
    for char in other:
        match = places.get(char, 0)
        zero = (((match & up) + up) ^ up) | match | down
        right_up, right_down = down | ~(zero | up), up & zero
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = right_up << 1 | 1
        up = (right_down << 1 | ~(zero | right_up)) & full
        down = right_up & zero & full
    return distance / max(len(one), len(other))


def corrections(store: Store, round: int) -> Iterator[Correction]:
    """Yield every image of a round that has a draft and a result, by key."""
    drafts = {draft.key: draft for draft in store.drafts(round)}
    for image in store.outcomes.reviewed(round):
        result = image.result()
        if result is not None and image.key in drafts:
            yield Correction(drafts[image.key], result, image.how)


def measure_round(store: Store, round: int) -> RoundReport:
    """Return how good the drafts of a round were."""
    describers: set[str] = set()
    changed: Counter[str] = Counter()
    images = accepted = right = 0
    distances = 0.0
    for one in corrections(store, round):
        slots = one.changed
        describers.add(one.draft.describer)
        changed.update(slots)
        images += 1
        accepted += not slots
        right += not set(slots) - {"cause", "impact"}
        distances += one.distance if slots else 0.0
    return RoundReport(
        round=round,
        describers=tuple(sorted(describers)),
        images=images,
        accepted=accepted,
        acceptance_rate=accepted / images if images else None,
        slots_right=right / images if images else None,
        edit_distance=distances / images if images else None,
        changed=dict(changed),
    )


def choose_examples(store: Store, source: ImageSource, round: int, modality: Modality, count: int) -> list[Example]:
    """Return corrected images of a round to show before the next question.

    Those that were corrected most come first, and no combination of grades comes twice before all have come once.
    """
    found = [one for one in corrections(store, round) if one.result.modality is modality]
    found.sort(key=lambda one: (-len(one.changed), -one.distance, one.draft.key))
    seen: Counter[tuple[str, ...]] = Counter()
    ranked = []
    for place, one in enumerate(found):
        kind = tuple(slots_of(one.result).values())
        ranked.append((seen[kind], place, one))
        seen[kind] += 1
    chosen = [one for _, _, one in sorted(ranked, key=lambda item: item[:2])[:count]]
    return [Example(one.draft.key, source.image(one.draft.key), one.result) for one in chosen]


def write_tuning_data(store: Store, source: ImageSource, round: int, folder: Path) -> int:
    """Write what a describer can learn from a round, and return the number of images.

    ``descriptions.jsonl`` has key and description of every image, as :mod:`medq_uni.data.descriptions` reads them.
    ``chat.jsonl`` has the same as chats of question and answer with the pictures in ``pictures/``, in the form that
    fine-tuning programs of vision-language models read.

    Raises:
        StoreError: If no image of the round has a result.
    """
    found = list(corrections(store, round))
    if not found:
        raise StoreError(f"round {round} has no results yet. Wait for the reviews.")
    with atomic_folder(folder) as temporary:
        (temporary / "pictures").mkdir()
        with (
            (temporary / "descriptions.jsonl").open("w", encoding="utf-8") as words,
            (temporary / "chat.jsonl").open("w", encoding="utf-8") as chats,
        ):
            for one in found:
                key, image = one.draft.key, source.image(one.draft.key)
                words.write(json.dumps(description_line(key, one.result, round, one.how)) + "\n")
                names = []
                for number, window in enumerate(windows_of(image), start=1):
                    names.append(f"pictures/{key}-{number}.png")
                    (temporary / names[-1]).write_bytes(png_of(image, window))
                question = _with_files(messages_for(image), names)
                answer = {"role": "assistant", "content": json.dumps(one.result.to_dict())}
                chats.write(json.dumps({"messages": [*question, answer]}) + "\n")
    return len(found)


def _with_files(messages: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Return messages with file names in the place of the pictures, in their order."""
    left = iter(names)
    plain = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                {"type": "image", "image": next(left)} if part["type"] == "image_url" else part for part in content
            ]
        plain.append(message | {"content": content})
    return plain
