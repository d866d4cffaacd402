import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from medq_uni.pretrained.inspection import inspect_folder
from medq_uni.pretrained.keys import WeightsMismatch


def test_a_whole_checkpoint_has_no_problems(released: Path) -> None:
    findings = inspect_folder(released, verify=True)
    assert findings["problems"] == []
    assert findings["stored as"] == "F32 100 %"
    assert "2 blocks of width 128" in findings["transformer"]
    assert len(findings["sha256 ema.safetensors"]) == 64
    assert [row["mode"] for row in findings["memory"]][:2] == ["float32", "float32, offload"]


def test_everything_that_is_wrong_is_listed_at_once(released: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    tensors = load_file(folder / "ema.safetensors")
    del tensors["connector.fc1.bias"]
    save_file(tensors, folder / "ema.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    problems = "\n".join(inspect_folder(folder)["problems"])
    assert "missing: connector.fc1.bias" in problems
    assert "tokenizer.json is not a tokenizer file" in problems


def test_a_changed_byte_is_a_problem_only_seen_when_verifying(released: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    data = bytearray((folder / "ema.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "ema.safetensors").write_bytes(data)
    assert inspect_folder(folder)["problems"] == []
    assert "altered or damaged" in inspect_folder(folder, verify=True)["problems"][0]


def test_another_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"no released checkpoint. .*medq doctor"):
        inspect_folder(tmp_path)
