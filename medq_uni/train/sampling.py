"""What a training step meets: crops, words, start and time. Drawn apart from the computation, so that it can run ahead.

Every process draws the whole batch from the same random numbers; each then computes its own samples of it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medq_uni.config import ModelConfig
from medq_uni.data.batches import Batch, BatchSampler, edited_target, moved_target
from medq_uni.data.pair_cache import PairItem
from medq_uni.data.reference_text import Instruction, instruction
from medq_uni.description import DEFAULT_RESTORE, FOLLOW_REPORT
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import generator_of, randint
from medq_uni.taxonomy import Severity
from medq_uni.train.buckets import Shape, shapes_of
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.recipe import ObjectiveName, StageConfig

AHEAD = 2
"""Steps that a process has drawn ahead."""
STRENGTHS = {"gentler": 0.5, "stronger": 1.25}
"""Share of a full restoration that an instruction asks for."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What each sample of a batch is told, and what it should become."""

    instructions: list[list[int]]
    descriptions: list[list[int]]
    has_description: list[bool]
    is_reference: list[bool]
    """Samples whose description tokens are trained."""
    target: Float[Tensor, "B 2 H W"]

    def part(self, rows: slice, device: torch.device) -> Conditioning:
        """Return what some of the samples are told."""
        return Conditioning(
            self.instructions[rows],
            self.descriptions[rows],
            self.has_description[rows],
            self.is_reference[rows],
            self.target[rows].to(device, non_blocking=True),
        )

    @property
    def num_labels(self) -> int:
        """Description tokens that are trained, one for the end of each text among them."""
        texts = zip(self.descriptions, self.is_reference, strict=True)
        return sum(len(ids) + 1 for ids, is_reference in texts if is_reference)


@dataclass(frozen=True, eq=False)
class FlowTargets:
    """Between what a restoration of a batch starts from, and when."""

    x1: Float[Tensor, "B c h w"] | None
    """Noise; None starts from the degraded latent."""
    t: Float[Tensor, " B"]
    is_decoded: Bool[Tensor, " B"]
    """Samples whose pixel losses count; stays on the CPU."""
    num_decoded: int
    """Their number in the batch of all processes."""

    def part(self, rows: slice, device: torch.device) -> FlowTargets:
        """Return the starts of some of the samples."""
        x1 = None if self.x1 is None else self.x1[rows].to(device, non_blocking=True)
        t = self.t[rows].to(device, non_blocking=True)
        return FlowTargets(x1, t, self.is_decoded[rows], self.num_decoded)


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """One step's worth of samples, of all processes."""

    objective: ObjectiveName
    """A joint stage draws assess or joint."""
    batch: Batch
    told: Conditioning | None = None
    """For restore and joint."""
    bridge: FlowTargets | None = None
    """For restore and joint."""
    questions: list[list[int]] | None = None
    """Instruction tokens of every sample, for assess, and for joint where it assesses beside."""
    answers: list[list[tuple[int, bool]]] | None = None
    """Description tokens of every sample, each with whether it fills a slot, where there are questions."""
    t: Float[Tensor, " B"] | None = None
    """Uniform in [0, 1], for baselines that learn to restore in steps."""

    def pin_memory(self) -> TrainBatch:
        """Return the step in memory from which a GPU copies while it computes; a data loader asks for it."""
        pinned: TrainBatch = _pinned(self)
        return pinned


@dataclass(frozen=True, eq=False)
class RngStreams:
    """Random numbers of one step, by what they choose.

    So every objective, and every baseline, meets the same crops in the same order, whatever else it draws: in short
    trainings an order is worth tenths of a dB.
    """

    crops: torch.Generator
    seen: torch.Generator
    """Of the assessor's view."""
    other: torch.Generator
    """Words, starts and times."""

    @classmethod
    def of(cls, seed: int) -> RngStreams:
        """Return those of the step that is drawn from a seed."""
        return cls(*(generator_of(seed, number) for number in range(3)))


