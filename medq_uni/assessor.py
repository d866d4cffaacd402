"""Looking at an image: what is wrong with it in words, and whether the model may know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.description import DEFAULT_ASSESS, QualityDescription, degradation_words
from medq_uni.image import MedicalImage
from medq_uni.inference import Inference, Written
from medq_uni.physical_units import measurements_of
from medq_uni.physics.effect import foreground
from medq_uni.preprocess import CannotAssess, assessable
from medq_uni.pretrained.calibration import OperatingPoint
from medq_uni.pretrained.load import Pretrained
from medq_uni.pretrained.ood_detector import REFUSED_ABOVE
from medq_uni.quantities import Reading
from medq_uni.scaling import Scaling, scaling_of
from medq_uni.taxonomy import Modality
from medq_uni.tiles import tile_grid

FEWEST_SLICES, MOST_SLICES = 3, 9
"""Slices of a volume that are assessed; their number grows with the root of its length."""
MOST_WINDOWS = 4
"""Windows of a large slice that are assessed, those with most of the body."""
SURE = 0.8
"""Probability of a verdict below which it is called uncertain."""


@dataclass(frozen=True)
class SliceFinding:
    """What is wrong with one slice."""

    z: int
    """Its number in the volume."""
    description: QualityDescription
    log_odds: float
    """Of a degradation against none, as the network has them."""
    probability: float | None
    """Of a degradation; None where the model is not calibrated for the modality."""

    @property
    def is_uncertain(self) -> bool:
        """Whether the verdict is less likely than :data:`SURE`; never where its probability is not known."""
        if self.probability is None:
            return False
        return (self.probability if self.description.degradations else 1 - self.probability) < SURE

    def to_dict(self) -> dict[str, Any]:
        """Return number, verdict, degradations and probability as JSON values."""
        words = self.description.to_dict()
        found = {"z": self.z, "verdict": words["verdict"], "degradations": words["degradations"]}
        return found | {"probability": self.probability, "uncertain": self.is_uncertain}


@dataclass(frozen=True)
class Assessment:
    """What is wrong with an image, and how far the model may be trusted to know."""

    description: QualityDescription
    ood_score: float | None
    """How unlike the training images it looks: familiar up to 1, doubtful above; None where the model does not know."""
    slices: tuple[SliceFinding, ...]
    """What was found in the slices that were looked at, by their number."""
    speaks: SliceFinding
    """The slice whose description stands for the image: the one with the middle grade."""

    @property
    def probability(self) -> float | None:
        """Of a degradation of the slice that speaks; None where the model is not calibrated for the modality."""
        return self.speaks.probability

    @property
    def is_uncertain(self) -> bool:
        """Whether the verdict of the slice that speaks is less likely than :data:`SURE`."""
        return self.speaks.is_uncertain

    @property
    def worst(self) -> tuple[SliceFinding, ...]:
        """The slices with a worse grade than the image, the worst first."""
        worse = [one for one in self.slices if one.description.worst.level > self.description.worst.level]
        return tuple(sorted(worse, key=lambda one: (-one.description.worst.level, -one.log_odds)))

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON values, with its probability and what was found in every slice."""
        found = self.description.to_dict() | {"probability": self.probability, "uncertain": self.is_uncertain}
        found["ood_score"] = self.ood_score
        found["slices"] = [one.to_dict() for one in self.slices]
        return found

    def to_text(self) -> str:
        """Return the description in words; how sure the verdict is and which slices are worse, where that is known."""
        lines = [self.description.to_text()]
        if self.probability is not None:
            sure = "uncertain: look at the image" if self.is_uncertain else "sure"
            lines.append(f"Probability of a degradation: {self.probability:.0%} ({sure}).")
        if self.worst:
            worse = (f"{one.z} ({degradation_words(one.description.degradations)})" for one in self.worst)
            lines.append(f"Worse slices among the {len(self.slices)} assessed: {', '.join(worse)}.")
        return "\n".join(lines)


