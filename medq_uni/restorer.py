"""Restoring an image under the guidance of its description: tiles, samples, and how far the correction goes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from medq_uni import __version__
from medq_uni.assessor import Assessment, Assessor
from medq_uni.config import Execution, SamplerConfig
from medq_uni.description import DEFAULT_RESTORE, FOLLOW_REPORT, QualityDescription
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.image_like import ImageLike, Stated, as_image
from medq_uni.inference import CODEC_ONLY, EXPERTS_BYPASSED, WHOLE, Condition, Parts, Restored
from medq_uni.measurement import Quantity
from medq_uni.physical_units import network_values
from medq_uni.preprocess import Inverse, assessable
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.quantities import Quantities, known_with
from medq_uni.result import Provenance, Restoration, RunOptions
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity, Verdict, restoration_strength
from medq_uni.tiles import Tile, blend, tile_grid

WITHHELD = (
    "The image is not good and comes back unchanged: when the model was calibrated, too many images like it were made "
    "worse. Pass a strength (--strength) to restore it nevertheless."
)
"""Why an image that is not good is left unchanged."""
UNTOLD = "This model cannot be told figures: those of the description have no effect."
Progress = Callable[[int, int], None]
"""Called with the number of tiles done and their total."""


@dataclass(frozen=True, kw_only=True)
class RestoreSettings:
    """How an image is restored."""

    sampler: SamplerConfig | None = None
    """Start, steps, samples and guidance; None takes those of the model."""
    seed: int = 0
    """Seed of the noise, where there is any."""
    force: bool = False
    """Restore even what is judged Good."""
    batch_size: int = 4
    """Tiles, or samples of tiles, that are restored at once."""
    allow_ood: bool = False
    """Go on where the image is unlike all that the model was trained on."""
    guess: bool = False
    """Guess a modality that nothing states from the intensities."""
    strength: float | None = None
    """Share of the correction that is applied, from 0 to 1; None takes what the calibration of the model says."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise MedQError(f"strength is a share from 0 to 1, got {self.strength:g}.")


