"""What a training step meets: crops, words, start and time. Drawn apart from the computation, so that it can run ahead.

Every process draws the whole batch from the same random numbers; each then computes its own samples of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medq_uni.config import ModelConfig
from medq_uni.data.batches import Batch, BatchSampler, edited_target, moved_target
from medq_uni.data.describe import Instruction, instruction
from medq_uni.data.pairs import generator_of, randint
from medq_uni.data.pool import PoolItem
from medq_uni.description import DEFAULT_RESTORE, FOLLOW_REPORT
from medq_uni.taxonomy import NOISES, Severity
from medq_uni.train.recipe import Layout, StageConfig
from medq_uni.train.shapes import Shape, shapes_of
from medq_uni.train.words import Words

STRENGTHS = {"gentler": 0.5, "stronger": 1.25}
"""Share of a full restoration that an instruction asks for."""


@dataclass(frozen=True, eq=False)
class Told:
    """What each sample of a batch is told, and what it should become."""

    instructions: list[list[int]]
    descriptions: list[list[int]]
    has_description: list[bool]
    is_reference: list[bool]
    """Samples whose description tokens are trained."""
    target: Float[Tensor, "B 2 H W"]

    def part(self, rows: slice, device: torch.device) -> Told:
        """Return what some of the samples are told."""
        return Told(
            self.instructions[rows],
            self.descriptions[rows],
            self.has_description[rows],
            self.is_reference[rows],
            self.target[rows].to(device),
        )

    @property
    def num_labels(self) -> int:
        """Description tokens that are trained, one for the end of each text among them."""
        texts = zip(self.descriptions, self.is_reference, strict=True)
        return sum(len(ids) + 1 for ids, is_reference in texts if is_reference)


@dataclass(frozen=True, eq=False)
class Bridge:
    """Between what a restoration of a batch starts from, and when."""

    x1: Float[Tensor, "B c h w"] | None
    """Noise; None starts from the degraded latent."""
    t: Float[Tensor, " B"]
    is_decoded: Bool[Tensor, " B"]
    """Samples whose pixel losses count."""
    num_decoded: int
    """Their number in the batch of all processes."""

    def part(self, rows: slice, device: torch.device) -> Bridge:
        """Return the starts of some of the samples."""
        x1 = None if self.x1 is None else self.x1[rows].to(device)
        return Bridge(x1, self.t[rows].to(device), self.is_decoded[rows].to(device), self.num_decoded)


@dataclass(frozen=True, eq=False)
class Draw:
    """One step's worth of samples, of all processes."""

    layout: Layout
    """A joint stage draws assess or joint."""
    batch: Batch
    told: Told | None = None
    """For restore and joint."""
    bridge: Bridge | None = None
    """For restore and joint."""
    questions: list[list[int]] | None = None
    """Instruction tokens of every sample, for assess, and for joint where it assesses beside."""
    answers: list[list[tuple[int, bool]]] | None = None
    """Description tokens of every sample, each with whether it fills a slot, where there are questions."""
    t: Float[Tensor, " B"] | None = None
    """Uniform in [0, 1], for peers that learn to restore in steps."""


@dataclass(frozen=True, eq=False)
class Streams:
    """Random numbers of one step, by what they choose.

    So every layout, and every peer, meets the same crops in the same order, whatever else it draws: in short trainings
    an order is worth tenths of a dB.
    """

    crops: torch.Generator
    seen: torch.Generator
    """Of the assessor's view."""
    other: torch.Generator
    """Words, starts and times."""

    @classmethod
    def of(cls, generator: torch.Generator) -> Streams:
        """Return those of the next step of a stage."""
        seed = randint(2**62, generator)
        return cls(*(generator_of(seed, number) for number in range(3)))


