"""Data consistency: does the output contradict what the simulated scanner has measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medq_uni.image import MedicalImage
from medq_uni.physics import ct, mri, pet
from medq_uni.physics.degrade import slice_generator
from medq_uni.physics.effect import foreground
from medq_uni.physics.operators import Cartesian, Radon
from medq_uni.safety.output_cache import PHANTOMS, Measurement, OutputCache, SafetyCase, SafetySettings, degraded_only
from medq_uni.taxonomy import Task

BODY_MARGIN_PX = 3
"""How far outside the body a CT image is still compared."""
FEWEST_CROSSED_PX = 10.0
"""Rays that cross less of the body are left out."""
Misfit = Callable[[Tensor], float]
"""From an image (H, W) to its misfit; 0 for the truth."""


def check_consistency(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return the misfit of every degraded phantom whose measurement can be replayed, of output and input.

    MR undersampling also has the shares of the change that was made, and of the error that is left, that lie in the
    lines that were not measured (Bhadra et al. 2021, IEEE TMI 40:3249): what no measurement can confirm or refute.
    """
    rows = []
    for safety_case in degraded_only(safety_cases, PHANTOMS):
        if safety_case.pair.task not in _MISFIT or len(safety_case.pair.records) > 1:
            continue
        output = outputs.output(safety_case)
        if output is None:
            continue
        misfit = _MISFIT[safety_case.pair.task](safety_case)
        after, before, truth = (
            _slice(one) for one in (output.image, safety_case.pair.degraded, safety_case.pair.reference)
        )
        row = safety_case.row(misfit=misfit(after), misfit_of_input=misfit(before))
        if safety_case.pair.task is Task.MR_UNDERSAMPLING:
            row["unseen_share_of_change"] = unseen_share(safety_case, after - before)
            row["unseen_share_of_error"] = unseen_share(safety_case, after - truth)
        rows.append(row)
    return rows


def line_misfit(safety_case: SafetyCase) -> Misfit:
    """Return ||M F(x) - y|| / ||y|| over the measured lines, the phase of the object being known."""
    acquisition = _acquisition(safety_case)
    measured = acquisition.forward(_turned(safety_case, _slice(safety_case.pair.reference)))

    def misfit(image: Tensor) -> float:
        residual = acquisition.forward(_turned(safety_case, image)) - measured
        return float(residual.abs().square().sum().sqrt() / measured.abs().square().sum().sqrt().clamp(min=1e-12))

    return misfit


def unseen_share(safety_case: SafetyCase, change: Tensor) -> float | None:
    """Return the share of the energy of a change (H, W) in lines that were not measured; None where nothing changed.

    The sampling is a projection in k-space, so the split into seen and unseen is exact.
    """
    total = float(change.square().sum())
    if total == 0:
        return None
    seen = float(_acquisition(safety_case).forward(_turned(safety_case, change)).abs().square().sum())
    return max(0.0, 1 - seen / total)


def ray_misfit(safety_case: SafetyCase) -> Misfit:
    """Return chi-square over that of the truth, minus 1, of the low-dose line integrals of a CT image.

        chi^2(x) = mean((y - A x)^2 / var y)

    Below 0 the image follows the noise, at 0 it is as far from the measurement as the truth is, above it contradicts
    it. Rays that cross the body are taken, and outside of it the truth: air is stored no lower than -1024 HU, which
    turns its noise into a bias that these precise rays would see.
    """
    (record,), reference = safety_case.pair.records, _slice(safety_case.pair.reference)
    spacing = safety_case.pair.reference.spacing_mm[1:]
    noise, variance = ct.ray_noise(
        reference, params=record.params, spacing_mm=spacing, generator=slice_generator(record, 0)
    )
    radon = Radon(reference.shape[0], reference.shape[1], ct.VIEWS)
    scale = ct.MU_WATER_PER_MM / 1000 * sum(spacing) / 2
    inside = foreground(safety_case.pair.reference)[0]
    body = torch.from_numpy(ndimage.binary_dilation(inside, iterations=BODY_MARGIN_PX))
    crossing = radon.forward(torch.from_numpy(inside.astype(np.float32))[None])[0] > FEWEST_CROSSED_PX

    def chi_square(residual: Tensor) -> float:
        return float((residual.square() / variance)[crossing].mean())

    def misfit(image: Tensor) -> float:
        change = torch.where(body, image - reference, 0.0)
        return chi_square(noise - radon.forward(change[None])[0] * scale) / chi_square(noise) - 1

    return misfit


def count_misfit(safety_case: SafetyCase) -> Misfit:
    """Return chi-square over that of the truth, minus 1, of the thinned coincidences of a PET image.

    As :func:`ray_misfit`, with the expectation at the truth as the variance of every bin.
    """
    (record,), reference = safety_case.pair.records, safety_case.pair.reference
    spacing = reference.spacing_mm[1:]
    coarse, pixel_mm = pet.on_grid(_slice(reference), spacing)
    scan = pet.acquire(coarse, pixel_mm, params=record.params, generator=slice_generator(record, 0))

    def expected(image: Tensor) -> Tensor:
        return scan.keep * (scan.gain * scan.scanner.forward(image) + scan.randoms)

    variance = expected(coarse).clamp(min=1e-9)
    truth = float(((scan.thinned - variance).square() / variance).mean())

    def misfit(image: Tensor) -> float:
        residual = scan.thinned - expected(pet.on_grid(image, spacing)[0])
        return float((residual.square() / variance).mean()) / truth - 1

    return misfit


_MISFIT: dict[Task, Callable[[SafetyCase], Misfit]] = {
    Task.MR_UNDERSAMPLING: line_misfit,
    Task.CT_LOW_DOSE: ray_misfit,
    Task.PET_LOW_COUNT: count_misfit,
}


def _slice(image: MedicalImage) -> Tensor:
    return torch.from_numpy(np.array(image.voxels[0]))


def _turned(safety_case: SafetyCase, image: Tensor) -> Tensor:
    return image if int(safety_case.pair.records[0].params["phase_axis"]) == 1 else image.T


def _acquisition(safety_case: SafetyCase) -> Cartesian:
    record = safety_case.pair.records[0]
    shape = _turned(safety_case, _slice(safety_case.pair.reference)).shape
    return mri.acquisition(shape, params=record.params, generator=slice_generator(record, 0))
