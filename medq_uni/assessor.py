"""Looking at an image: what is wrong with it in words, and whether the model may know.

Only this module knows the order: image -> key slices -> what the encoder sees -> description.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from medq_uni.description import DEFAULT_ASSESS, QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.model.generation import Context
from medq_uni.model.vision import summary
from medq_uni.preprocess import CannotAssess, assessable, scaling_of, to_tensor, vision_input
from medq_uni.pretrained.load import Pretrained
from medq_uni.pretrained.ood_detector import REFUSED_ABOVE
from medq_uni.taxonomy import Modality
from medq_uni.tokenizer import DescriptionConstraint

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
        self.pretrained, self.model, self.tokenizer = pretrained, pretrained.model, pretrained.tokenizer

    @property
    def multiple(self) -> int:
        """Sides of an image must be multiples of this number of pixels."""
        return self.pretrained.config.token_pixels

    def seen(self, views: Tensor) -> Tensor:
        """Return what the vision encoder sees of both views of slices (B, 2, H, W)."""
        size = self.pretrained.tile_size
        return vision_input(views, self.pretrained.config.vision, size=size).to(self.model.device)

    @torch.inference_mode()
    def assess(self, image: MedicalImage, *, instruction: str | None = None, allow_ood: bool = False) -> Assessment:
        """Return what is wrong with the image, in five aspects, and how well the model knows such images.

        A volume is judged by up to three slices spread over it; the one with the middle grade speaks.

        Args:
            image: 2-D slice or volume.
            instruction: Question to ask instead of the usual one.
            allow_ood: Go on where the image is unlike all that the model was trained on.

        Raises:
            CannotAssess: If the image is constant, too small, its values do not fit its modality, or it is unlike all
                that the model was trained on.
            MedQError: If voxels are NaN or infinite.
        """
        image = assessable(image)
        scaling = scaling_of(image)
        slices = [image.slice_at(z) for z in _key_slices(image)]
        views = torch.cat([to_tensor(s, multiple=self.multiple, scaling=scaling)[0] for s in slices])
        ood_score = self._unlikeness(image, views)
        self._check_familiar(image, ood_score, allow_ood)
        found = sorted(self._describe(views, image.modality, instruction), key=lambda d: d.worst.level)
        return Assessment(found[len(found) // 2], ood_score)

    def _unlikeness(self, image: MedicalImage, views: Tensor) -> float | None:
        """Return that of the middle slice."""
        seen, modality = self.pretrained.ood_detector, image.modality
        if seen is None or modality is None:
            return None
        features = self.model.vision(self.seen(views).to(self.model.dtype))
        found = seen.ood_score(summary(features).float().cpu(), modality)
        return None if found is None else float(found.median())

    def _check_familiar(self, image: MedicalImage, found: float | None, allow_ood: bool) -> None:
        """Warn of an image that is unlike the training images, and refuse one that is far from them."""
        if found is None or found <= 1:
            return
        says = (
            f"As {str(image.modality).upper()} the image is unlike all that the model was trained on "
            f"({found:.1f} times the limit)."
        )
        if found > REFUSED_ABOVE and not allow_ood:
            raise CannotAssess(
                f"Cannot assess: {says} Check the modality (--modality on the command line); "
                "to go on nevertheless, pass unfamiliar=True (--unfamiliar)."
            )
        warnings.warn(f"{says} Treat what it says, and what it restores, with doubt.", stacklevel=5)

    def _describe(self, views: Tensor, modality: Modality | None, instruction: str | None) -> list[QualityDescription]:
        model, tokens = self.model, self.tokenizer.encode(instruction or DEFAULT_ASSESS)
        found, looks = [], set()
        for one in self.seen(views).split(1):
            context = model.start(1)
            model.append_vision(context, one)
            model.append_text(context, [tokens])
            looks.add(self._look(context))
            constraint = DescriptionConstraint(self.tokenizer, modality=modality)
            ids = model.generate(context, constraint=constraint, max_tokens=160)[0]
            found.append(QualityDescription.from_text(self.tokenizer.decode(ids)))
        if modality is not None and modality not in looks:
            seen = " or ".join(sorted(str(look).upper() for look in looks))
            warnings.warn(
                f"The image is read as {modality.value.upper()} and looks like {seen} to the assessor. "
                "Check the modality (--modality on the command line).",
                stacklevel=5,
            )
        return found

    def _look(self, context: Context) -> Modality | None:
        """Return the modality that the network itself would write."""
        constraint = DescriptionConstraint(self.tokenizer)
        ids = self.model.generate(context.fork(), constraint=constraint, max_tokens=len(constraint.literals[0]) + 4)[0]
        return constraint.chosen_modality(ids)


def _key_slices(image: MedicalImage) -> list[int]:
    count = image.shape[0]
    if count <= KEY_SLICES:
        return list(range(count))
    return [round((i + 1) * (count - 1) / (KEY_SLICES + 1)) for i in range(KEY_SLICES)]