@dataclass(frozen=True, eq=False)
class BatchBuilder:
    """Draws the steps of a stage.

    Attributes:
        words: What is said about the pairs.
        stage: What is trained.
        model: Sizes of the network.
        sampler: Where batches come from.
        generated: Description tokens that the model wrote about pairs of the pool, by index.
        world: Processes among which a step is divided.
    """

    words: PairTexts
    stage: StageConfig
    model: ModelConfig
    sampler: BatchSampler
    generated: Mapping[int, list[int]]
    world: int = 1

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What its steps may hold, smallest crops first."""
        return shapes_of(self.stage, self.model, world=self.world)

    def draw(self, seed: int) -> TrainBatch:
        """Return the step of a seed (:func:`next_seed`)."""
        stage, objective, streams = self.stage, self.stage.objective, RngStreams.of(seed)
        generator = streams.other
        if objective == "joint" and float(torch.rand(1, generator=generator)) < stage.assess_share:
            objective = "assess"
        batch = _batch(self.sampler, self.shapes, streams, sees=objective in ("assess", "joint"))
        if objective == "codec":
            return TrainBatch(objective, batch)
        is_asked = objective == "assess" or stage.assess_beside
        questions, answers = self._asked(batch, generator) if is_asked else (None, None)
        if objective == "assess":
            return TrainBatch(objective, batch, questions=questions, answers=answers)
        told = self._told(batch, generator) if objective == "joint" else self._untold(batch)
        return TrainBatch(objective, batch, told, self._bridge(batch, generator), questions, answers)

    def _asked(self, batch: Batch, generator: torch.Generator) -> tuple[list[list[int]], list[list[tuple[int, bool]]]]:
        """Return questions about the pairs, and what answers them."""
        answers = [self.words.slots(index, generator) for index in batch.index]
        encode = self.words.tokenizer.encode
        return [encode(instruction("assess", generator)) for _ in batch.index], answers

    def _bridge(self, batch: Batch, generator: torch.Generator) -> FlowTargets:
        """Draw the start and the time of every sample."""
        stage, codec = self.stage, self.model.codec
        count, _, height, width = batch.degraded.shape
        from_noise = float(torch.rand(1, generator=generator)) < stage.noise_start
        shape = (count, codec.latent_channels, height // codec.downsample, width // codec.downsample)
        x1 = torch.randn(shape, generator=generator) if from_noise else None
        t = torch.rand(count, generator=generator)
        t[torch.rand(count, generator=generator) < stage.final_time] = 1.0
        is_decoded = t <= (stage.noise_pixel_time if from_noise else 1.0)
        return FlowTargets(x1, t, is_decoded, int(is_decoded.sum()))

    def _untold(self, batch: Batch) -> Conditioning:
        words = self.words.tokenizer.encode(DEFAULT_RESTORE)
        none = [False] * len(batch.index)
        return Conditioning([words] * len(none), [[]] * len(none), none, none, batch.reference)

    def _told(self, batch: Batch, generator: torch.Generator) -> Conditioning:
        """Draw, for each sample, whether it meets the true report, its own, an edited one, an instruction, or none."""
        mix = self.stage.text
        told = Conditioning([], [], [], [], batch.reference.clone())
        for place, index in enumerate(batch.index):
            item = self.sampler.pairs.items[index]
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

    def _instructed(self, item: PairItem, generator: torch.Generator) -> tuple[str, float]:
        """Draw an instruction that asks for less, for more, or for noise alone, and the share of the way it means.

        Noise alone is asked of pairs with one degradation: it means everything or nothing.
        """
        kinds: list[Instruction] = ["gentler", "stronger"]
        kinds += ["denoise"] if item.num_degradations == 1 else []
        kind = kinds[randint(len(kinds), generator)]
        strength = float(SPECS[item.task].is_noise) if kind == "denoise" else STRENGTHS[kind]
        return instruction(kind, generator), strength


@dataclass(frozen=True, eq=False)
class BaselineBatchBuilder:
    """Draws the steps of a stage of a baseline.

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

    def draw(self, seed: int) -> TrainBatch:
        """Return the step of a seed (:func:`next_seed`)."""
        streams = RngStreams.of(seed)
        batch = _batch(self.sampler, self.shapes, streams, sees=False)
        return TrainBatch("baseline", batch, t=torch.rand(len(batch.index), generator=streams.other))


