"""Slices on the wire: the physical values themselves, so that the browser windows them at full depth."""

from __future__ import annotations

from fastapi import Response

from medq_uni.image import MedicalImage


def pixels_response(image: MedicalImage) -> Response:
    """Return one slice as float32, little-endian, row by row.

    The headers ``X-Width`` and ``X-Height`` count pixels, ``X-Spacing-Mm`` is the height and width of a pixel,
    ``X-Units`` says what a value means, and ``X-Modality`` is empty where nothing says it.
    """
    depth, height, width = image.shape
    assert depth == 1, "a source gives slices"
    _, row, column = image.spacing_mm
    return Response(
        image.voxels.astype("<f4", copy=False).tobytes(),
        media_type="application/octet-stream",
        headers={
            "X-Width": str(width),
            "X-Height": str(height),
            "X-Spacing-Mm": f"{row:.6g},{column:.6g}",
            "X-Units": image.units.value,
            "X-Modality": "" if image.modality is None else image.modality.value,
        },
    )