class Assessor:
    """Describes images with one pretrained model.

    Args:
        pretrained: In evaluation mode.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained
        self.inference = Inference.of(pretrained)

    @torch.inference_mode()
    def assess(
        self, image: MedicalImage, *, instruction: str | None = None, allow_ood: bool = False, guess: bool = False
    ) -> Assessment:
        """Return what is wrong with the image, in five aspects, and how well the model knows such images.

        A volume is judged by three to nine slices spread over it; the one with the middle grade speaks. A slice larger
        than what the network was trained on is judged by up to four windows of it; the one with the middle
        probability of a degradation speaks.

        Args:
            image: 2-D slice or volume.
            instruction: Question to ask instead of the usual one.
            allow_ood: Go on where the image is unlike all that the model was trained on.
            guess: Guess a modality that nothing states from the intensities, with a warning.

        Raises:
            CannotAssess: If the image is constant, too small, its values do not fit its modality, or it is unlike all
                that the model was trained on.
            MedQError: If voxels are NaN or infinite.
        """
        image = assessable(image, guess=guess)
        scaling = scaling_of(image)
        places = key_slices(image.shape[0])
        slices = [image.slice_at(z) for z in places]
        views = torch.cat([self.inference.preprocessor.views(one, scaling=scaling)[0] for one in slices])
        ood_score = self._ood_score(views, image.modality)
        _check_known(image.modality, ood_score, allow_ood)
        question = instruction or DEFAULT_ASSESS
        windows = [self._windows(view, one) for view, one in zip(views, slices, strict=True)]
        read = [self._read(image.modality, one, question) for one in windows]
        _check_looks(image.modality, {one.looks_like for one in read})
        found = tuple(self._finding(z, one, image.modality) for z, one in zip(places, read, strict=True))
        by_grade = sorted(found, key=lambda one: (one.description.worst.level, one.log_odds))
        reading = self._reading(windows, image.modality)
        speaks = self._with_figures(by_grade[len(by_grade) // 2], reading, image, scaling)
        return Assessment(speaks.description, ood_score, found, speaks)

    @torch.inference_mode()
    def read(self, image: MedicalImage) -> Reading | None:
        """Return what is read of the quantities of a slice, the median over its windows; None without a head for them.

        Args:
            image: A single slice with a modality.
        """
        views = self.inference.preprocessor.views(image)[0]
        return self._reading([self._windows(views[0], image)], image.modality)

    def _reading(self, windows: Sequence[Float[Tensor, "N 2 h w"]], modality: Modality | None) -> Reading | None:
        reading = self.inference.read_quantities(torch.cat(list(windows)), modality)
        return None if reading is None else reading.median()

    def _with_figures(
        self, found: SliceFinding, reading: Reading | None, image: MedicalImage, scaling: Scaling
    ) -> SliceFinding:
        """Return a finding with the figures that were read of the image in its description."""
        calibration = self.pretrained.calibration
        if calibration is None or reading is None:
            return found
        tasks = [one.task for one in found.description.degradations]
        figures = measurements_of(reading, image, scaling, tasks, calibration)
        return replace(found, description=replace(found.description, measurements=figures))

    def _ood_score(self, views: Tensor, modality: Modality | None) -> float | None:
        """Return that of the middle slice."""
        detector = self.pretrained.ood_detector
        if detector is None or modality is None:
            return None
        found = detector.ood_score(self.inference.vision_features(views), modality)
        return None if found is None else float(found.median())

    def _point(self, modality: Modality | None) -> OperatingPoint | None:
        calibration = self.pretrained.calibration
        return None if calibration is None or modality is None else calibration.operating_points.get(modality)

    def _windows(self, views: Float[Tensor, "2 H W"], image: MedicalImage) -> Float[Tensor, "N 2 h w"]:
        """Return the windows of a slice that hold most of the body, and at least half as much as the fullest."""
        if self.inference.model.config.vision.view_sides is not None:  # this encoder sees every slice whole
            return views[None]
        tiles = tile_grid((1, *views.shape), size=self.inference.preprocessor.tile_size)
        body = torch.from_numpy(foreground(image)[0]).float()
        shares = [float(body[one.top : one.top + one.height, one.left : one.left + one.width].sum()) for one in tiles]
        ranked = sorted(range(len(tiles)), key=lambda place: -shares[place])[:MOST_WINDOWS]
        kept = sorted(place for place in ranked if shares[place] >= shares[ranked[0]] / 2)
        return torch.stack([tiles[place].cut(views[None]) for place in kept])

    def _read(self, modality: Modality | None, windows: Float[Tensor, "N 2 h w"], question: str) -> Written:
        """Return what the network writes about the window whose log-odds of a degradation are the middle ones."""
        point = self._point(modality)
        written = self.inference.describe(
            windows,
            [modality] * len(windows),
            question=question,
            looks=True,
            cuts=[None if point is None else point.cut] * len(windows),
        )
        return sorted(written, key=lambda one: one.log_odds)[len(written) // 2]

    def _finding(self, z: int, written: Written, modality: Modality | None) -> SliceFinding:
        point = self._point(modality)
        probability = None if point is None else point.probability(written.log_odds)
        return SliceFinding(z, written.description, written.log_odds, probability)


def key_slices(count: int) -> list[int]:
    """Return the numbers of the slices of a volume of this length that are assessed."""
    chosen = min(count, max(FEWEST_SLICES, min(MOST_SLICES, round(math.sqrt(count)))))
    if chosen == count:
        return list(range(count))
    return [round((i + 0.5) * count / chosen - 0.5) for i in range(chosen)]


def _check_looks(modality: Modality | None, looks: set[Modality | None]) -> None:
    """Warn of an image that looks like one of another modality, whichever slice one asks."""
    if modality is not None and modality not in looks:
        seen = " or ".join(sorted(str(look).upper() for look in looks))
        warnings.warn(
            f"The image is read as {modality.value.upper()} and looks like {seen} to the assessor. "
            "Check the modality (--modality on the command line).",
            stacklevel=5,
        )


def _check_known(modality: Modality | None, found: float | None, allow_ood: bool) -> None:
    """Warn of an image that is unlike the training images, and refuse one that is far from them."""
    if found is None or found <= 1:
        return
    says = (
        f"As {str(modality).upper()} the image is unlike all that the model was trained on "
        f"({found:.1f} times the limit)."
    )
    if found > REFUSED_ABOVE and not allow_ood:
        raise CannotAssess(
            f"Cannot assess: {says} Check the modality (--modality on the command line); "
            "to go on nevertheless, pass allow_ood=True (--allow-ood)."
        )
    warnings.warn(f"{says} Treat what it says, and what it restores, with doubt.", stacklevel=5)
