"""Low-count PET by the whole chain of a scanner: counts, corrections, reconstruction, filter, another grid.

Parameters are drawn far beyond what one scanner does, so that what is learned does not hang on one texture of noise.
docs/physics.md has their ranges and sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics import pet
from medq_uni.physics.draws import Draws
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.projector import BASE_VIEWS, SquareProjector
from medq_uni.physics.record import Params
from medq_uni.physics.spec import Scanner
from medq_uni.physics.spectra import through_grid
from medq_uni.taxonomy import Severity

TARGET = {Severity.MILD: (0.05, 0.13), Severity.MODERATE: (0.17, 0.32), Severity.SEVERE: (0.4, 0.8)}
"""What noise is to hide as much as, by grade: NRMSE of the default's noise."""
SCATTER, RANDOMS = (0.1, 0.45), (0.05, 0.5)
"""Shares of trues and scatter that are scatter, and of prompts that are randoms."""
TOF_GAIN = (1.5, 6.0)
"""How many times fewer counts give the same noise with time of flight."""
RESOLUTION_MM, POST_FILTER_MM, VOXEL_MM, SLICE_MM = (3.0, 7.0), (0.0, 8.0), (1.0, 6.0), (1.5, 5.0)
UPDATES, ITERATIONS, MOST_SUBSETS = (8.0, 100.0), 10, 32
MLEM_ITERATIONS = (8.0, 30.0)
GRID_SCALE, GRID_ROTATION_DEG = (0.7, 2.0), 1.5
MISMATCH_MM, MISMATCH_MU = 5.0, 0.03
CHANCE = {
    "tof": 0.6, "resolution_model": 0.5, "fbp": 0.12, "mlem": 0.12, "filter": 0.85, "axial": 0.5, "grid": 0.5,
    "mismatch": 0.1,
}  # fmt: skip
"""How often a step of the chain is there at all."""
SIDES = (32, 40, 48, 64, 80, 96, 128, 160, 192)
"""Sides of the reconstructed grid; there are few, so that projectors are built once."""
COARSEST = 3.0
"""Most pixels of the image for one voxel of the reconstruction, along a side."""
SCATTER_WIDTH = 0.12
"""Standard deviation of scatter along the detectors, as a share of them."""
EFFECT = {
    0: (-2.731, 0.458, 0.797, -0.186, -0.23, -0.124, 0.601, -0.331, 0.091, -0.088, -0.037),
    1: (-0.296, 0.446, 1.028, -0.259, 0.602, 0.106, 0.0, 0.0, 0.0, -0.207, 0.0),
}
"""Logarithm of the effect as a sum of ``effect_features``, for iterative reconstruction and filtered backprojection.

``python -m experiments.pet_counts`` fits them.
"""
COUNTS_LIMITS = (1e-3, 1e6)


def draw_scan(severity: Severity, generator: torch.Generator) -> Params:
    """Return every parameter of the chain; the counts are those that give about the wanted effect."""
    draws = Draws(36, generator)
    between, evenly = draws.between, draws.evenly

    def has(step: str) -> bool:
        return draws.has(CHANCE[step])

    target = evenly(*TARGET[severity])
    params: Params = {"dose_reduction": evenly(*pet.REDUCTION[severity])}
    params |= {"scatter_fraction": between(*SCATTER), "randoms_fraction": between(*RANDOMS)}
    params["tof_gain"] = evenly(*TOF_GAIN) if has("tof") else 1.0
    params |= {"resolution_mm": between(*RESOLUTION_MM), "resolution_model": int(has("resolution_model"))}
    is_fbp, is_mlem = has("fbp"), has("mlem")
    updates, wanted, mlem = evenly(*UPDATES), evenly(1, ITERATIONS + 0.5), evenly(*MLEM_ITERATIONS)
    subsets = min(MOST_SUBSETS, 2 ** max(0, round(math.log2(updates / wanted))))
    iterations = min(ITERATIONS, max(1, round(updates / subsets)))
    params |= {"fbp": int(is_fbp), "iterations": round(mlem) if is_mlem else iterations}
    params |= {"subsets": 1 if is_mlem else subsets, "voxel_mm": evenly(*VOXEL_MM)}
    params["post_filter_mm"] = has("filter") * between(*POST_FILTER_MM)
    params |= {"axial_filter_mm": has("axial") * between(*POST_FILTER_MM), "slice_mm": between(*SLICE_MM)}
    is_on_grid = has("grid")
    params["grid_scale"] = evenly(*GRID_SCALE) if is_on_grid else 1.0
    params["grid_rotation_deg"] = is_on_grid * between(-GRID_ROTATION_DEG, GRID_ROTATION_DEG)
    params["grid_cubic"] = int(between(0, 1) < 0.5)
    is_mismatched = has("mismatch")
    params["mismatch_rows_mm"] = is_mismatched * between(-MISMATCH_MM, MISMATCH_MM)
    params["mismatch_columns_mm"] = is_mismatched * between(-MISMATCH_MM, MISMATCH_MM)
    params["mismatch_mu"] = is_mismatched * between(-MISMATCH_MU, MISMATCH_MU)
    params["counts_per_mm2"] = 1.0
    counts = (expected_effect(params) / target) ** (1 / EFFECT[int(params["fbp"])][1])
    params["counts_per_mm2"] = min(max(counts, COUNTS_LIMITS[0]), COUNTS_LIMITS[1])
    return params


