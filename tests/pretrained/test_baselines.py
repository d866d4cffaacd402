import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medq_uni.baselines.network import BaselineConfig, build_baseline
from medq_uni.files import file_digest
from medq_uni.pretrained.baselines import is_baseline, load_baseline, save_baseline
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import load_pretrained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_baseline(
        tmp_path / "model", build_baseline(BaselineConfig(kind="nafnet", width=4)), card={"about": ["a test"]}
    )
    return tmp_path / "model"


def sign(folder: Path) -> None:
    """Write a manifest that fits the files."""
    files = {path.name: file_digest(path) for path in folder.iterdir() if path.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def edit(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "baseline.json").read_text())
    (folder / "baseline.json").write_text(json.dumps(values | changes))


def test_weights_and_card_come_back_exactly(folder: Path) -> None:
    torch.manual_seed(1)
    expected = build_baseline(BaselineConfig(kind="nafnet", width=4)).state_dict()
    baseline, card = load_baseline(folder)
    assert card == {"about": ["a test"]}
    assert not baseline.training
    assert baseline.config == BaselineConfig(kind="nafnet", width=4)
    assert all(torch.equal(value, expected[name]) for name, value in baseline.state_dict().items())
    assert {path.name for path in folder.iterdir()} == {"baseline.json", "model.safetensors", "manifest.json"}


def test_loading_leaves_the_global_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_baseline(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsMismatch, match=f"{name} is missing"):
        load_baseline(folder)


def test_an_altered_file_is_named(folder: Path) -> None:
    edit(folder, card={"about": ["better than all"]})
    with pytest.raises(WeightsMismatch, match=r"baseline\.json has sha256"):
        load_baseline(folder)


def test_a_folder_without_baseline_json_is_no_baseline(folder: Path, tmp_path: Path) -> None:
    assert is_baseline(folder)
    (folder / "baseline.json").unlink()
    for path in (folder, tmp_path / "nothing"):
        assert not is_baseline(path)
        with pytest.raises(WeightsMismatch, match="is no baseline"):
            load_baseline(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "model"}, "kind"),
        ({"config": {"kind": "resnet"}}, "config.kind"),
        ({"config": {"kind": "nafnet", "widht": 4}}, "Did you mean 'width'"),
        ({"config": {"kind": "nafnet", "blocks": [0, 1]}}, "must be positive"),
        ({"config": {"kind": "nafnet", "width": 8}}, "of another shape"),
        ({"config": {"kind": "nafnet", "width": 4, "blocks": [1, 1, 1]}}, "unexpected"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder: Path, changes: dict, message: str) -> None:
    edit(folder, **changes)
    sign(folder)
    with pytest.raises(WeightsMismatch, match=message):
        load_baseline(folder)


def test_files_that_are_not_what_they_claim_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    sign(folder)
    with pytest.raises(WeightsMismatch, match="is not a safetensors file"):
        load_baseline(folder)


def test_weights_of_another_baseline_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("unet.intro.weight")
    save_file(state, folder / "model.safetensors")
    sign(folder)
    with pytest.raises(WeightsMismatch, match=r"1 missing: unet\.intro\.weight"):
        load_baseline(folder)


@pytest.mark.parametrize(
    "manifest", ["[]", '{"files": []}', '{"files": {}}', "{", '{"files": {"baseline.json": "00"}}']
)
def test_a_broken_manifest_is_refused(folder: Path, manifest: str) -> None:
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(WeightsMismatch, match=r"manifest\.json|has sha256"):
        load_baseline(folder)


def test_a_baseline_is_not_loaded_as_a_model(folder: Path) -> None:
    with pytest.raises(WeightsMismatch, match="baseline"):
        load_pretrained(folder)
