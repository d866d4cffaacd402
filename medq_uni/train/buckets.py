"""How many crops of which side a step holds: a given number, or as many as fit a budget of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from medq_uni.config import ConfigError, ModelConfig
from medq_uni.data.batches import VISION_SIZES
from medq_uni.train.stage import ObjectiveName, StageConfig

CROP_GRID = 16
"""Crops of a baseline begin on multiples of this number of pixels, as those of our small models do: so all of them meet
the same crops."""


@dataclass(frozen=True)
class Shape:
    """Crops of one step."""

    side: int
    """Pixels."""
    count: int
    """Pairs."""


def tokens_of(objective: ObjectiveName, side: int, config: ModelConfig | None, *, assesses: bool = False) -> int:
    """Return how many image tokens a pair brings: its text is short beside them and is not counted.

    A latent is read once clean and once noised where it is restored; the square that the assessor sees counts at its
    largest. The codec and a baseline know no tokens: there it is the squares of the grid on which crops lie.

    Args:
        objective: Of the stage.
        side: Of the crop in pixels.
        config: Sizes of MedQ-UNI; None for a baseline.
        assesses: Whether a joint pair is assessed too, for which the square is read once more.
    """
    if config is None:
        return int((side // CROP_GRID) ** 2)
    latent = (side // config.token_pixels) ** 2
    seen = (max(VISION_SIZES) // config.vision.patch_size) ** 2
    tokens = {"codec": latent, "restore": 2 * latent, "assess": seen, "joint": 2 * latent + (1 + assesses) * seen}
    return int(tokens[objective])


def shapes_of(stage: StageConfig, config: ModelConfig | None, *, world: int = 1) -> tuple[Shape, ...]:
    """Return what the steps of a stage may hold, smallest crops first.

    Args:
        stage: Crops, and either a batch or a budget.
        config: Sizes of MedQ-UNI; None for a baseline.
        world: Processes among which a step is divided: its pairs are a multiple of it.

    Raises:
        ConfigError: If a batch cannot be divided, or not one pair for each process fits the budget.
    """
    crops = stage.crops
    sides = sorted(set(crops.sides))
    if not crops.token_budget:
        if crops.batch_size % world:
            raise ConfigError(
                f"stage {stage.name!r}: batch_size {crops.batch_size} cannot be divided among {world} processes. "
                "Choose a multiple."
            )
        return tuple(Shape(side, crops.batch_size) for side in sides)
    found = []
    for side in sides:
        tokens = tokens_of(stage.objective, side, config, assesses=stage.assess_same_pairs)
        count = crops.token_budget // tokens // world * world
        if not count:
            raise ConfigError(
                f"stage {stage.name!r}: token_budget {crops.token_budget} holds no crop of {side} pixels, of {tokens} "
                f"tokens, for each of {world} processes. It needs {tokens * world} at least."
            )
        found.append(Shape(side, count))
    return tuple(found)