def expected_effect(params: Params) -> float:
    """Return about what the noise of a chain hides as much as in a body, as fitted to phantoms; NRMSE."""
    numbers = zip(EFFECT[int(params["fbp"])], effect_features(params), strict=True)
    return math.exp(sum(number * feature for number, feature in numbers))


def effect_features(params: Params) -> list[float]:
    """Return the logarithms of which the logarithm of the effect is about a sum."""
    counts = float(params["counts_per_mm2"]) * float(params["tof_gain"])
    width = math.hypot(float(params["post_filter_mm"]), float(params["voxel_mm"]), 2.0)
    is_iterative = not params["fbp"]
    updates = is_iterative * math.log(float(params["iterations"]) * float(params["subsets"]))
    has_model = is_iterative * float(params["resolution_model"])
    return [
        1.0,
        math.log((float(params["dose_reduction"]) - 1) / counts),
        math.log(axial_factor(float(params["axial_filter_mm"]), float(params["slice_mm"]))),
        math.log(width),
        -math.log(1 - float(params["scatter_fraction"])),
        -math.log(1 - float(params["randoms_fraction"])),
        updates,
        has_model,
        has_model * updates,
        math.log(float(params["resolution_mm"])),
        math.log(width) * updates,
    ]


def scan(image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return a PET slice as another scanner would show it with a fraction of the counts.

    Prompts with scatter and randoms are thinned binomially; full and thinned counts are reconstructed alike, by OSEM
    or MLEM with or without a model of the resolution, or by filtered backprojection, and the difference is filtered,
    brought to the image's grid and added. Time of flight makes more of the counts. An attenuation that has moved
    against the body spoils the thinned reconstruction alone.

    Args:
        image: (H, W), not negative.
        params: As :func:`draw_scan` returns them.
        spacing_mm: Pixel spacing (row, column).
        generator: Source of counts and thinning.
    """
    if float(params["dose_reduction"]) <= 1:
        return image
    canvas = Canvas.of(image, spacing_mm, float(params["voxel_mm"]))
    activity = canvas.put(image)
    right = system(activity, canvas.voxel_mm, params)
    used = system(activity, canvas.voxel_mm, params, is_mismatched=True)
    counts, background = acquire(right, activity, canvas.voxel_mm, params, generator)
    model = System(
        right.projector,
        torch.cat([right.attenuation, used.attenuation]),
        right.sigma_px if params["resolution_model"] else 0.0,
    )
    images = reconstruct(model, counts, background, params)
    difference = filtered_noise(images[1:] - images[:1], canvas.voxel_mm, params)
    return torch.where(image < 0, image, (image + canvas.take(difference, params)).clamp(min=0))


@dataclass(frozen=True)
class Canvas:
    """The square grid of the reconstruction, over a field that holds the image."""

    shape: tuple[int, int]
    """Of the image."""
    padded: tuple[int, int]
    """Of the square field, in pixels of the image."""
    side: int
    voxel_mm: float

    @classmethod
    def of(cls, image: Tensor, spacing_mm: tuple[float, float], voxel_mm: float) -> Canvas:
        """Return the grid for an image (H, W) whose voxels are nearest to the wanted size."""
        height, width = image.shape
        field = max(height * spacing_mm[0], width * spacing_mm[1])
        padded = (round(field / spacing_mm[0]), round(field / spacing_mm[1]))
        wanted = min(max(field / voxel_mm, max(padded) / COARSEST), max(padded))
        side = min(SIDES, key=lambda one: abs(math.log(one / wanted)))
        return cls((height, width), padded, side, field / side)

    def put(self, image: Tensor) -> Tensor:
        """Return the image on the grid of the reconstruction, (1, N, N)."""
        top, left = self._corner()
        below, right = self.padded[0] - self.shape[0] - top, self.padded[1] - self.shape[1] - left
        padded = F.pad(image.clamp(min=0)[None, None], [left, right, top, below])
        return F.interpolate(padded, size=(self.side, self.side), mode="bilinear", antialias=True)[0]

    def take(self, difference: Tensor, params: Params) -> Tensor:
        """Return a difference (1, N, N) on the grid of the image, (H, W), perhaps by way of a third one."""
        full = F.interpolate(difference[None], size=self.padded, mode="bicubic", antialias=True)[0]
        scale, turn = float(params["grid_scale"]), float(params["grid_rotation_deg"])
        if scale != 1 or turn != 0:
            full = through_grid(full, scale, turn, is_cubic=bool(params["grid_cubic"]))
        top, left = self._corner()
        return full[0, top : top + self.shape[0], left : left + self.shape[1]]

    def _corner(self) -> tuple[int, int]:
        return (self.padded[0] - self.shape[0]) // 2, (self.padded[1] - self.shape[1]) // 2


@dataclass(frozen=True, eq=False)
class System:
    """Resolution, then line integrals, then attenuation, of one or several images."""

    projector: SquareProjector
    attenuation: Tensor
    """(1 or B, 4, 32, D)."""
    sigma_px: float

    def forward(self, image: Tensor, views: range = range(BASE_VIEWS)) -> Tensor:
        """Return the expected trues (B, 4, views, D) of activities (B, N, N)."""
        return self.attenuation[:, :, views] * self.projector.forward(gaussian_blur(image, self.sigma_px), views)

    def adjoint(self, sinogram: Tensor, views: range = range(BASE_VIEWS)) -> Tensor:
        """Return the exact transpose of :meth:`forward`."""
        back = self.projector.adjoint(self.attenuation[:, :, views] * sinogram, views)
        return gaussian_blur(back, self.sigma_px)


def system(activity: Tensor, voxel_mm: float, params: Params, *, is_mismatched: bool = False) -> System:
    """Return the system of an activity (1, N, N), whose outline attenuates; or what a moved outline would make it."""
    outline = (gaussian_blur((activity > 0.02 * activity.max()).to(activity), 2.0) > 0.5).to(activity)
    mu = pet.MU_WATER_PER_MM
    if is_mismatched:
        mu *= 1 + float(params["mismatch_mu"])
        outline = _moved(outline, float(params["mismatch_rows_mm"]), float(params["mismatch_columns_mm"]), voxel_mm)
    projector = SquareProjector(activity.shape[-1])
    attenuation = torch.exp(-mu * voxel_mm * projector.forward(outline))
    return System(projector, attenuation, pet.sigma_px(float(params["resolution_mm"]), voxel_mm))


def acquire(
    right: System, activity: Tensor, voxel_mm: float, params: Params, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return full and thinned counts (2, 4, 32, D) in units of the expected trues, and their expected background.

    Args:
        right: What the activity really goes through.
        activity: (1, N, N).
        voxel_mm: Side of its pixels.
        params: As :func:`draw_scan` returns them.
        generator: Source of counts and thinning.
    """
    trues = right.forward(activity)
    body_mm2 = float((activity > 0.02 * activity.max()).sum()) * voxel_mm**2
    total = float(params["counts_per_mm2"]) * float(params["tof_gain"]) * body_mm2
    gain = total / float(trues.sum().clamp(min=1e-6))
    scatter, randoms = float(params["scatter_fraction"]), float(params["randoms_fraction"])
    scattered = _along_detectors(trues) * (scatter / (1 - scatter))
    background = scattered + float((trues + scattered).mean()) * randoms / (1 - randoms)
    full = torch.poisson(gain * (trues + background), generator=generator)
    keep = 1 / float(params["dose_reduction"])
    thinned = torch.binomial(full, torch.full_like(full, keep), generator=generator)
    return torch.cat([full / gain, thinned / (gain * keep)]), background


def reconstruct(model: System, counts: Tensor, background: Tensor, params: Params) -> Tensor:
    """Return the reconstructions (B, N, N) of counts (B, 4, 32, D) by the algorithm of the record."""
    if params["fbp"]:
        return model.projector.filtered_backprojection((counts - background) / model.attenuation)
    subsets = int(params["subsets"])
    order = [range(start, BASE_VIEWS, subsets) for start in pet.bit_reversed(subsets)]
    unit = torch.ones_like(model.attenuation)
    sensitivity = [model.adjoint(unit[:, :, views], views).clamp(min=1e-6) for views in order]
    image = counts.new_ones(len(counts), model.projector.side, model.projector.side)
    for _ in range(int(params["iterations"])):
        for views, sensed in zip(order, sensitivity, strict=True):
            expected = model.forward(image, views) + background[:, :, views]
            image = image * model.adjoint(counts[:, :, views] / expected.clamp(min=1e-6), views) / sensed
    return image


def filtered_noise(noise: Tensor, voxel_mm: float, params: Params) -> Tensor:
    """Return noise (B, N, N) after the filter in the plane and across planes, which have independent noise."""
    noise = gaussian_blur(noise, pet.sigma_px(float(params["post_filter_mm"]), voxel_mm))
    return noise * axial_factor(float(params["axial_filter_mm"]), float(params["slice_mm"]))


def axial_factor(filter_mm: float, slice_mm: float) -> float:
    """Return the share of the noise that a Gaussian filter across slices of independent noise leaves."""
    if filter_mm <= 0:
        return 1.0
    sigma = pet.sigma_px(filter_mm, slice_mm)
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-50, 51)]
    return math.sqrt(sum(weight**2 for weight in weights)) / sum(weights)


