"""One stage of a training recipe: what learns, how fast, from which crops, told what, by which losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from medq_uni.config import ConfigError
from medq_uni.taxonomy import Task
from medq_uni.train.losses import LossWeights

Group = Literal["decoder", "spread", "ir", "iqa", "baseline"]
ObjectiveName = Literal["codec", "restore", "assess", "joint", "baseline"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How fast weights learn."""

    learning_rate: float = 5e-4
    """Peak learning rate; over the steps of a stage it falls to zero by a cosine."""
    decoder_lr_factor: float = 1.0
    """Learning rate of the decoder, as a multiple of the others': convolutions bear a higher one than attention."""
    lr_warmup_steps: int = 50
    """Steps of linear warm-up."""


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """Which crops a step holds."""

    batch_size: int = 16
    """Pairs per step, of all processes together, where there is no ``token_budget``."""
    token_budget: int = 0
    """Image tokens per step: as many pairs as fit, so that small crops come in larger batches; 0 takes batch_size."""
    sides: tuple[int, ...] = (128,)
    """Sides of the crops in pixels; every step draws one of them."""
    task_weights: dict[Task, int] = field(default_factory=dict)
    """How often a task is drawn per round of the tasks, above 1 for those that are learned slowly; 1 where none is
    given."""

    @property
    def emphasis(self) -> tuple[Task, ...]:
        """Tasks that are drawn more than once, one mention for each further time."""
        return tuple(task for task, weight in self.task_weights.items() for _ in range(weight - 1))


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """Shares of what a joint sample is told about its image; the rest is told nothing."""

    reference: float = 0.45
    """The description that follows from the degradation record."""
    generated: float = 0.25
    """What the model itself wrote about this image when the stage began."""
    edited: float = 0.15
    """A description with another severity, and a target that is restored that much."""
    corrupted: float = 0.0
    """A description that is wrong in places, and the true target: what an assessment that errs leaves to repair."""
    instructed: float = 0.0
    """No description, but an instruction that asks for less, for more, or for noise alone, with a target to match."""

    def __post_init__(self) -> None:
        """Check that these are shares."""
        shares = (self.reference, self.generated, self.edited, self.corrupted, self.instructed)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ConfigError(
                "conditioning: reference, generated, edited, corrupted and instructed are shares of one whole, none "
                f"below 0; they are {', '.join(f'{share:g}' for share in shares)}."
            )


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Where a restoration starts, and at which times it is trained; t = 0 is the image."""

    noise_share: float = 0.15
    """Share of batches that start from noise, as in the paper; the others start from the degraded latent."""
    noise_pixel_time: float = 0.0
    """Pixel losses of batches that start from noise count up to this time, 1 as in the paper: an early guess from pure
    noise is garbage, and a decoder that learns would unlearn on it."""
    single_step_share: float = 0.6
    """Share of samples at t = 1, where the default sampler makes its single step; the others draw t uniformly."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    name: str
    """For the log and the checkpoints."""
    objective: ObjectiveName
    """codec: the decoder alone, from the degraded latent. restore: [latent][instruction][target].
    assess: [vision][instruction][description]. joint: all blocks, both losses. baseline: degraded and restored image,
    the only one of a baseline."""
    trainable: tuple[Group, ...]
    """Which weights learn: the decoder of the codec, its prediction of the error, the restoration expert, the
    assessment expert; a baseline learns whole."""
    steps: int
    """Optimizer steps."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates."""
    crops: CropsConfig = field(default_factory=CropsConfig)
    """What a step holds."""
    losses: LossWeights = field(default_factory=LossWeights)
    """Weight of every loss term."""
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """What joint samples are told."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Starts and times of restorations."""
    assess_share: float = 0.35
    """Share of joint steps that train the assessment alone, in the objective in which it is asked."""
    assess_same_pairs: bool = False
    """Whether joint steps that restore train the assessment of their pairs too, in the objective in which it is asked,
    instead of the tokens of the description that the restoration reads."""

    def __post_init__(self) -> None:
        """Check ranges."""
        crops, optimizer = self.crops, self.optimizer
        if self.steps < 1 or crops.batch_size < 1:
            raise ConfigError(f"stage {self.name!r}: steps and batch_size must be at least 1.")
        if crops.token_budget < 0 or min(crops.sides, default=0) < 1:
            raise ConfigError(f"stage {self.name!r}: token_budget must not be negative, crops must have pixels.")
        if min(crops.task_weights.values(), default=1) < 1:
            raise ConfigError(f"stage {self.name!r}: task_weights are whole numbers from 1.")
        if optimizer.decoder_lr_factor <= 0:
            raise ConfigError(f"stage {self.name!r}: decoder_lr_factor must be positive.")
        if optimizer.learning_rate < 0 or optimizer.lr_warmup_steps < 0:
            raise ConfigError(f"stage {self.name!r}: learning_rate and lr_warmup_steps must not be negative.")
        if self.assess_same_pairs and self.objective != "joint":
            raise ConfigError(
                f"stage {self.name!r}: assess_same_pairs is for joint stages, this one is {self.objective!r}."
            )
        if not self.trainable:
            raise ConfigError(f"stage {self.name!r}: trainable is empty; name decoder, spread, ir or iqa.")
        if (self.objective == "baseline") != (self.trainable == ("baseline",)):
            raise ConfigError(
                f'stage {self.name!r}: the objective "baseline" has trainable ["baseline"], no other objective has it.'
            )
