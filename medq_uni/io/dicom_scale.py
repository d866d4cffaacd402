"""Private elements that give stored values their meaning, carried over to derived objects and kept true.

All other private elements are left out. These hold no text about the patient: scale factors, the start of a PET
scan, diffusion weighting, and the headers that Siemens tools read the protocol from.
"""

from __future__ import annotations

import copy

from pydicom import Dataset
from pydicom.dataelem import DataElement

from medq_uni.io.rescale import Rescale, decimal_string

PHILIPS_MR, PHILIPS_MR_FRAMES = "Philips MR Imaging DD 001", "Philips MR Imaging DD 005"
KEPT = (
    (0x7053, "Philips PET Private Group", (0x00, 0x09)),  # counts -> SUV, counts -> Bq/ml
    (0x2005, PHILIPS_MR, (0x0D, 0x0E)),  # scale intercept and slope: stored -> floating point values
    (0x2005, PHILIPS_MR_FRAMES, (0x09, 0x0A)),  # rescale intercept and slope once more
    (0x2001, "Philips Imaging DD 001", (0x03, 0x04)),  # b-value, diffusion direction
    (0x0009, "GEMS_PETD_01", (0x0D,)),  # scan date and time, to which GE corrects decay
    (0x0043, "GEMS_PARM_01", (0x2F, 0x39)),  # magnitude or phase, b-value
    (0x0019, "SIEMENS MR HEADER", (0x08, 0x09, 0x0C, 0x0D, 0x0E, 0x27, 0x28)),  # b-value, direction, bandwidth
    (0x0029, "SIEMENS CSA HEADER", (0x08, 0x09, 0x10, 0x18, 0x19, 0x20)),
)
"""Group, creator and elements."""
PHILIPS_SEQUENCE = (0x2005, PHILIPS_MR_FRAMES, 0x0F)
"""Where Philips keeps the same elements for each frame of an enhanced object."""


def keep_private(target: Dataset, source: Dataset) -> None:
    """Copy the private elements of :data:`KEPT` from one data set to another, whose private elements are gone."""
    for group, creator, offsets in KEPT:
        for offset in offsets:
            element = _found(source, group, creator, offset)
            if element is not None and element.value not in (None, ""):
                block = target.private_block(group, creator, create=True)
                block.add_new(offset, element.VR, copy.deepcopy(element.value))


def keep_private_of_frame(target: Dataset, source: Dataset) -> None:
    """Copy the same from the functional groups of one frame to those of the frame derived from it."""
    group, creator, offset = PHILIPS_SEQUENCE
    element = _found(source, group, creator, offset)
    if element is None or element.VR != "SQ" or not element.value:
        return
    item = Dataset()
    keep_private(item, element.value[0])
    if len(item):
        target.private_block(group, creator, create=True).add_new(offset, "SQ", [item])


def keep_true(dataset: Dataset, old: Rescale, new: Rescale) -> None:
    """Change the scale elements of Philips MR so that they give new integers the meaning of the old ones.

    Philips: floating point value = (stored - scale intercept) / scale slope.

    Args:
        dataset: Data set or functional groups of a frame, with elements of :func:`keep_private`; changed in place.
        old: Rescale of the source.
        new: Rescale that is written.
    """
    ratio, shift = old.slope / new.slope, (new.intercept - old.intercept) / old.slope
    for item in (dataset, *_frame_items(dataset)):
        slope, intercept = _found(item, 0x2005, PHILIPS_MR, 0x0E), _found(item, 0x2005, PHILIPS_MR, 0x0D)
        if slope is not None:
            slope.value = _scaled(slope, float(slope.value) * ratio)
        if intercept is not None:
            intercept.value = _scaled(intercept, (float(intercept.value) - shift) * ratio)
        for offset, value in ((0x09, new.intercept), (0x0A, new.slope)):
            again = _found(item, 0x2005, PHILIPS_MR_FRAMES, offset)
            if again is not None:
                again.value = _scaled(again, value)


def _scaled(element: DataElement, value: float) -> object:
    return decimal_string(value) if element.VR == "DS" else value


def _frame_items(dataset: Dataset) -> list[Dataset]:
    group, creator, offset = PHILIPS_SEQUENCE
    element = _found(dataset, group, creator, offset)
    return list(element.value) if element is not None and element.VR == "SQ" else []


def _found(dataset: Dataset, group: int, creator: str, offset: int) -> DataElement | None:
    try:
        element: DataElement = dataset.private_block(group, creator)[offset]
    except KeyError:
        return None
    return element
