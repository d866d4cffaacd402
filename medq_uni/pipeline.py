"""The main job: assess an image, then restore it under the guidance of the assessment.

Only this module knows the order: image -> tensor -> description -> latent -> image.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medq_uni import __version__
from medq_uni.assessor import Assessor
from medq_uni.config import Execution, SamplerConfig
from medq_uni.description import DEFAULT_RESTORE, FOLLOW_REPORT, QualityDescription
from medq_uni.files import check_target, files_digest
from medq_uni.image import MedicalImage
from medq_uni.io.discover import ImageItem
from medq_uni.io.read_write import check_writable, read_image
from medq_uni.preprocess import (
    CannotAssess,
    Inverse,
    as_channels,
    as_views,
    assessable,
    spread_as_views,
    to_image,
    to_tensor,
)
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.result import Restoration, targets_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Verdict, restoration_strength
from medq_uni.tiles import Tile, blend, tile_grid

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

__all__ = ["CannotAssess", "Restoration", "RestoreSettings", "Restorer"]


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


class Restorer:
    """Assesses and restores images with one pretrained model."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained
        self.model = pretrained.model.eval()
        self.device = self.model.device
        self.tokenizer = pretrained.tokenizer
        self.assessor = Assessor(pretrained)

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
                :func:`medq_uni.pretrained.load_pretrained`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_pretrained(name, device=device, execution=execution, revision=revision, offline=offline))

    def assess(
        self, image: MedicalImage, *, instruction: str | None = None, allow_ood: bool = False
    ) -> QualityDescription:
        """Return what is wrong with the image; see :meth:`medq_uni.assessor.Assessor.assess`."""
        return self.assessor.assess(image, instruction=instruction, allow_ood=allow_ood).description

    @torch.inference_mode()
    def restore(
        self,
        image: MedicalImage,
        *,
        description: QualityDescription | None = None,
        instruction: str | None = None,
        settings: RestoreSettings | None = None,
        progress: Progress | None = None,
        use_fidelity: bool = True,
    ) -> Restoration:
        """Return the image restored under the guidance of its description.

        Args:
            image: 2-D slice or volume; restored slice by slice.
            description: What guides the restoration; by default what :meth:`assess` says. An edited
                description steers, by its words and by its grade: a worse stated severity removes more (see
                :func:`medq_uni.taxonomy.restoration_strength`; the grade found is that of :meth:`assess`).
            instruction: Words of the user, instead of the standing instruction.
            settings: Sampler, seed, whether to restore what is good already.
            progress: Called with the number of tiles done and their total.
            use_fidelity: Whether the decoder may see the degraded image; False shows what the restoration
                expert alone contributes.

        Raises:
            CannotAssess: See :meth:`assess`.
        """
        began = time.perf_counter()
        settings = settings or RestoreSettings()
        image = assessable(image)
        is_edited = description is not None
        assessment = self.assessor.assess(image, allow_ood=settings.allow_ood)
        found = assessment.description
        recorded = self.recorded(settings, instruction, description)
        description = description or found
        if description.modality is not image.modality:
            warnings.warn(
                f"The description speaks of {description.modality.value}, the image is "
                f"{image.modality.value if image.modality else 'unknown'}; restoring as described.",
                stacklevel=2,
            )
        stated = max(description.worst, Severity.MILD if settings.force else Severity.NONE, key=lambda s: s.level)
        strength = restoration_strength(found.worst, stated) if is_edited else 1.0
        recorded |= {"assessment": found.to_text(), "unlikeness": assessment.ood_score, "strength": strength}
        if description.verdict is Verdict.GOOD and not description.degradations and not settings.force:
            zero = image.with_voxels(np.zeros_like(image.voxels))
            seconds = time.perf_counter() - began
            return Restoration(image, description, image, None, zero, recorded, seconds, True)
        words = instruction or (FOLLOW_REPORT if is_edited else DEFAULT_RESTORE)
        views, inverse = to_tensor(image, multiple=self.assessor.multiple)
        drawn, spread = self._restore_views(views, words, description, settings, progress, use_fidelity)
        mean = as_views(drawn, inverse.scaling)
        restored = _with_strength(image, to_image(mean, inverse), strength, inverse)
        uncertainty = None
        if spread is not None:
            uncertainty = self._uncertainty(spread_as_views(spread, inverse.scaling), mean, inverse)
        residual = image.with_voxels(restored.voxels - image.voxels)
        seconds = time.perf_counter() - began
        return Restoration(image, description, restored, uncertainty, residual, recorded, seconds, False)

    def run(
        self,
        source: str | Path | ImageItem,
        target: str | Path,
        *,
        modality: Modality | None = None,
        overwrite: bool = False,
        maps: bool = True,
        **options: Any,
    ) -> Restoration:
        """Read a file or DICOM series, restore it, write the result, and return it.

        Args:
            source: Image file, folder with one series, or an item of :func:`medq_uni.io.find_images`; never written to.
            target: Where the restored image goes, format by suffix; refused before the work where it cannot be written.
            modality: Overrides what the header says.
            overwrite: Whether an existing target may be replaced.
            maps: Also write residual and uncertainty beside it.
            **options: See :meth:`restore`.

        Raises:
            UnreadableImage: If the source is not one readable image.
            UnwritableImage: If the target is the source, exists, or cannot hold the image.
            CannotAssess: See :meth:`assess`.
        """
        origins = source.files if isinstance(source, ImageItem) else (Path(source),)
        for path in targets_of(Path(target)):
            check_target(path, sources=origins, overwrite=overwrite)
        image = read_image(source, modality=modality)
        check_writable(image, Path(target), overwrite=overwrite)
        source_said = source_record(getattr(image.source, "paths", ()), modality)  # before the work: it may change
        result = replace(self.restore(image, **options), source=source_said)
        result.save(target, maps=maps, overwrite=overwrite)
        return result

    def _restore_views(
        self,
        views: Tensor,
        words: str,
        description: QualityDescription,
        settings: RestoreSettings,
        progress: Progress | None,
        use_fidelity: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the restored slices in the channels of the network, (Z, C, H, W)."""
        tiles = tile_grid(views.shape, size=self.pretrained.tile_size)
        texts = (self.tokenizer.encode(words), self.tokenizer.encode_description(description))
        means, spreads = [], []
        for first in range(0, len(tiles), settings.batch_size):
            chunk = tiles[first : first + settings.batch_size]
            mean, spread = self._restore_tiles(views, chunk, texts, settings, use_fidelity)
            means += list(mean)
            spreads += list(spread) if spread is not None else []
            if progress is not None:
                progress(first + len(chunk), len(tiles))
        shape = (len(views), means[0].shape[0], *views.shape[-2:])
        return blend(means, tiles, shape), blend(spreads, tiles, shape) if spreads else None

    def _restore_tiles(
        self,
        views: Tensor,
        tiles: Sequence[Tile],
        texts: tuple[list[int], list[int]],
        settings: RestoreSettings,
        use_fidelity: bool,
    ) -> tuple[Tensor, Tensor | None]:
        model, count = self.model, len(tiles)
        channels = self.pretrained.config.codec.in_channels
        degraded = as_channels(torch.stack([tile.cut(views) for tile in tiles]), channels=channels)
        degraded = degraded.to(self.device)
        offset = torch.tensor([tile.origin for tile in tiles]) // self.assessor.multiple
        fidelity = model.codec.features(degraded) if use_fidelity else None
        latent = model.codec.encode(degraded)
        context = model.start(count, latent_offset=offset)
        model.append_latent(context, latent)
        model.append_vision(context, self.assessor.seen(torch.stack([views[tile.z] for tile in tiles])))
        for text in texts:
            model.append_text(context, [text] * count)
        images, variances = [], []
        sampler = settings.sampler or self.pretrained.sampler
        at_once = max(1, settings.batch_size // count)
        for first in range(0, sampler.num_samples, at_once):
            numbers = range(first, min(first + at_once, sampler.num_samples))
            some = replace(sampler, num_samples=len(numbers))
            noise = self._noise(latent, tiles, numbers, settings.seed) if sampler.start == "noise" else None
            shape = (latent.shape[-2], latent.shape[-1])
            sampled = model.sample(context, shape, some, start_latent=latent, noise=noise)
            for restored, states in zip(sampled.latent, sampled.states, strict=True):
                decoded = model.codec.decode(restored, fidelity, states)
                images.append(decoded.image)
                if decoded.log_variance is not None:
                    variances.append(decoded.log_variance.exp())
        stacked = torch.stack(images)
        variance = torch.stack(variances).mean(0) if variances else None
        if len(images) > 1:
            variance = stacked.var(0) + (variance if variance is not None else 0)
        return stacked.mean(0).float().cpu(), None if variance is None else variance.float().cpu().sqrt()

    def _noise(self, latent: Tensor, tiles: Sequence[Tile], numbers: range, seed: int) -> Tensor:
        """Return the noise of every sample of every tile, (tiles x samples, P, N).

        Each has a seed of its own, so that the result does not depend on how tiles and samples are batched.
        """
        tokens = self.model.latent_tokens(latent)
        generators = [generator_of(seed, number, *tile.key) for tile in tiles for number in numbers]
        return torch.stack([torch.randn(tokens.shape[1:], generator=generator) for generator in generators])

    def _uncertainty(self, spread: Tensor, mean: Tensor, inverse: Inverse) -> MedicalImage:
        image = inverse.image
        height, width = image.shape[1:]
        scale = self.pretrained.uncertainty_scale.get(str(image.modality), 1.0)
        sigma = scale * inverse.scaling.spread_from_views(spread, mean)[:, :height, :width].numpy()
        return image.with_voxels(np.where(inverse.passthrough, 0, sigma))

    def recorded(
        self,
        settings: RestoreSettings | None = None,
        instruction: str | None = None,
        description: QualityDescription | None = None,
    ) -> dict[str, Any]:
        """Return what the record of every restoration with these options says, whatever the image.

        Args:
            settings: As for :meth:`restore`.
            instruction: As for :meth:`restore`.
            description: That of the user, None where the model's own guides.
        """
        settings = settings or RestoreSettings()
        return {
            "model": self.pretrained.config.name,
            "weights_sha256": self.pretrained.sha256,
            "precision": self.pretrained.execution.precision,
            "sampler": asdict(settings.sampler or self.pretrained.sampler),
            "seed": settings.seed,
            "force": settings.force,
            "unfamiliar": settings.allow_ood,
            "instruction": instruction,
            "description_from": "model" if description is None else "user",
            "stated": None if description is None else description.to_text(),
            "version": __version__,
        }


def source_record(files: Sequence[Path], modality: Modality | None) -> dict[str, Any]:
    """Return what the record of a restoration says of its source.

    Args:
        files: The files of the image.
        modality: That the user stated in place of the header, None where the header decided.

    Raises:
        OSError: If a file cannot be read.
    """
    return {"sha256": files_digest(files), "stated_modality": None if modality is None else modality.value}


def _with_strength(image: MedicalImage, restored: MedicalImage, strength: float, inverse: Inverse) -> MedicalImage:
    """Return the image with this share of the correction, inside the range of the network."""
    if strength == 1:
        return restored
    values = image.voxels + np.float32(strength) * (restored.voxels - image.voxels)
    values = np.clip(values, inverse.scaling.low, inverse.scaling.high)
    return image.with_voxels(np.where(inverse.passthrough, image.voxels, values))
