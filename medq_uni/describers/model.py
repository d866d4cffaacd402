"""A model of ours as a describer."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from medq_uni import __version__
from medq_uni.describers.cache import AnswerCache, question_key
from medq_uni.describers.describer import Answer, Outcome, Subject
from medq_uni.description import DescriptionError
from medq_uni.errors import MedQError, capture_warnings
from medq_uni.image import MedicalImage
from medq_uni.preprocess import CannotAssess
from medq_uni.restorer import Restorer


class ModelDescriber:
    """A model of ours, asked as ``medq assess`` asks it.

    Args:
        name: What it is called.
        restorer: The loaded model.
        cache: Where answers are kept; None keeps none.
    """

    threads = 1

    def __init__(self, name: str, restorer: Restorer, cache: AnswerCache | None = None) -> None:
        self.name, self._restorer, self._cache = name, restorer, cache

    def __call__(self, subject: Subject) -> Answer:
        """Return what the model says, with what it warned of; an image it declines is refused."""
        if self._cache is None:
            return self._ask(subject.image)
        key = question_key("model", self._restorer.pretrained.sha256, __version__, _digest(subject.image))
        answer = self._cache.answer(key)
        if answer is None:
            answer = self._ask(subject.image)
            self._cache.keep(key, answer)
        return answer

    def _ask(self, image: MedicalImage) -> Answer:
        with capture_warnings() as warned:
            answer = self._assessed(image)
        return replace(answer, warning=" ".join(warned))

    def _assessed(self, image: MedicalImage) -> Answer:
        try:
            # figures are no part of what reviewers and judges compare
            return Answer.described(replace(self._restorer.assess(image), measurements=()))
        except CannotAssess as error:
            return Answer(Outcome.REFUSED, reason=str(error))
        except DescriptionError as error:
            return Answer(Outcome.FAILED, reason=str(error))
        except MedQError as error:  # values that no image of the modality has
            return Answer(Outcome.REFUSED, reason=f"Cannot assess: {error}")


def _digest(image: MedicalImage) -> str:
    digest = hashlib.sha256(f"{image.modality}/{image.units}/{image.shape}".encode())
    digest.update(image.voxels.tobytes())
    if image.padding is not None:
        digest.update(image.padding.tobytes())
    return digest.hexdigest()
