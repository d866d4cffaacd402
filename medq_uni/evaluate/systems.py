"""What is compared: the degraded input, non-local means, the model, and the model with a part switched off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from medq_uni.evaluate.sets import Case
from medq_uni.image import MedicalImage
from medq_uni.pipeline import Restorer, RestoreSettings
from medq_uni.preprocess import to_image, to_tensor
from medq_uni.report import scores
from medq_uni.restoration import Restoration
from medq_uni.taxonomy import Task

System = Callable[[Case], MedicalImage]
NLM_STRENGTHS = (0.3, 0.6, 0.9, 1.2, 1.8)
"""Candidates for h / sigma of non-local means."""
Table = dict[Task, float]


def degraded_input(case: Case) -> MedicalImage:
    """Return the input as it is."""
    return case.degraded


def nlm(case: Case, strength: float) -> MedicalImage:
    """Return the slice after non-local means (Buades et al. 2005, scikit-image, 5 x 5 patches, distance 6).

    Args:
        case: Its degraded slice is filtered; sigma is estimated from it.
        strength: h as a multiple of the estimated sigma.
    """
    from skimage.restoration import denoise_nl_means, estimate_sigma

    filtered = []
    for values in case.degraded.voxels:
        sigma = float(estimate_sigma(values)) or 1e-6
        filtered.append(
            denoise_nl_means(values, patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma, fast_mode=True)
        )
    return case.degraded.with_voxels(np.stack(filtered))


def tune_nlm(cases: Sequence[Case]) -> Table:
    """Return, per task, the strength of non-local means with the best mean PSNR on ``cases``."""
    best: Table = {}
    for task in Task:
        mine = [case for case in cases if case.task is task]
        if mine:
            means = {s: np.mean([scores(nlm(c, s), c.reference)[0] for c in mine]) for s in NLM_STRENGTHS}
            best[task] = max(means, key=lambda strength: means[strength])
    return best


class ModelSystems:
    """The model as it is used, and with parts switched off.

    Args:
        restorer: Loaded model.
    """

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer
        self._kept: dict[Case, Restoration] = {}

    def restoration(self, case: Case) -> Restoration:
        """Return what the main job makes of a case; it is done once per case and kept."""
        if case not in self._kept:
            self._kept[case] = self.restorer.restore(case.degraded)
        return self._kept[case]

    def default(self, case: Case) -> MedicalImage:
        """Return what the main job returns: Good images come back as they are."""
        return self.restoration(case).restored

    @torch.inference_mode()
    def expert_bypassed(self, case: Case) -> MedicalImage:
        """Return what decoder and fidelity path make of the degraded latent: no expert is asked."""
        model = self.restorer.model
        views, inverse = to_tensor(case.degraded, multiple=self.restorer.pretrained.config.token_pixels)
        views = views.to(self.restorer.device)
        decoded = model.codec.decode(model.codec.encode(views), model.codec.features(views))
        return to_image(decoded.image, inverse)

    def path_off(self, case: Case) -> MedicalImage:
        """Return the restoration expert's latent, decoded without the fidelity path."""
        settings = RestoreSettings(force=True)
        return self.restorer.restore(case.degraded, settings=settings, use_fidelity=False).restored

    @torch.inference_mode()
    def codec_only(self, case: Case) -> MedicalImage:
        """Return the true image after encoding and decoding: the bound that the codec sets."""
        model = self.restorer.model
        views, inverse = to_tensor(case.reference, multiple=self.restorer.pretrained.config.token_pixels)
        return to_image(model.codec.decode(model.codec.encode(views.to(self.restorer.device))).image, inverse)
