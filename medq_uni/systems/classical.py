"""Classical filters, each by its library, with one strength per task that is tuned on validation slices."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medq_uni.config import ConfigError
from medq_uni.scoring import scores
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Severity, Task

Filtered = Callable[[np.ndarray, float], np.ndarray]
MOST_TUNING_CASES = 12
"""Validation slices of a task on which strengths are compared."""
SMALLEST_SIGMA = 1e-6


@dataclass(frozen=True)
class Filter:
    """One family of filters.

    Attributes:
        function: From a slice and a strength to the filtered slice.
        strengths: Candidates; the best on validation slices is used.
        source: Publication.
    """

    function: Filtered
    strengths: tuple[float, ...]
    source: str


def _sigma(values: np.ndarray) -> float:
    """Return the noise standard deviation from the wavelet coefficients (Donoho and Johnstone 1994)."""
    from skimage.restoration import estimate_sigma

    return max(float(estimate_sigma(values)), SMALLEST_SIGMA)  # type: ignore[no-untyped-call]


def _gaussian(values: np.ndarray, strength: float) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(values, strength))


def _bilateral(values: np.ndarray, strength: float) -> np.ndarray:
    from skimage.restoration import denoise_bilateral

    low, high = float(values.min()), float(values.max())
    span = max(high - low, SMALLEST_SIGMA)  # the library wants positive values, and bins of a bounded range
    level = (values - low) / span
    filtered = denoise_bilateral(level, sigma_color=strength * _sigma(values) / span, sigma_spatial=1.5, bins=1000)
    return np.asarray(filtered * span + low)


def _total_variation(values: np.ndarray, strength: float) -> np.ndarray:
    from skimage.restoration import denoise_tv_chambolle

    sigma = _sigma(values)
    smooth = denoise_tv_chambolle(values / sigma, weight=strength)  # type: ignore[no-untyped-call]
    return np.asarray(smooth * sigma)


def _non_local_means(values: np.ndarray, strength: float) -> np.ndarray:
    from skimage.restoration import denoise_nl_means

    sigma = _sigma(values)
    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return np.asarray(denoise_nl_means(values, h=strength * sigma, sigma=sigma, **options))


def _wavelet(values: np.ndarray, strength: float) -> np.ndarray:
    from skimage.restoration import denoise_wavelet

    options = {"method": "BayesShrink", "mode": "soft", "wavelet": "db4", "rescale_sigma": False}
    return np.asarray(denoise_wavelet(values, sigma=strength * _sigma(values), **options))


def _bm3d(values: np.ndarray, strength: float) -> np.ndarray:
    from bm3d import bm3d

    return np.asarray(bm3d(values, sigma_psd=strength * _sigma(values)))


FILTERS: Mapping[str, Filter] = {
    "bilateral": Filter(_bilateral, (1, 2, 4, 8, 16, 64), "Tomasi and Manduchi 1998"),
    "tv": Filter(_total_variation, (0.25, 0.5, 1, 2, 4, 16, 64, 256), "Rudin et al. 1992, Chambolle 2004"),
    "nlm": Filter(_non_local_means, (0.3, 0.6, 0.9, 1.2, 1.8, 4, 16, 64), "Buades et al. 2005"),
    "wavelet": Filter(_wavelet, (0.5, 1, 1.5, 2.5, 4, 16, 64), "BayesShrink, Chang et al. 2000"),
    "gaussian": Filter(_gaussian, (0.4, 0.6, 0.8, 1, 1.4, 2), "a linear low-pass; its strength is sigma in pixels"),
    "bm3d": Filter(_bm3d, (0.5, 1, 1.5, 2.5, 4, 16), "Dabov et al. 2007"),
}
"""By the name under which they are asked for; of scikit-image, SciPy (the Gaussian) and the authors of BM3D."""
Strengths = tuple[tuple[Task, float], ...]


def is_at_hand(name: str) -> bool:
    """Return whether the library of a filter is installed.

    That of BM3D forbids commercial use. It does not come with this package, and is used where a user has installed it.
    """
    return name != "bm3d" or importlib.util.find_spec("bm3d") is not None


def filtered(case: Case, name: str, strength: float) -> np.ndarray:
    """Return the degraded slices of a case after a filter, in their own units (Z, Y, X)."""
    function = FILTERS[name].function
    return np.stack([function(values.astype(np.float64), strength) for values in case.degraded.voxels])


def tune(name: str, cases: Sequence[Case]) -> Strengths:
    """Return, per task, the strength with the best mean PSNR over the degraded ones of some validation slices.

    Raises:
        ConfigError: If there is none.
    """
    best = []
    for task in Task:
        mine = [case for case in cases if case.task is task and case.severity is not Severity.NONE]
        mine = mine[:MOST_TUNING_CASES]
        if mine:
            means = {s: _mean_psnr(name, s, mine) for s in FILTERS[name].strengths}
            best.append((task, max(means, key=lambda strength: means[strength])))
    if not best:
        raise ConfigError(
            f"{name} is tuned on validation slices, and there are none. Add a benchmark with a split val."
        )
    return tuple(best)


def _mean_psnr(name: str, strength: float, cases: Sequence[Case]) -> float:
    images = (case.degraded.with_voxels(filtered(case, name, strength)) for case in cases)
    return float(np.mean([scores(image, case.reference)[0] for image, case in zip(images, cases, strict=True)]))


@dataclass(frozen=True)
class Classical:
    """A tuned filter as a system. It is told the task of a slice, which the networks are not.

    Attributes:
        name: Key of :data:`FILTERS`.
        strengths: Per task; see :func:`tune`.
    """

    name: str
    strengths: Strengths
    parameters: int = 0

    @property
    def identity(self) -> str:
        """Return the strengths."""
        return ", ".join(f"{task.value} {strength:g}" for task, strength in self.strengths)

    @functools.cached_property
    def _by_task(self) -> dict[Task, float]:
        return dict(self.strengths)

    def restore(self, case: Case) -> Output:
        """Return the filtered slice.

        Raises:
            ConfigError: If the task was not tuned.
        """
        if case.task not in self._by_task:
            raise ConfigError(f"{self.name} was not tuned for {case.task.value}: no validation slice has that task.")
        return Output(case.degraded.with_voxels(filtered(case, self.name, self._by_task[case.task])))
