"""How unlike its training images an image looks to a model: what it may not know, it should not judge.

Features of the vision encoder over the training images of a modality are taken for a Gaussian, whose covariance has the
form of probabilistic principal components (Tipping and Bishop 1999): the largest directions, and one variance for the
rest. An image is as unlike them as its Mahalanobis distance says (Lee et al. 2018), as a multiple of the distance that
99 % of held-out images of this modality stay below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from medq_uni.pretrained.tensors import save_tensors
from medq_uni.taxonomy import Modality

OOD_FILE = "familiarity.safetensors"
"""File of a model folder."""
NUM_DIRECTIONS = 48
"""Principal directions that are kept at most."""
MIN_IMAGES = 200
"""Training images of a modality below which nothing is said about it."""
HELD_OUT_SHARE = 0.99
"""Share of held-out images that count as familiar: those with an unlikeness of at most 1."""
REFUSED_ABOVE = 1.75
"""Unlikeness above which an image is not assessed. With the embedded weights PET by filtered backprojection, which is
fit for use, reaches 1.32, and uniform noise taken for PET 1.88."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Features of the training images of one modality."""

    mean: Float[Tensor, " F"]
    directions: Float[Tensor, "K F"]
    """Principal directions, each of length 1."""
    deviations: Float[Tensor, " K"]
    """Standard deviation along each."""
    rest: Float[Tensor, ""]
    """Standard deviation along every other direction."""
    limit: Float[Tensor, ""]
    """Distance that held-out images stay below."""

    def distance(self, features: Float[Tensor, "N F"]) -> Float[Tensor, " N"]:
        """Return the Mahalanobis distance of every row."""
        centered = features - self.mean
        along = centered @ self.directions.T
        outside = (centered.square().sum(1) - along.square().sum(1)).clamp(min=0)
        return ((along / self.deviations).square().sum(1) + outside / self.rest.square()).sqrt()


@dataclass(frozen=True, eq=False)
class OodDetector:
    """What a model has seen, by modality."""

    by_modality: Mapping[Modality, Gaussian]

    def ood_score(self, features: Float[Tensor, "N F"], modality: Modality) -> Float[Tensor, " N"] | None:
        """Return how unlike the training images of a modality each image is: familiar up to 1.

        None where the model was trained on too few to tell.
        """
        known = self.by_modality.get(modality)
        return None if known is None else known.distance(features.float()) / known.limit

    def save(self, folder: Path) -> str:
        """Write the file of a model folder, and return its name."""
        tensors = {
            f"{modality.value}.{field.name}": torch.atleast_1d(getattr(known, field.name)).float().contiguous()
            for modality, known in self.by_modality.items()
            for field in fields(Gaussian)
        }
        save_tensors(tensors, folder / OOD_FILE)
        return OOD_FILE


def load_ood_detector(path: Path) -> OodDetector:
    """Return what :meth:`OodDetector.save` wrote.

    Raises:
        KeyError: If a part is missing.
    """
    stored = load_file(path)
    found = {}
    for modality in Modality:
        if f"{modality.value}.mean" in stored:
            parts = {field.name: stored[f"{modality.value}.{field.name}"] for field in fields(Gaussian)}
            scalars = {name: parts[name].reshape(()) for name in ("rest", "limit")}
            found[modality] = Gaussian(**(parts | scalars))
    return OodDetector(found)


def fit_ood_detector(
    training: Mapping[Modality, Float[Tensor, "N F"]], held_out: Mapping[Modality, Float[Tensor, "M F"]]
) -> OodDetector | None:
    """Return what the features of training images say; None where no modality has enough of them.

    Args:
        training: Features of the training images, one row for each.
        held_out: Those of images of other subjects, which set the limit.
    """
    found = {}
    for modality, features in training.items():
        others = held_out.get(modality)
        if len(features) >= MIN_IMAGES and others is not None and len(others):
            found[modality] = _fitted(features.double(), others.double())
    return OodDetector(found) if found else None


def _fitted(features: Tensor, others: Tensor) -> Gaussian:
    mean = features.mean(0)
    _, singular, directions = torch.linalg.svd(features - mean, full_matrices=False)
    deviations = singular / len(features) ** 0.5
    kept = min(NUM_DIRECTIONS, len(deviations) - 1)
    rest = deviations[kept:].square().mean().sqrt().clamp(min=1e-6)
    free = Gaussian(
        mean=mean.float(),
        directions=directions[:kept].float(),
        deviations=deviations[:kept].clamp(min=1e-6).float(),
        rest=rest.float(),
        limit=torch.ones(()),
    )
    return replace(free, limit=free.distance(others.float()).quantile(HELD_OUT_SHARE))
