"""MedQ-UNI: assess, then restore medical images.

>>> from medq_uni import Restorer, read_image  # doctest: +SKIP
>>> result = Restorer.from_pretrained("nano").restore(read_image("study.dcm"))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "MedicalImage",
    "QualityDescription",
    "Restoration",
    "RestoreSettings",
    "Restorer",
    "read_image",
    "restore_file",
]

if TYPE_CHECKING:
    from medq_uni.description import QualityDescription
    from medq_uni.image import MedicalImage
    from medq_uni.io.read_write import read_image
    from medq_uni.pipeline import restore_file
    from medq_uni.restorer import Restorer, RestoreSettings
    from medq_uni.result import Restoration

_HOMES = {
    "MedicalImage": "medq_uni.image",
    "QualityDescription": "medq_uni.description",
    "Restoration": "medq_uni.result",
    "RestoreSettings": "medq_uni.restorer",
    "Restorer": "medq_uni.restorer",
    "read_image": "medq_uni.io.read_write",
    "restore_file": "medq_uni.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``medq --help`` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'medq_uni' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
