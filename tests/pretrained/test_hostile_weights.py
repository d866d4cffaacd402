"""Weight files that lie: one named error each, soon, and no code is run."""

from __future__ import annotations

import json
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import _readable
from medq_uni.pretrained.released import read_header

MIB = 2**20


def tensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def said(**entry: object) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()


class Harm:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


FILES = {
    "empty": b"",
    "length-beyond-the-file": tensors(said(), bytes(8), 2**40),
    "length-of-all-bits": tensors(said(), bytes(8), 2**64 - 1),
    "offsets-beyond-the-file": tensors(said(data_offsets=[0, 2**40], shape=[2**38])),
    "offsets-backwards": tensors(said(data_offsets=[8, 0]), bytes(8)),
    "shape-that-overflows": tensors(said(shape=[2**40, 2**40]), bytes(8)),
    "shape-of-another-size": tensors(said(shape=[3]), bytes(8)),
    "no-such-type": tensors(said(dtype="OBJECT"), bytes(8)),
    "deep-header": tensors(b"[" * 10**6),
    "cut": tensors(said(), bytes(4)),
    "pickle": pickle.dumps(Harm()),
}


@pytest.mark.parametrize("name", FILES)
def test_a_weight_file_that_lies_is_refused(tmp_path, monkeypatch, name):
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[name])
    for read in (read_header, lambda path: _readable(load_file, path)):
        tracemalloc.start()
        began = time.perf_counter()
        with pytest.raises(WeightsMismatch, match=r"model\.safetensors"):
            read(path)
        assert time.perf_counter() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
        tracemalloc.stop()
    assert not (tmp_path / "harm").exists()
