"""Files <-> :class:`~medq_uni.image.MedicalImage`: DICOM, NIfTI, PNG and TIFF.

Reading gives physical units and RAS+ geometry; writing gives them back in the form of the source.
The format libraries are imported when a file of their format is met, not before.
"""

from __future__ import annotations

from medq_uni.io.atomic import check_target, files_digest, set_aside
from medq_uni.io.door import check_writable, read_image, read_series, target_format, write_image
from medq_uni.io.find import FoundImages, ImageItem, find_images, identify
from medq_uni.io.limits import ImageWarning, UnreadableImage, UnwritableImage, words_of
from medq_uni.io.provenance import SIDECAR_SUFFIX, Derivation, sidecar_path, split_suffix, write_sidecar

__all__ = [
    "SIDECAR_SUFFIX",
    "Derivation",
    "FoundImages",
    "ImageItem",
    "ImageWarning",
    "UnreadableImage",
    "UnwritableImage",
    "check_target",
    "check_writable",
    "files_digest",
    "find_images",
    "identify",
    "read_image",
    "read_series",
    "set_aside",
    "sidecar_path",
    "split_suffix",
    "target_format",
    "words_of",
    "write_image",
    "write_sidecar",
]
