"""Headers of many slices, as the raw elements of their files until somebody looks at one.

A series has a header per slice, and most of them are needed only when it is written as DICOM again. Raw elements pass
between processes in a tenth of the time of decoded ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset

from medq_uni.io.dicom_pixels import check_elements, parsing, take_identity

NOT_KEPT: dict[str, Any] = {"buffer": None, "fileobj_type": None, "filename": None, "timestamp": None}
"""Attributes of a data set that point to where it was read."""


class RawHeader:
    """A data set whose elements are not decoded yet, but were once, so that it is known that they can be."""

    def __init__(self, dataset: FileDataset, elements: dict[Any, Any], changed: Dataset) -> None:
        """Keep the elements as they were before decoding, without pixels, and all else of the data set.

        Args:
            dataset: Of a file, decoded.
            elements: Of the file, before decoding.
            changed: What is kept: the data set itself, or one that shares elements with it, and has others of its own,
                of text or of unsigned short integers.
        """
        if changed is dataset:
            kept = {tag: element for tag, element in elements.items() if tag in dataset}
        else:
            is_implicit, is_little = dataset.original_encoding
            kept = {
                element.tag: elements[element.tag]
                if element.tag in dataset and dataset[element.tag] is element
                else _undecoded(element, bool(is_implicit), bool(is_little))
                for element in changed
            }
        self._state = {**vars(dataset), **NOT_KEPT, "_dict": kept, "_private_blocks": {}}

    def raw(self) -> Dataset:
        """Return the data set with elements that are decoded when asked for, which belongs into ``parsing``."""
        dataset = FileDataset.__new__(FileDataset)
        vars(dataset).update(self._state, _dict=dict(self._state["_dict"]))
        return dataset

    def decoded(self) -> Dataset:
        """Return the data set, all of it decoded."""
        dataset = self.raw()
        with parsing("header"):
            check_elements("header", dataset)
            take_identity(dataset)
        return dataset


def _undecoded(element: DataElement, is_implicit: bool, is_little: bool) -> RawDataElement:
    values = element.value if element.VM > 1 else [element.value]
    if element.VR == "US":
        content = b"".join(int(value).to_bytes(2, "little" if is_little else "big") for value in values)
    else:
        content = "\\".join(str(value) for value in values).encode("ascii")
        content += b" " * (len(content) % 2)
    return RawDataElement(element.tag, str(element.VR), len(content), content, 0, is_implicit, is_little)


class Headers(Sequence[Dataset]):
    """Data sets, each decoded when it is first looked at."""

    def __init__(self, headers: Iterable[RawHeader | Dataset]) -> None:
        self._headers = list(headers)

    def raw(self) -> tuple[Dataset, ...]:
        """Return the data sets for a first look at a few elements; see :meth:`RawHeader.raw`."""
        return tuple(one.raw() if isinstance(one, RawHeader) else one for one in self._headers)

    def __len__(self) -> int:
        return len(self._headers)

    @overload
    def __getitem__(self, index: int) -> Dataset: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Dataset]: ...

    def __getitem__(self, index: int | slice) -> Dataset | Sequence[Dataset]:
        """Return one data set, or some."""
        if isinstance(index, slice):
            return Headers(self._headers[index])
        found = self._headers[index]
        if isinstance(found, RawHeader):
            self._headers[index] = found = found.decoded()
        return found
