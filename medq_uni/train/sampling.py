"""What a training step meets: crops, texts, start and time. Drawn apart from the computation, so that it can run ahead.

Every process draws the whole batch from the same random numbers; each then computes its own samples of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
from medq_uni.train.pair_quantities import PairQuantities
from medq_uni.train.shown_lesions import draw_shown_lesions
from medq_uni.train.stage import ConditioningConfig, ObjectiveName, StageConfig

LESIONS = 3
"""Number of the random numbers of a step that draw lesions, beside those of :class:`RngStreams`."""
STRENGTHS = {"gentler": 0.5, "stronger": 1.25}
"""Share of a full restoration that an instruction asks for."""
Answers = list[list[tuple[int, bool]]]
"""Description tokens of every sample, each with whether it fills a slot."""


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
    """What the restorations of a batch start from, and when."""

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
    crops: Batch
    conditioning: Conditioning | None = None
    """For restore and joint."""
    flow: FlowTargets | None = None
    """For restore and joint."""
    questions: list[list[int]] | None = None
    """Instruction tokens of every sample, for assess, and for joint where it assesses the same pairs."""
    answers: Answers | None = None
    """What answers them, where there are questions."""
    t: Float[Tensor, " B"] | None = None
    """Uniform in [0, 1], for baselines that learn to restore in steps."""
    told: Float[Tensor, "B n"] | None = None
    """Quantities of every pair with the errors of a reading, for a decoder that is told them."""
    measured: Float[Tensor, "B n"] | None = None
    """The true quantities, for assessments that read them."""
    lesions: Float[Tensor, "B 2 2 H W"] | None = None
    """What lesions add to both views of degraded crops and references, where the decoder must keep them."""

    def pin_memory(self) -> TrainBatch:
        """Return the batch in memory from which a GPU copies while it computes; a data loader asks for it."""
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
    """Texts, starts and times."""

    @classmethod
    def of(cls, seed: int) -> RngStreams:
        """Return those of the step that is drawn from a seed."""
        return cls(*(generator_of(seed, number) for number in range(3)))


@dataclass(frozen=True, eq=False)
class BatchBuilder:
    """Draws the batches of a stage.

    Attributes:
        texts: What is said about the pairs.
        stage: What is trained.
        model: Sizes of the network.
        sampler: Where crops come from.
        generated: Description tokens that the model wrote about pairs, by index.
        world: Processes among which a step is divided.
        quantities: Of the pairs, where the decoder is told them.
    """

    texts: PairTexts
    stage: StageConfig
    model: ModelConfig
    sampler: BatchSampler
    generated: Mapping[int, list[int]]
    world: int = 1
    quantities: PairQuantities | None = None

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What its batches may hold, smallest crops first."""
        return shapes_of(self.stage, self.model, world=self.world)

    def build(self, seed: int) -> TrainBatch:
        """Return the batch of a seed (:func:`medq_uni.train.prefetch.next_seed`)."""
        stage, objective, streams = self.stage, self.stage.objective, RngStreams.of(seed)
        generator = streams.other
        if objective == "joint" and float(torch.rand(1, generator=generator)) < stage.assess_share:
            objective = "assess"
        crops = _crops(self.sampler, self.shapes, streams, sees=objective in ("assess", "joint"))
        if objective == "codec":
            told = self._told_quantities(crops, generator)
            return TrainBatch(objective, crops, told=told, lesions=self._lesions(crops, seed))
        is_asked = objective == "assess" or stage.assess_same_pairs
        questions, answers = self._questions(crops, generator) if is_asked else (None, None)
        measured = self.quantities.true(crops.index) if self.quantities is not None and is_asked else None
        if objective == "assess":
            return TrainBatch(objective, crops, questions=questions, answers=answers, measured=measured)
        conditioning = self._conditioning(crops, generator) if objective == "joint" else self._unconditioned(crops)
        flow = self._flow(crops, generator)
        told = self._told_quantities(crops, generator)  # last, so that the other draws do not depend on it
        lesions = self._lesions(crops, seed)
        return TrainBatch(objective, crops, conditioning, flow, questions, answers, None, told, measured, lesions)

    def _told_quantities(self, crops: Batch, generator: torch.Generator) -> Float[Tensor, "B n"] | None:
        return None if self.quantities is None else self.quantities.told(crops.index, generator)

    def _lesions(self, crops: Batch, seed: int) -> Float[Tensor, "B 2 2 H W"] | None:
        """Return lesions from random numbers of their own, where the stage has a loss for them."""
        if not self.stage.losses.lesions:
            return None
        return draw_shown_lesions(crops, self.sampler.pairs, generator_of(seed, LESIONS))

    def _questions(self, crops: Batch, generator: torch.Generator) -> tuple[list[list[int]], Answers]:
        """Return questions about the pairs, and what answers them."""
        answers = [self.texts.slots(index, generator) for index in crops.index]
        encode = self.texts.tokenizer.encode
        return [encode(instruction("assess", generator)) for _ in crops.index], answers

    def _flow(self, crops: Batch, generator: torch.Generator) -> FlowTargets:
        """Draw the start and the time of every sample."""
        flow, codec = self.stage.flow, self.model.codec
        count, _, height, width = crops.degraded.shape
        from_noise = float(torch.rand(1, generator=generator)) < flow.noise_share
        shape = (count, codec.latent_channels, height // codec.downsample, width // codec.downsample)
        x1 = torch.randn(shape, generator=generator) if from_noise else None
        t = torch.rand(count, generator=generator)
        t[torch.rand(count, generator=generator) < flow.single_step_share] = 1.0
        is_decoded = t <= (flow.noise_pixel_time if from_noise else 1.0)
        return FlowTargets(x1, t, is_decoded, int(is_decoded.sum()))

    def _unconditioned(self, crops: Batch) -> Conditioning:
        words = self.texts.tokenizer.encode(DEFAULT_RESTORE)
        none = [False] * len(crops.index)
        return Conditioning([words] * len(none), [[]] * len(none), none, none, crops.reference)

    def _conditioning(self, crops: Batch, generator: torch.Generator) -> Conditioning:
        """Draw what each sample is told: the true description, the model's own, another, an instruction, nothing."""
        told = Conditioning([], [], [], [], crops.reference.clone())
        for place, index in enumerate(crops.index):
            kind = _kind_of(self.stage.conditioning, float(torch.rand(1, generator=generator)))
            if kind == "generated" and index not in self.generated:
                kind = "reference"
            words, text, target = self._told(kind, crops, place, generator)
            if target is not None:
                told.target[place] = target
            told.instructions.append(self.texts.tokenizer.encode(words))
            told.descriptions.append(text or [])
            told.has_description.append(text is not None)
            told.is_reference.append(kind == "reference" and not self.stage.assess_same_pairs)
        return told

    def _told(
        self, kind: str, crops: Batch, place: int, generator: torch.Generator
    ) -> tuple[str, list[int] | None, Tensor | None]:
        """Return the instruction and description of a sample, and its target where that is not the true image."""
        index, degraded, reference = crops.index[place], crops.degraded[place], crops.reference[place]
        item = self.sampler.pairs.items[index]
        if kind == "reference":
            text = self.texts.tokens(index, generator)
            return instruction("restore", generator), text, None
        if kind == "generated":
            return DEFAULT_RESTORE, self.generated[index], None
        if kind == "edited":
            stated = Severity.from_level(randint(4, generator))
            target = edited_target(degraded, reference, true=item.severity, stated=stated)
            return FOLLOW_REPORT, self.texts.tokens(index, generator, stated), target
        if kind == "corrupted":
            text = self.texts.corrupted(index, generator)
            return instruction("restore", generator), text, None
        if kind == "instructed":
            words, strength = _instruction(item, generator)
            return words, None, moved_target(degraded, reference, strength)
        return DEFAULT_RESTORE, None, None


def _kind_of(shares: ConditioningConfig, draw: float) -> str:
    """Return which of the shares of a whole a number in [0, 1] falls into; the rest is ``nothing``."""
    limit = 0.0
    for field in fields(shares):
        limit += getattr(shares, field.name)
        if draw < limit:
            return field.name
    return "nothing"


def _instruction(item: PairItem, generator: torch.Generator) -> tuple[str, float]:
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
    """Draws the batches of a stage of a baseline.

    Attributes:
        stage: What is trained.
        sampler: Where crops come from.
        world: Processes among which a step is divided.
    """

    stage: StageConfig
    sampler: BatchSampler
    world: int = 1

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What its batches may hold, smallest crops first."""
        return shapes_of(self.stage, None, world=self.world)

    def build(self, seed: int) -> TrainBatch:
        """Return the batch of a seed (:func:`medq_uni.train.prefetch.next_seed`)."""
        streams = RngStreams.of(seed)
        crops = _crops(self.sampler, self.shapes, streams, sees=False)
        return TrainBatch("baseline", crops, t=torch.rand(len(crops.index), generator=streams.other))


AnyBuilder = BatchBuilder | BaselineBatchBuilder


def _crops(sampler: BatchSampler, shapes: Sequence[Shape], streams: RngStreams, *, sees: bool) -> Batch:
    shape = shapes[randint(len(shapes), streams.crops)] if len(shapes) > 1 else shapes[0]
    seen = streams.seen if sees else None
    return sampler.draw(shape.count, crop=shape.side, generator=streams.crops, seen=seen)


def _pinned(value: Any) -> Any:
    """Return a dataclass of tensors and others with its tensors in pinned memory."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: _pinned(getattr(value, field.name)) for field in fields(value)})