def _along_detectors(sinogram: Tensor) -> Tensor:
    """Return a sinogram (1, 4, V, D) spread along its detectors as scatter is, of the same sum but at the ends."""
    count = sinogram.shape[-1]
    place = torch.arange(-(count // 2), count // 2 + 1, device=sinogram.device)
    kernel = torch.exp(-0.5 * (place / (SCATTER_WIDTH * count)) ** 2).to(sinogram)
    rows = sinogram.reshape(-1, 1, count)
    return F.conv1d(rows, (kernel / kernel.sum())[None, None], padding="same").reshape(sinogram.shape)


def _moved(outline: Tensor, rows_mm: float, columns_mm: float, voxel_mm: float) -> Tensor:
    """Return an image (1, N, N) moved by millimeters down and to the right."""
    step = 2 / (voxel_mm * outline.shape[-1])
    theta = outline.new_tensor([[[1.0, 0.0, -columns_mm * step], [0.0, 1.0, -rows_mm * step]]])
    grid = F.affine_grid(theta, [1, 1, *outline.shape[1:]], align_corners=False)
    return F.grid_sample(outline[None], grid, align_corners=False)[0]


SCANNER = Scanner(
    draw=draw_scan,
    method=scan,
    limits={
        "dose_reduction": (1.0, 1000.0),
        "counts_per_mm2": (1e-6, 1e9),
        "scatter_fraction": (0.0, 0.9),
        "randoms_fraction": (0.0, 0.9),
        "iterations": (1, 200),
        "subsets": (1, MOST_SUBSETS),
        "voxel_mm": (0.1, 100.0),
        "slice_mm": (0.1, 100.0),
        "grid_scale": (0.2, 4.0),
    },
)
"""The method ``scanner`` of low-count PET."""