class Restorer:
    """Assesses and restores images with one pretrained model."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained
        self.model = pretrained.model.eval()
        self.device = self.model.device
        self.assessor = Assessor(pretrained)
        self.inference = self.assessor.inference

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "nano",
        *,
        device: str | torch.device | None = None,
        execution: Execution | None = None,
        revision: str | None = None,
        offline: bool | None = None,
    ) -> Restorer:
        """Load a model by name, from a folder of weights, or from the hub.

        Args:
            name: ``nano`` (comes with the package), a folder of ours or of a released checkpoint, or ``owner/name``.
            device: Where to compute; a GPU where there is one.
            execution: Numbers and placement of the weights.
            revision: Branch, tag or commit on the hub.
            offline: Open no socket.

        Raises:
            WeightsMismatch: If a file is missing, altered, or does not fit its configuration; see
                :func:`medq_uni.pretrained.load.load_pretrained`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_pretrained(name, device=device, execution=execution, revision=revision, offline=offline))

    def assess(
        self,
        image: ImageLike,
        *,
        instruction: str | None = None,
        allow_ood: bool = False,
        guess: bool = False,
        **stated: Unpack[Stated],
    ) -> QualityDescription:
        """Return what is wrong with the image; see :meth:`medq_uni.assessor.Assessor.assess`.

        Args:
            image: A path, an image, an array, or an image of nibabel or SimpleITK; see
                :func:`medq_uni.image_like.as_image`.
            instruction: Question to ask instead of the usual one.
            allow_ood: Go on where the image is unlike all that the model was trained on.
            guess: Guess a modality that nothing states from the intensities, with a warning.
            **stated: ``modality``, ``units``, ``spacing`` and ``frame``, where the image does not say them; see
                :class:`medq_uni.image_like.Stated`.

        Raises:
            CannotAssess: See :meth:`medq_uni.assessor.Assessor.assess`.
            MedQError: If it is no image.
        """
        taken = as_image(image, **stated)
        return self.assessor.assess(taken, instruction=instruction, allow_ood=allow_ood, guess=guess).description

    @torch.inference_mode()
    def restore(
        self,
        image: ImageLike,
        *,
        description: QualityDescription | str | None = None,
        instruction: str | None = None,
        settings: RestoreSettings | None = None,
        progress: Progress | None = None,
        parts: Parts = WHOLE,
        **stated: Unpack[Stated],
    ) -> Restoration:
        """Return the image restored under the guidance of its description.

        Args:
            image: 2-D slice or volume, restored slice by slice: a path, an image, an array, or an image of nibabel or
                SimpleITK; see :func:`medq_uni.image_like.as_image`.
            description: What guides the restoration, or its text; by default what :meth:`assess` says. An edited
                description steers, by its words and by its grade: a worse stated severity removes more (see
                :func:`medq_uni.taxonomy.restoration_strength`; the grade found is that of :meth:`assess`).
            instruction: Words of the user, instead of the standing instruction.
            settings: Sampler, seed, whether to restore what is good already.
            progress: Called with the number of tiles done and their total.
            parts: Parts of the network that take part; leaving some out shows what they contribute.
            **stated: ``modality``, ``units``, ``spacing`` and ``frame``, where the image does not say them; see
                :class:`medq_uni.image_like.Stated`.

        Raises:
            CannotAssess: See :meth:`assess`.
            MedQError: If it is no image, or the description is none.
        """
        began = time.perf_counter()
        settings, description = settings or RestoreSettings(), _described(description)
        image = assessable(as_image(image, **stated), guess=settings.guess)
        assessment = self.assessor.assess(image, allow_ood=settings.allow_ood)
        guiding = description or assessment.description
        _check_modality(guiding, image)
        grade = max(guiding.worst, Severity.MILD if settings.force else Severity.NONE, key=lambda one: one.level)
        found = assessment.description.worst
        strength = restoration_strength(found, grade) if description is not None else 1.0
        step = self._step(guiding) if settings.strength is None else settings.strength
        made = self._provenance(settings, instruction, description, assessment, strength * step)
        is_good = guiding.verdict is Verdict.GOOD and not guiding.degradations and not settings.force
        if is_good or step == 0:
            if not is_good and settings.strength is None:
                made = replace(made, withheld=WITHHELD)
                warnings.warn(WITHHELD, stacklevel=2)
            zero = image.with_voxels(np.zeros_like(image.voxels))
            return Restoration(image, guiding, image, None, zero, made, time.perf_counter() - began, True)
        words = instruction or (DEFAULT_RESTORE if description is None else FOLLOW_REPORT)
        views, inverse = self.inference.preprocessor.views(image)
        figures = {} if description is None else network_values(description.measurements, image, inverse.scaling)
        drawn = self._restore_views(views, (words, guiding), figures, settings, parts, progress)
        whole, mean = self.inference.preprocessor.image(drawn.image, inverse)
        restored = _with_strength(image, whole, strength * step, inverse)
        uncertainty = None if drawn.deviation is None else self._uncertainty(drawn.deviation, mean, inverse, guiding)
        residual = image.with_voxels(restored.voxels - image.voxels)
        return Restoration(image, guiding, restored, uncertainty, residual, made, time.perf_counter() - began, False)

    @torch.inference_mode()
    def decode(self, image: MedicalImage, *, skip: bool) -> MedicalImage:
        """Return what the decoder makes of an image without any expert: no assessment, no words, no tiles.

        Args:
            image: 2-D slice or volume with a modality.
            skip: Whether the decoder sees the image at full resolution beside its latent. With it, a degraded image
                is restored by the decoder alone; without it, a clean one is what the codec can keep of it at best.
        """
        views, inverse = self.inference.preprocessor.views(image)
        parts = EXPERTS_BYPASSED if skip else CODEC_ONLY
        decoded = self.inference.restore(views, Condition(), sampler=self.pretrained.sampler, parts=parts)
        return self.inference.preprocessor.image(decoded.image, inverse)[0]

    def options(
        self,
        settings: RestoreSettings | None = None,
        instruction: str | None = None,
        description: QualityDescription | None = None,
    ) -> RunOptions:
        """Return what the record of every restoration with these options says, whatever the image.

        Args:
            settings: As for :meth:`restore`.
            instruction: As for :meth:`restore`.
            description: That of the user, None where the model's own guides.
        """
        settings = settings or RestoreSettings()
        return RunOptions(
            model=self.pretrained.config.name,
            weights_sha256=self.pretrained.sha256,
            precision=self.pretrained.execution.precision,
            sampler=settings.sampler or self.pretrained.sampler,
            seed=settings.seed,
            force=settings.force,
            allow_ood=settings.allow_ood,
            strength_asked=settings.strength,
            instruction=instruction,
            description_from="model" if description is None else "user",
            stated=None if description is None else description.to_text(),
            version=__version__,
        )

    def _provenance(
        self,
        settings: RestoreSettings,
        instruction: str | None,
        description: QualityDescription | None,
        assessment: Assessment,
        strength: float,
    ) -> Provenance:
        return Provenance(
            options=self.options(settings, instruction, description),
            assessment=assessment.description.to_text(),
            ood_score=assessment.ood_score,
            strength=strength,
            log_odds=assessment.speaks.log_odds,
            probability=assessment.probability,
        )

    def _restore_views(
        self,
        views: Tensor,
        words: tuple[str, QualityDescription],
        figures: Mapping[Quantity, float],
        settings: RestoreSettings,
        parts: Parts,
        progress: Progress | None,
    ) -> Restored:
        """Return the restored slices in the channels of the codec, blended from tiles."""
        tiles = tile_grid(views.shape, size=self.inference.preprocessor.largest_tile)
        texts = (self.inference.tokenizer.encode(words[0]), self.inference.tokenizer.encode_description(words[1]))
        told = self._told_quantities(views, tiles, words[1], figures)
        means, spreads = [], []
        for first in range(0, len(tiles), settings.batch_size):
            chunk = tiles[first : first + settings.batch_size]
            condition = Condition(
                texts=[[text] * len(chunk) for text in texts],
                seen=torch.stack([views[tile.z] for tile in chunk]),
                quantities=None if told is None else torch.stack([told[tile.z] for tile in chunk]),
            )
            restored = self._restore_tiles(views, chunk, condition, settings, parts)
            means += list(restored.image.cpu())
            spreads += [] if restored.deviation is None else list(restored.deviation.cpu())
            if progress is not None:
                progress(first + len(chunk), len(tiles))
        shape = (len(views), means[0].shape[0], *views.shape[-2:])
        return Restored(blend(means, tiles, shape), blend(spreads, tiles, shape) if spreads else None)

    def _told_quantities(
        self, views: Tensor, tiles: Sequence[Tile], guiding: QualityDescription, figures: Mapping[Quantity, float]
    ) -> list[Tensor] | None:
        """Return what the decoder is told about every slice, read from all of the slice; None where it reads nothing.

        The description chooses which quantities count; figures that the user states take the place of readings.
        """
        told = []
        known = known_with([degradation.task for degradation in guiding.degradations])
        for z in range(len(views)):
            windows = torch.stack([tile.cut(views) for tile in tiles if tile.z == z])
            reading = self.inference.read_quantities(windows, guiding.modality)
            if reading is None:
                if figures:
                    warnings.warn(
                        "This model cannot be told figures: those of the description have no effect.", stacklevel=4
                    )
                return None
            values = {**reading.median().quantities(guiding.modality, known).values, **figures}
            told.append(Quantities(guiding.modality, values).told())
        return told

    def _restore_tiles(
        self,
        views: Tensor,
        tiles: Sequence[Tile],
        condition: Condition,
        settings: RestoreSettings,
        parts: Parts,
    ) -> Restored:
        def noise(numbers: range) -> Tensor:
            """Each sample of each tile has a seed of its own, so that batching does not change the result."""
            size = self.inference.noise_shape(tiles[0].height, tiles[0].width)
            generators = [generator_of(settings.seed, number, *tile.key) for tile in tiles for number in numbers]
            return torch.stack([torch.randn(size, generator=generator) for generator in generators])

        return self.inference.restore(
            torch.stack([tile.cut(views) for tile in tiles]),
            condition,
            sampler=settings.sampler or self.pretrained.sampler,
            noise=noise,
            offset=torch.tensor([tile.origin for tile in tiles]) // self.inference.preprocessor.multiple,
            parts=parts,
            samples_at_once=max(1, settings.batch_size // len(tiles)),
        )

    def _step(self, guiding: QualityDescription) -> float:
        """Return which share of a correction the calibration of the model applies to such images."""
        calibration = self.pretrained.calibration
        if calibration is None:
            return 1.0
        return calibration.step((one.task, one.severity) for one in guiding.degradations)

    def _uncertainty(self, spread: Tensor, mean: Tensor, inverse: Inverse, guiding: QualityDescription) -> MedicalImage:
        found = self.inference.preprocessor.deviation(spread, mean, inverse)
        calibration, scale = self.pretrained.calibration, None
        if calibration is not None:
            scale = calibration.scale(one.task for one in guiding.degradations)
        if scale is None:
            scale = self.pretrained.uncertainty_scale.get(str(inverse.image.modality), 1.0)
        return found.with_voxels(np.float32(scale) * found.voxels)


def _described(given: QualityDescription | str | None) -> QualityDescription | None:
    """Return a description that was given as such or as text."""
    if isinstance(given, str):
        return QualityDescription.from_text(given, strict=False)
    if given is not None and not isinstance(given, QualityDescription):
        raise MedQError(f"description must be a QualityDescription or its text; got {type(given).__name__}.")
    return given


def _check_modality(description: QualityDescription, image: MedicalImage) -> None:
    if description.modality is not image.modality:
        warnings.warn(
            f"The description speaks of {description.modality.value}, the image is "
            f"{image.modality.value if image.modality else 'unknown'}; restoring as described.",
            stacklevel=3,
        )


def _with_strength(image: MedicalImage, restored: MedicalImage, strength: float, inverse: Inverse) -> MedicalImage:
    """Return the image with this share of the correction, inside the range of the network."""
    if strength == 1:
        return restored
    values = image.voxels + np.float32(strength) * (restored.voxels - image.voxels)
    values = np.clip(values, inverse.scaling.low, inverse.scaling.high)
    return image.with_voxels(np.where(inverse.passthrough, image.voxels, values))
