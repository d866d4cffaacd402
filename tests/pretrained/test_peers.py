import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medq_uni.io.atomic import file_digest
from medq_uni.peers.network import PeerConfig, build_peer
from medq_uni.pretrained import load_pretrained
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.peers import is_peer, load_peer, save_peer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_peer(tmp_path / "model", build_peer(PeerConfig(kind="nafnet", width=4)), card={"about": ["a test"]})
    return tmp_path / "model"


def sign(folder: Path) -> None:
    """Write a manifest that fits the files."""
    files = {path.name: file_digest(path) for path in folder.iterdir() if path.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def edit(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "peer.json").read_text())
    (folder / "peer.json").write_text(json.dumps(values | changes))


def test_weights_and_card_come_back_exactly(folder: Path) -> None:
    torch.manual_seed(1)
    expected = build_peer(PeerConfig(kind="nafnet", width=4)).state_dict()
    peer, card = load_peer(folder)
    assert card == {"about": ["a test"]}
    assert not peer.training
    assert peer.config == PeerConfig(kind="nafnet", width=4)
    assert all(torch.equal(value, expected[name]) for name, value in peer.state_dict().items())
    assert {path.name for path in folder.iterdir()} == {"peer.json", "model.safetensors", "manifest.json"}


def test_loading_leaves_the_global_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_peer(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsMismatch, match=f"{name} is missing"):
        load_peer(folder)


def test_an_altered_file_is_named(folder: Path) -> None:
    edit(folder, card={"about": ["better than all"]})
    with pytest.raises(WeightsMismatch, match=r"peer\.json has sha256"):
        load_peer(folder)


def test_a_folder_without_peer_json_is_no_peer(folder: Path, tmp_path: Path) -> None:
    assert is_peer(folder)
    (folder / "peer.json").unlink()
    for path in (folder, tmp_path / "nothing"):
        assert not is_peer(path)
        with pytest.raises(WeightsMismatch, match="is no peer"):
            load_peer(path)


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
        load_peer(folder)


def test_files_that_are_not_what_they_claim_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    sign(folder)
    with pytest.raises(WeightsMismatch, match="is not a safetensors file"):
        load_peer(folder)


def test_weights_of_another_peer_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("unet.intro.weight")
    save_file(state, folder / "model.safetensors")
    sign(folder)
    with pytest.raises(WeightsMismatch, match=r"1 missing: unet\.intro\.weight"):
        load_peer(folder)


@pytest.mark.parametrize("manifest", ["[]", '{"files": []}', '{"files": {}}', "{", '{"files": {"peer.json": "00"}}'])
def test_a_broken_manifest_is_refused(folder: Path, manifest: str) -> None:
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(WeightsMismatch, match=r"manifest\.json|has sha256"):
        load_peer(folder)


def test_a_peer_is_not_loaded_as_a_model(folder: Path) -> None:
    with pytest.raises(WeightsMismatch, match="peer"):
        load_pretrained(folder)
