"""Loading released checkpoints by name: numbers, hashes, tokenizer, memory."""

import json
import shutil
from pathlib import Path

import psutil
import pytest
import torch

from medq_uni.config import Execution
from medq_uni.pretrained import memory
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import load_pretrained
from medq_uni.pretrained.memory import NotEnoughMemory
from medq_uni.pretrained.released import ReleasedFolder, match_stored
from medq_uni.tokenizer import Tokenizer, TokenizerError


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))


def test_a_released_folder_is_a_model_with_the_base_models_way_of_sampling(released: Path) -> None:
    loaded = load_pretrained(released)
    assert loaded.execution.precision == "bfloat16"
    assert (loaded.sampler.start, loaded.sampler.num_steps, loaded.sampler.time_shift) == ("noise", 49, 3.0)
    assert loaded.preprocessor.tile_size == 1024
    assert load_pretrained(released, execution=Execution(precision="float32")).sha256 == loaded.sha256


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "nf4"])
def test_weights_in_place_take_the_bytes_that_were_estimated(released: Path, precision: str) -> None:
    execution = Execution(precision=precision)  # type: ignore[arg-type]
    model = load_pretrained(released, execution=execution).model
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    need = memory.need_of(model.config, shapes, execution)
    measured = sum(_bytes(weight) for weight in model.state_dict().values())
    assert need.device - need.work == pytest.approx(measured, rel=0.02)


def _bytes(weight: torch.Tensor) -> int:
    if not hasattr(weight, "__tensor_flatten__") or type(weight) in (torch.Tensor, torch.nn.Parameter):
        return weight.numel() * weight.element_size()
    return sum(_bytes(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])


def test_fewer_bits_need_less_memory(released: Path) -> None:
    folder = ReleasedFolder(released)
    shapes = {name: one.shape for name, one in folder.stored.items()}
    needs = {need.name: need for need in memory.needs_of(folder.config(), shapes)}
    sizes = [needs[name].device - needs[name].work for name in ("float32", "bfloat16", "int8", "nf4")]
    assert sizes == sorted(sizes, reverse=True)
    assert needs["bfloat16, offload"].device < needs["bfloat16"].device
    assert needs["bfloat16, offload"].host > 0


def test_too_little_memory_is_refused_with_what_would_fit(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ReleasedFolder(released)
    shapes = {name: one.shape for name, one in folder.stored.items()}
    needs = {need.name: need for need in memory.needs_of(folder.config(), shapes)}
    free = (needs["int8"].device + needs["bfloat16"].device) // 2
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=free))
    with pytest.raises(NotEnoughMemory, match=r"needs about .* are free there.*would fit: int8; ") as caught:
        load_pretrained(released)
    assert "float32" not in str(caught.value)
    load_pretrained(released, execution=Execution(precision="int8"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=1000))
    with pytest.raises(NotEnoughMemory, match="No mode fits"):
        load_pretrained(released)


@pytest.mark.parametrize("file", ["ema.safetensors", "ae.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_byte_is_noticed_by_its_sum(copy: Path, file: str) -> None:
    path = copy / file
    data = bytearray(path.read_bytes())
    if file.endswith("json"):
        data += b" "
    else:
        data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsMismatch, match=rf"{file} has sha256 .* expected is .* altered or damaged"):
        load_pretrained(copy)


def test_a_file_that_the_sums_list_must_be_there(copy: Path) -> None:
    (copy / "merges.txt").unlink()
    with pytest.raises(WeightsMismatch, match=r"merges.txt is missing"):
        load_pretrained(copy)


def test_a_tokenizer_without_the_special_tokens_is_refused(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_text(path.read_text().replace("<|vision_start|>", "<|other|>"))
    with pytest.raises(TokenizerError, match=r"no token <\|vision_start\|>"):
        load_pretrained(copy)


def test_a_checkpoint_without_a_tokenizer_is_refused(copy: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (copy / name).unlink()
    with pytest.raises(TokenizerError, match=r"has no tokenizer. Put tokenizer.json"):
        load_pretrained(copy)


def test_a_tokenizer_of_a_larger_model_is_refused(copy: Path) -> None:
    values = json.loads((copy / "llm_config.json").read_text())
    values["vocab_size"] = 100
    (copy / "llm_config.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match="has 300 tokens, the model 100"):
        load_pretrained(copy)


def test_the_older_tokenizer_files_give_the_same_tokens(copy: Path, released_tokenizer: Tokenizer) -> None:
    (copy / "SHA256SUMS").unlink()
    (copy / "tokenizer.json").unlink()
    loaded = load_pretrained(copy).tokenizer
    assert loaded.special == released_tokenizer.special
    for text in ("Severe low-dose noise, 12.5 HU.", "the chest's\n\n  edges"):
        assert loaded.decode(loaded.encode(text)) == text
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"]["7"] = settings["added_tokens_decoder"].pop("3")
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TokenizerError, match=r"is not the token that tokenizer_config.json says"):
        load_pretrained(copy)


def test_headers_alone_tell_what_fits(released: Path) -> None:
    folder = ReleasedFolder(released)
    model, sources = match_stored(folder.config(), folder.stored)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sources.keys() == model.state_dict().keys()