def _batch(sampler: BatchSampler, shapes: Sequence[Shape], streams: RngStreams, *, sees: bool) -> Batch:
    shape = shapes[randint(len(shapes), streams.crops)] if len(shapes) > 1 else shapes[0]
    seen = streams.seen if sees else None
    return sampler.draw(shape.count, crop=shape.side, generator=streams.crops, seen=seen)


def next_seed(generator: torch.Generator) -> int:
    """Return what the next step is drawn from; the generator moves on by one step."""
    return randint(2**62, generator)


class Prefetcher:
    """Draws steps ahead of the computation: one on a thread, or some in processes of their own.

    Every step is drawn from a seed, and the seeds follow one another from :attr:`state`: a checkpoint with it goes on
    with the next step, as if nothing had been drawn ahead, whatever the number of processes.

    Args:
        drawer: Draws the steps.
        state: State of the random numbers before the first.
        workers: Processes that draw, :data:`AHEAD` steps ahead each; 1 draws on a thread.
        pinned: Whether a GPU is to copy the steps while it computes; for processes alone.
    """

    def __init__(
        self, drawer: BatchBuilder | BaselineBatchBuilder, state: Tensor, *, workers: int = 1, pinned: bool = False
    ) -> None:
        self.state = state
        self.seconds = 0.0
        """Time for which the computation waited."""
        self.samples = 0
        """Samples that were taken."""
        self._taken = torch.Generator()
        self._taken.set_state(state)
        drawn = _on_thread(drawer, state) if workers == 1 else _in_processes(drawer, state, workers, pinned)
        self._steps: Generator[TrainBatch] = drawn

    def take(self) -> TrainBatch:
        """Return the next step."""
        began = time.monotonic()
        draw = next(self._steps)
        self.seconds += time.monotonic() - began
        next_seed(self._taken)
        self.state = self._taken.get_state()
        self.samples += len(draw.batch.index)
        return draw

    def close(self) -> None:
        """Stop drawing; the thread or the processes end."""
        self._steps.close()


class _Seeds(Sampler[int]):
    """The seeds of all steps from a state on."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.set_state(self.state)
        while True:
            yield next_seed(generator)


class _Steps(Dataset[TrainBatch]):
    """All steps of a stage, by seed."""

    def __init__(self, drawer: BatchBuilder | BaselineBatchBuilder) -> None:
        self.drawer = drawer

    def __getitem__(self, seed: int) -> TrainBatch:
        return self.drawer.draw(seed)


def _on_thread(drawer: BatchBuilder | BaselineBatchBuilder, state: Tensor) -> Generator[TrainBatch]:
    seeds = iter(_Seeds(state))
    with ThreadPoolExecutor(1, thread_name_prefix="draws") as thread:
        ahead = thread.submit(drawer.draw, next(seeds))
        while True:
            draw = ahead.result()
            ahead = thread.submit(drawer.draw, next(seeds))
            yield draw


def _in_processes(
    drawer: BatchBuilder | BaselineBatchBuilder, state: Tensor, workers: int, pinned: bool
) -> Generator[TrainBatch]:
    steps, seeds = _Steps(drawer), _Seeds(state)
    yield from DataLoader(
        steps, sampler=seeds, batch_size=None, num_workers=workers, prefetch_factor=AHEAD, pin_memory=pinned
    )


def _pinned(value: Any) -> Any:
    """Return a dataclass of tensors and others with its tensors in pinned memory."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: _pinned(getattr(value, field.name)) for field in fields(value)})
