"""Texture: the noise power spectrum and the sharpness of an edge, which PSNR does not tell apart."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from medq_uni.data.lesions import RING_PX, Lesion, inserted, lesion_at
from medq_uni.data.regions import apart, distance_from, draw_place, tissue, uniform_places
from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import apply_records
from medq_uni.physics.effect import foreground
from medq_uni.physics.spectra import radial
from medq_uni.physics.tasks import SPECS
from medq_uni.safety.output_cache import (
    PHANTOMS,
    Measurement,
    OutputCache,
    SafetyCase,
    SafetySettings,
    altered_case,
    degraded_only,
)
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality

EDGE_HU, EDGE_FRACTION = 100.0, 1.0
"""Contrast of the disc whose edge is measured: HU, or a fraction of the local mean."""
EDGE_BIN_PX, EDGE_REACH_PX = 0.25, 8.0
MOST_ROIS = 8
OTHER_SEED = 1_000_003
"""Added to a record's seed for a second draw of the same noise."""


def noise_power(noise: np.ndarray) -> np.ndarray:
    """Return the two-dimensional noise power spectrum of a square, (N, N) in units squared times pixels squared.

        NPS(u, v) = |DFT(noise - mean)|^2 / N^2

    (Siewerdsen et al. 2002, Med Phys 29:2655, with pixels as the unit of length.) Its integral over frequency, the
    mean of all values, is the variance; for white noise it is flat.

    Args:
        noise: (..., N, N) realizations, over which the mean is taken.
    """
    centered = noise - noise.mean((-2, -1), keepdims=True)
    spectra = np.abs(np.fft.fft2(centered)) ** 2 / noise.shape[-1] ** 2
    return np.asarray(spectra.reshape(-1, *noise.shape[-2:]).mean(0))


def edge_spread(change: np.ndarray, lesion: Lesion) -> np.ndarray:
    """Return the mean of a difference image by distance from the edge of a disc, inside to outside.

    Bins are a quarter of a pixel wide and reach 8 pixels to both sides (radial edge-spread function; Richard et al.
    2012, Med Phys 39:4115). NaN in bins without pixels.

    Args:
        change: With the disc minus without, (H, W).
        lesion: The disc.
    """
    distance = distance_from(change.shape, lesion.place) - lesion.radius_px
    count = round(2 * EDGE_REACH_PX / EDGE_BIN_PX)
    place = np.floor((distance + EDGE_REACH_PX) / EDGE_BIN_PX).astype(int)
    inside = (place >= 0) & (place < count)
    sums, pixels = np.bincount(place[inside], change[inside], count), np.bincount(place[inside], minlength=count)
    return np.where(pixels > 0, sums / np.maximum(pixels, 1), np.nan)


def mtf_of_edge(spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in cycles per pixel and the modulation transfer function of an edge-spread function.

    The derivative of the edge, with empty bins interpolated and a window that is flat over its middle half (Tukey), is
    transformed; 1 at zero frequency.
    """
    from scipy.signal.windows import tukey

    known = np.isfinite(spread)
    index = np.arange(len(spread))
    filled = np.interp(index, index[known], spread[known])
    line = -np.diff(filled) * tukey(len(spread) - 1, 0.5)
    transfer = np.abs(np.fft.rfft(line, 4 * len(spread)))
    return np.fft.rfftfreq(4 * len(spread), EDGE_BIN_PX), transfer / max(transfer[0], 1e-12)


def half_frequency(spread: np.ndarray) -> float:
    """Return the frequency in cycles per pixel at which the transfer function of an edge first falls to 50 %."""
    frequency, transfer = mtf_of_edge(spread)
    below = np.flatnonzero(transfer < 0.5)
    if len(below) == 0:
        return float(frequency[-1])
    last = max(int(below[0]), 1)
    high, low = transfer[last - 1], transfer[last]
    return float(np.interp(0.5, [low, high], [frequency[last], frequency[last - 1]]))


def check_texture(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return noise power spectra and edge-spread functions of every degraded phantom, of output and input.

    Noise is half the difference of two draws of the same degradation, times the square root of two, so that anatomy
    and constant errors cancel; it is measured for degradations that are noise. The edge is that of an inserted disc,
    with and without it.
    """
    rows = []
    for number, safety_case in enumerate(degraded_only(safety_cases, PHANTOMS)):
        if SPECS[safety_case.pair.task].is_noise:
            rows += _noise_rows(outputs, safety_case, settings)
        rows += _edge_rows(outputs, safety_case, settings, number)
    return rows


def _noise_rows(outputs: OutputCache, safety_case: SafetyCase, settings: SafetySettings) -> list[Measurement]:
    reference, side = safety_case.pair.reference, settings.roi_px
    places = itertools.islice(apart(uniform_places(reference, tissue(reference), side), side), MOST_ROIS)
    corners = [(row - side // 2, column - side // 2) for row, column in places]
    records = tuple(replace(record, seed=record.seed + OTHER_SEED) for record in safety_case.pair.records)
    case = replace(safety_case.case, degraded=apply_records(reference, records))
    first = outputs.output(safety_case)
    second = outputs.attempt(
        f"{safety_case.label} drawn again", functools.partial(outputs.system.restore, case), case.degraded
    )
    if first is None or second is None or not corners:
        return []

    def spectrum(one: MedicalImage, other: MedicalImage) -> np.ndarray:
        noise = (one.voxels - other.voxels)[0].astype(np.float64) / math.sqrt(2)
        return noise_power(np.stack([noise[r : r + side, c : c + side] for r, c in corners]))

    before, after = spectrum(safety_case.pair.degraded, case.degraded), spectrum(first.image, second.image)
    area = float(before.mean())
    if area <= 0:
        return []
    curves = {"nps": radial(after)[1] / area, "nps_of_input": radial(before)[1] / area}
    return [
        safety_case.row(
            kind="noise",
            rois=len(corners),
            frequency=radial(before)[0].tolist(),
            area_ratio=float(after.mean()) / area,
            **{name: values.tolist() for name, values in curves.items()},
        )
    ]


def _edge_rows(
    outputs: OutputCache, safety_case: SafetyCase, settings: SafetySettings, number: int
) -> list[Measurement]:
    reference = safety_case.pair.reference
    disc = edge_disc(reference, settings, generator_of(settings.seed, number, 2))
    if disc is None:
        return []
    case = altered_case(safety_case, inserted(reference, [disc]))
    without = outputs.output(safety_case)
    with_disc = outputs.attempt(
        f"{safety_case.label} with a disc", functools.partial(outputs.system.restore, case), case.degraded
    )
    if without is None or with_disc is None:
        return []
    pairs = {
        "edge_of_reference": (case.reference, reference),
        "edge_of_input": (case.degraded, safety_case.pair.degraded),
        "edge": (with_disc.image, without.image),
    }
    spread = functools.partial(edge_spread, lesion=disc)
    curves = {
        name: [None if np.isnan(v) else float(v) for v in spread((a.voxels - b.voxels)[0] / disc.amplitude)]
        for name, (a, b) in pairs.items()
    }
    return [safety_case.row(kind="edge", **curves)]


def edge_disc(image: MedicalImage, settings: SafetySettings, generator: torch.Generator) -> Lesion | None:
    """Return a large disc of high contrast in the body, None where it has no room."""
    side = 2 * math.ceil(settings.edge_radius_px + RING_PX[1]) + 1
    place = draw_place(uniform_places(image, foreground(image)[0], side), generator)
    contrast = EDGE_HU if image.modality is Modality.CT else EDGE_FRACTION
    return None if place is None else lesion_at(image, place, settings.edge_radius_px, contrast)
