"""DICOM planes (LPS) -> the order of the slices and one affine (RAS+). The only place that flips axes.

DICOM PS3.3 C.7.6.2.1.1 gives the position of column i, row j of a plane; a stack adds the step
between planes, which need not be perpendicular to them (gantry tilt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medq_uni.errors import UnreadableImage

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SPACING_TOLERANCE = 0.05
"""Irregularity of the slice positions that is taken for rounding, as a share of the step."""
POSITION_TOLERANCE_MM = 0.02
"""The same in millimetres; the larger of both counts."""


@dataclass(frozen=True)
class Plane:
    """Place of one slice, as its header says.

    Attributes:
        position: LPS millimetres of the first voxel; None where the header has none.
        orientation: LPS directions of a row and of a column, six numbers; None likewise.
        spacing: millimetres (between rows, between columns); None likewise.
        step_mm: distance of slices that the header states; None likewise.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    step_mm: float | None

    @property
    def is_placed(self) -> bool:
        """Whether position and orientation are known."""
        return self.position is not None and self.orientation is not None


def stack(name: str, planes: list[Plane]) -> tuple[list[int], np.ndarray, str | None]:
    """Return the order of the planes along their normal, the affine (RAS+) of the ordered stack, and a doubt.

    Where the planes lie on no regular grid (two steps, a shift in plane), the affine has their mean step, and the doubt
    says where; otherwise it is None.

    Raises:
        UnreadableImage: If the planes differ in orientation or pixel spacing, share a position, or some are missing
            from a regular grid; the message lists where.
    """
    doubt = None
    row, column = _directions(name, planes)
    normal = np.cross(row, column)
    spacing = _common_spacing(name, planes)
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    along = positions @ normal
    order = [int(k) for k in np.argsort(along, kind="stable")]
    positions, along = positions[order], along[order]
    if len(planes) == 1:
        step = normal * (planes[0].step_mm or 1.0)
    else:
        step = (positions[-1] - positions[0]) / (len(planes) - 1)
        doubt = _irregularity(name, positions, along, step)
    affine = np.eye(4)
    affine[:3, 0] = row * spacing[1]
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return order, LPS_TO_RAS @ affine, doubt


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size (z, y, x) in millimetres: the lengths of the columns of the affine."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(z), float(y), float(x)


def is_orthogonal(affine: np.ndarray) -> bool:
    """Return whether the three axes are perpendicular to 1e-4, as a quaternion needs."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))


def slice_offset(source: np.ndarray, affine: np.ndarray, num_slices: int, num_source: int) -> int | None:
    """Return the index of the source slice that slice 0 of ``affine`` is, None if the grids differ."""
    relative = np.linalg.solve(source, affine)
    offset = round(float(relative[2, 3]))
    expected = np.eye(4)
    expected[2, 3] = offset
    # a thousandth of a voxel over the whole slice, which float32 headers reach easily
    if not np.allclose(relative, expected, atol=1e-3) or not 0 <= offset <= num_source - num_slices:
        return None
    return offset


def _directions(name: str, planes: list[Plane]) -> tuple[np.ndarray, np.ndarray]:
    orientations = np.array([plane.orientation for plane in planes], dtype=np.float64)
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        turned = np.abs(orientations - orientations[0]).max(axis=1) > 1e-3
        raise UnreadableImage(
            f"{name}: {int(turned.sum())} of {len(planes)} slices have another orientation than the "
            "first (a localizer, or several stacks in one). Split it by ImageOrientationPatient."
        )
    row, column = orientations[0, :3], orientations[0, 3:]
    gram = np.array([row @ row - 1.0, column @ column - 1.0, row @ column])
    if np.abs(gram).max() > 1e-2:
        raise UnreadableImage(
            f"{name}: ImageOrientationPatient is not two perpendicular unit vectors. Correct the header."
        )
    return row, column


def _common_spacing(name: str, planes: list[Plane]) -> tuple[float, float]:
    spacings = np.array([plane.spacing or (1.0, 1.0) for plane in planes], dtype=np.float64)
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.max():
        raise UnreadableImage(
            f"{name}: slices differ in PixelSpacing, so they are not one volume. Read them one by one."
        )
    return float(spacings[0, 0]), float(spacings[0, 1])


def _irregularity(name: str, positions: np.ndarray, along: np.ndarray, step: np.ndarray) -> str | None:
    """Return where ordered planes leave a regular grid, None where they do not.

    Raises:
        UnreadableImage: If planes share a position, or some are missing.
    """
    gaps = np.diff(along)
    same = np.flatnonzero(gaps < 1e-3)
    if same.size:
        places = ", ".join(f"{k + 1} and {k + 2}" for k in same[:8])
        raise UnreadableImage(
            f"{name}: slices {places} (in order along the normal) lie at the same position: time points, echoes or "
            "copies. Put each into a folder of its own."
        )
    usual = float(np.median(gaps))
    tolerance = max(POSITION_TOLERANCE_MM, SPACING_TOLERANCE * usual)
    wide = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if wide.size:
        places = "; ".join(_gap_text(int(k), float(gaps[k]), usual) for k in wide[:8])
        more = f"; and {wide.size - 8} more" if wide.size > 8 else ""
        where = f"slices are irregularly spaced. Usual step {usual:.3f} mm, but {places}{more}."
        if any(_num_missing(float(gaps[k]), usual) and not _is_in_run(gaps, int(k), tolerance) for k in wide):
            raise UnreadableImage(f"{name}: {where} Add the missing slices, or read them one by one.")
        return where
    line = positions[0] + np.arange(len(positions))[:, None] * step
    largest = float(np.abs(positions - line).max())
    return (
        f"slices are shifted against each other in plane by up to {largest:.2f} mm."
        if largest > 2 * tolerance
        else None
    )


def _is_in_run(gaps: np.ndarray, k: int, tolerance: float) -> bool:
    """Return whether a gap is like one beside it: a second step, rather than a missing slice."""
    beside = [j for j in (k - 1, k + 1) if 0 <= j < len(gaps)]
    return any(abs(float(gaps[j] - gaps[k])) <= tolerance for j in beside)


def _num_missing(gap: float, usual: float) -> int:
    """Return how many slices a gap lacks, 0 where it is no multiple of the usual step."""
    missing = round(gap / usual) - 1
    return missing if missing >= 1 and abs(gap - (missing + 1) * usual) < 0.1 * usual else 0


def _gap_text(k: int, gap: float, usual: float) -> str:
    missing = _num_missing(gap, usual)
    return f"{gap:.3f} mm after slice {k + 1}" + (f" ({missing} missing)" if missing else "")
