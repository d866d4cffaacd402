import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medq_uni.config import FidelityCodecConfig, ModelConfig, TransformerConfig, VisionConfig
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import SHARD_BYTES, folder_of, load_pretrained, save_pretrained
from medq_uni.pretrained.load import _shards as shards
from medq_uni.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MedQ]:
    tokenizer = Tokenizer.from_file(folder_of("nano") / "tokenizer.json")
    config = ModelConfig(
        name="tiny",
        transformer=TransformerConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            intermediate_size=16,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
        ),
        vision=VisionConfig(
            in_channels=2,
            patch_size=8,
            hidden_size=16,
            intermediate_size=16,
            num_layers=1,
            num_heads=2,
            max_patches_per_side=8,
        ),
        codec=FidelityCodecConfig(widths=(4, 4, 4, 4)),
        tokens=tokenizer.special,
        max_latent_size=8,
    )
    model = MedQ(config)
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(folder, model, tokenizer, card={"tile_size": 64})
    return folder, model


@pytest.fixture
def copy(saved: tuple[Path, MedQ], tmp_path: Path) -> Path:
    for file in saved[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def rehash(folder: Path) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_weights_come_back_in_half_precision(saved: tuple[Path, MedQ]):
    folder, model = saved
    loaded = load_pretrained(folder)
    assert loaded.preprocessor.tile_size == 64
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float()), name


def test_a_changed_byte_is_refused(copy: Path):
    path = copy / "model-01.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsMismatch, match="altered or damaged"):
        load_pretrained(copy)


@pytest.mark.parametrize("name", ["model-01.safetensors", "config.json", "tokenizer.json", "manifest.json"])
def test_a_missing_file_is_refused(copy: Path, name: str):
    (copy / name).unlink()
    with pytest.raises(WeightsMismatch, match=r"missing|neither"):
        load_pretrained(copy)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_configuration_are_refused(copy: Path, change: str):
    path = copy / "model-01.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["lm_head.weight"]
    elif change == "unexpected":
        tensors["extra"] = torch.zeros(1)
    else:
        tensors["lm_head.weight"] = torch.zeros(3, 3)
    save_file(tensors, path)
    rehash(copy)
    with pytest.raises(WeightsMismatch, match=change):
        load_pretrained(copy)


def test_a_pickle_is_never_loaded(copy: Path):
    canary = copy / "executed"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (canary,))

    torch.save(Evil(), copy / "model-01.safetensors")
    rehash(copy)
    with pytest.raises(WeightsMismatch, match="not a safetensors file"):
        load_pretrained(copy)
    assert not canary.exists()


def test_shards_stay_below_their_limit_and_lose_nothing():
    state = {str(number): torch.zeros(1024, 1024) for number in range(20)}
    parts = shards(state, torch.float16)
    assert len(parts) > 1
    assert all(sum(v.numel() * v.element_size() for v in part.values()) <= SHARD_BYTES for part in parts)
    assert {name for part in parts for name in part} == set(state)


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(WeightsMismatch, match="nano"):
        load_pretrained("giant")


def test_the_embedded_weights_are_small_whole_and_sharded():
    folder = folder_of("nano")
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert sum(sizes) <= 40e6
    assert max(sizes) <= 16 * 2**20
    assert load_pretrained("nano").config.name == "nano"


def test_others_may_read_the_weights_as_any_other_file(saved: tuple[Path, MedQ], tmp_path: Path):
    plain = tmp_path / "plain"
    plain.touch()
    modes = {path.name: path.stat().st_mode for path in saved[0].iterdir()}
    assert set(modes.values()) == {plain.stat().st_mode}, modes