@dataclass(frozen=True, eq=False)
class Drawer:
    """Draws the steps of a stage.

    Attributes:
        words: What is said about the pairs.
        stage: What is trained.
        model: Sizes of the network.
        sampler: Where batches come from.
        generated: Description tokens that the model wrote about pairs of the pool, by index.
        world: Processes among which a step is divided.
    """

    words: Words
    stage: StageConfig
    model: ModelConfig
    sampler: BatchSampler
    generated: Mapping[int, list[int]]
    world: int = 1

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What its steps may hold, smallest crops first."""
        return shapes_of(self.stage, self.model, world=self.world)

    def draw(self, generator: torch.Generator) -> Draw:
        """Return the next step."""
        stage, layout, streams = self.stage, self.stage.layout, Streams.of(generator)
        generator = streams.other
        if layout == "joint" and float(torch.rand(1, generator=generator)) < stage.assess_share:
            layout = "assess"
        batch = _batch(self.sampler, self.shapes, streams, sees=layout in ("assess", "joint"))
        if layout == "codec":
            return Draw(layout, batch)
        is_asked = layout == "assess" or stage.assess_beside
        questions, answers = self._asked(batch, generator) if is_asked else (None, None)
        if layout == "assess":
            return Draw(layout, batch, questions=questions, answers=answers)
        told = self._told(batch, generator) if layout == "joint" else self._untold(batch)
        return Draw(layout, batch, told, self._bridge(batch, generator), questions, answers)

    def _asked(self, batch: Batch, generator: torch.Generator) -> tuple[list[list[int]], list[list[tuple[int, bool]]]]:
        """Return questions about the pairs, and what answers them."""
        answers = [self.words.slots(index, generator) for index in batch.index]
        encode = self.words.tokenizer.encode
        return [encode(instruction("assess", generator)) for _ in batch.index], answers

    def _bridge(self, batch: Batch, generator: torch.Generator) -> Bridge:
        """Draw the start and the time of every sample."""
        stage, codec = self.stage, self.model.codec
        count, _, height, width = batch.degraded.shape
        from_noise = float(torch.rand(1, generator=generator)) < stage.noise_start
        shape = (count, codec.latent_channels, height // codec.downsample, width // codec.downsample)
        x1 = torch.randn(shape, generator=generator) if from_noise else None
        t = torch.rand(count, generator=generator)
        t[torch.rand(count, generator=generator) < stage.final_time] = 1.0
        is_decoded = t <= (stage.noise_pixel_time if from_noise else 1.0)
        return Bridge(x1, t, is_decoded, int(is_decoded.sum()))

    def _untold(self, batch: Batch) -> Told:
        words = self.words.tokenizer.encode(DEFAULT_RESTORE)
        none = [False] * len(batch.index)
        return Told([words] * len(none), [[]] * len(none), none, none, batch.reference)

    def _told(self, batch: Batch, generator: torch.Generator) -> Told:
        """Draw, for each sample, whether it meets the true report, its own, an edited one, an instruction, or none."""
        mix = self.stage.text
        told = Told([], [], [], [], batch.reference.clone())
        for place, index in enumerate(batch.index):
            item = self.sampler.pool.items[index]
            draw = float(torch.rand(1, generator=generator))
            words, text, is_reference = DEFAULT_RESTORE, None, False
            if draw < mix.reference or (draw < mix.reference + mix.generated and index not in self.generated):
                text, is_reference = self.words.tokens(index, generator), not self.stage.assess_beside
                words = instruction("restore", generator)
            elif draw < mix.reference + mix.generated:
                text = self.generated[index]
            elif draw < mix.reference + mix.generated + mix.edited:
                stated = Severity.from_level(randint(4, generator))
                text, words = self.words.tokens(index, generator, stated), FOLLOW_REPORT
                told.target[place] = edited_target(
                    batch.degraded[place], batch.reference[place], true=item.severity, stated=stated
                )
            elif draw < mix.reference + mix.generated + mix.edited + mix.misread:
                text, words = self.words.misread(index, generator), instruction("restore", generator)
            elif draw < mix.reference + mix.generated + mix.edited + mix.misread + mix.instructed:
                words, strength = self._instructed(item, generator)
                told.target[place] = moved_target(batch.degraded[place], batch.reference[place], strength)
            told.instructions.append(self.words.tokenizer.encode(words))
            told.descriptions.append(text or [])
            told.has_description.append(text is not None)
            told.is_reference.append(is_reference)
        return told

    def _instructed(self, item: PoolItem, generator: torch.Generator) -> tuple[str, float]:
        """Draw an instruction that asks for less, for more, or for noise alone, and the share of the way it means.

        Noise alone is asked of pairs with one degradation: it means everything or nothing.
        """
        kinds: list[Instruction] = ["gentler", "stronger"]
        kinds += ["denoise"] if item.num_degradations == 1 else []
        kind = kinds[randint(len(kinds), generator)]
        strength = float(item.task in NOISES) if kind == "denoise" else STRENGTHS[kind]
        return instruction(kind, generator), strength


@dataclass(frozen=True, eq=False)
class PeerDrawer:
    """Draws the steps of a stage of a peer.

    Attributes:
        stage: What is trained.
        sampler: Where batches come from.
        world: Processes among which a step is divided.
    """

    stage: StageConfig
    sampler: BatchSampler
    world: int = 1

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What its steps may hold, smallest crops first."""
        return shapes_of(self.stage, None, world=self.world)

    def draw(self, generator: torch.Generator) -> Draw:
        """Return the next step."""
        streams = Streams.of(generator)
        batch = _batch(self.sampler, self.shapes, streams, sees=False)
        return Draw("peer", batch, t=torch.rand(len(batch.index), generator=streams.other))


def _batch(sampler: BatchSampler, shapes: Sequence[Shape], streams: Streams, *, sees: bool) -> Batch:
    shape = shapes[randint(len(shapes), streams.crops)] if len(shapes) > 1 else shapes[0]
    seen = streams.seen if sees else None
    return sampler.draw(shape.count, crop=shape.side, generator=streams.crops, seen=seen)


class Feed:
    """Draws one step ahead of the computation, on a thread of its own.

    The random numbers that a step was drawn from end at :attr:`state`: a checkpoint with it goes on with the next step,
    as if nothing had been drawn ahead.

    Args:
        drawer: Draws the steps.
        state: State of the random numbers before the first.
    """

    def __init__(self, drawer: Drawer | PeerDrawer, state: Tensor) -> None:
        self.drawer, self.state = drawer, state
        self.seconds = 0.0
        """Time for which the computation waited."""
        self.samples = 0
        """Samples that were taken."""
        self._generator = torch.Generator()
        self._generator.set_state(state)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="draws")
        self._next: Future[tuple[Draw, Tensor]] = self._thread.submit(self._draw)

    def take(self) -> Draw:
        """Return the next step, and begin to draw the one after it."""
        began = time.monotonic()
        draw, state = self._next.result()
        self.seconds += time.monotonic() - began
        self.state = state
        self.samples += len(draw.batch.index)
        self._next = self._thread.submit(self._draw)
        return draw

    def close(self) -> None:
        """Stop drawing."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _draw(self) -> tuple[Draw, Tensor]:
        return self.drawer.draw(self._generator), self._generator.get_state()
