"""Looking at an image: what is wrong with it in words, and whether the model may know."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from medq_uni.description import DEFAULT_ASSESS, QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.inference import Inference
from medq_uni.preprocess import CannotAssess, assessable
from medq_uni.pretrained.load import Pretrained
from medq_uni.pretrained.ood_detector import REFUSED_ABOVE
from medq_uni.scaling import scaling_of
from medq_uni.taxonomy import Modality

KEY_SLICES = 3
"""Slices of a volume that are assessed; their middle grade speaks for the volume."""


@dataclass(frozen=True)
class Assessment:
    """What is wrong with an image, and how far the model may be trusted to know."""

    description: QualityDescription
    ood_score: float | None
    """How unlike the training images it looks: familiar up to 1, doubtful above; None where the model does not know."""


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

        A volume is judged by up to three slices spread over it; the one with the middle grade speaks.

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
        slices = [image.slice_at(z) for z in _key_slices(image)]
        views = torch.cat([self.inference.preprocessor.views(one, scaling=scaling)[0] for one in slices])
        ood_score = self._ood_score(views, image.modality)
        _check_known(image.modality, ood_score, allow_ood)
        found = self._describe(views, image.modality, instruction or DEFAULT_ASSESS)
        return Assessment(found[len(found) // 2], ood_score)

    def _ood_score(self, views: Tensor, modality: Modality | None) -> float | None:
        """Return that of the middle slice."""
        detector = self.pretrained.ood_detector
        if detector is None or modality is None:
            return None
        found = detector.ood_score(self.inference.vision_features(views), modality)
        return None if found is None else float(found.median())

    def _describe(self, views: Tensor, modality: Modality | None, question: str) -> list[QualityDescription]:
        """Return one description per slice, mildest first."""
        written = [
            self.inference.describe(one, [modality], question=question, looks=True)[0] for one in torch.split(views, 1)
        ]
        looks = {one.looks_like for one in written}
        if modality is not None and modality not in looks:
            seen = " or ".join(sorted(str(look).upper() for look in looks))
            warnings.warn(
                f"The image is read as {modality.value.upper()} and looks like {seen} to the assessor. "
                "Check the modality (--modality on the command line).",
                stacklevel=5,
            )
        return sorted((one.description for one in written), key=lambda description: description.worst.level)


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


def _key_slices(image: MedicalImage) -> list[int]:
    count = image.shape[0]
    if count <= KEY_SLICES:
        return list(range(count))
    return [round((i + 1) * (count - 1) / (KEY_SLICES + 1)) for i in range(KEY_SLICES)]
