import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from medq_uni.cli.main import app
from medq_uni.config import (
    PER_EXPERT,
    SHARED_ATTENTION,
    ConfigError,
    Execution,
    FluxCodecConfig,
    ModelConfig,
    SharingConfig,
    SpecialTokens,
    TransformerConfig,
    VisionConfig,
)
from medq_uni.errors import UnwritableImage
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.keys import KeysMismatch, WeightsMismatch, match, our_key, released_key
from medq_uni.pretrained.load import load_pretrained
from medq_uni.pretrained.released import VIEW_SIDES, ReleasedFolder, load_released, read_config
from medq_uni.pretrained.released_export import export_released, to_released
from medq_uni.tokenizer import Tokenizer

PARITY = Path(__file__).parents[1] / "parity"
TOKENS = SpecialTokens(bos=1, eos=2, start_of_image=3, end_of_image=4)


@pytest.fixture(params=["tiny_mot", "tiny_shared_attention"])
def folder(request: pytest.FixtureRequest) -> Path:
    return PARITY / request.param


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PARITY / "tiny_mot", tmp_path / "copy", copy_function=shutil.copyfile))


def load(folder: Path, **options: Any) -> MedQ:
    return load_released(ReleasedFolder(folder), read_config(folder), **options)


def released_7b() -> ModelConfig:
    return ModelConfig(
        name="7b",
        transformer=TransformerConfig(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_layers=28,
            num_heads=28,
            num_kv_heads=4,
        ),
        vision=VisionConfig(view_sides=VIEW_SIDES),
        codec=FluxCodecConfig(),
        tokens=TOKENS,
    )


def test_there_and_back_gives_the_released_files_key_for_key(folder: Path) -> None:
    network, codec = to_released(load(folder))
    for ours, name in ((network, "ema"), (codec, "ae")):
        theirs = load_file(folder / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        for key, x in theirs.items():
            torch.testing.assert_close(ours[key], x, atol=1e-6 if "pos_embed" in key else 0, rtol=0)


def test_every_key_of_the_model_has_a_released_name_and_is_found_under_it(folder: Path) -> None:
    with torch.device("meta"):
        model = MedQ(read_config(folder))
    keys = list(model.state_dict())
    assert [our_key(released_key(key)) for key in keys] == keys
    assert len({released_key(key) for key in keys}) == len(keys)


def test_the_7b_model_has_the_published_tensors_and_parameters() -> None:
    with torch.device("meta"):
        model = MedQ(released_7b())
        state = to_released(model)[0]
    groups = {"language_model.": (788, 14_141_252_608), "vit_model.": (421, 402_552_736)}
    for prefix, expected in groups.items():
        tensors = [x for key, x in state.items() if key.startswith(prefix)]
        assert (len(tensors), sum(x.numel() for x in tensors)) == expected
    shapes = {key: tuple(x.shape) for key, x in state.items()}
    layer = "language_model.model.layers.27."
    assert shapes[layer + "self_attn.k_proj_moe_gen.weight"] == (512, 3584)
    assert shapes[layer + "mlp_moe_gen.down_proj.weight"] == (3584, 18944)
    assert shapes["vit_model.vision_model.embeddings.patch_embedding.weight"] == (1152, 588)
    assert shapes["latent_pos_embed.pos_embed"] == (4096, 3584)
    assert layer + "self_attn.o_proj.bias" not in shapes


@pytest.mark.parametrize(
    "prefix", ["module.", "_fsdp_wrapped_module.", "module._fsdp_wrapped_module._checkpoint_wrapped_module."]
)
def test_wrappers_of_training_are_stripped_anywhere_in_a_key(prefix: str) -> None:
    key = f"{prefix}language_model.model.layers.3.{prefix}mlp_moe_gen.up_proj.weight"
    assert our_key(key) == "transformer.blocks.3.ffn.ir.up.weight"
    assert our_key(f"{prefix}vae_model.encoder.conv_in.bias") == "codec.encoder.conv_in.bias"


@pytest.mark.parametrize(
    "key",
    [
        "latent_pos_embed.pos_embed",
        "vit_pos_embed.pos_embed",
        "language_model.model.rotary_emb.inv_freq",
        "vae_batch_norm.running_mean",
    ],
)
def test_computed_tables_are_dropped_on_purpose(key: str) -> None:
    assert our_key(key) is None


def test_an_autoencoder_inside_the_network_file_is_found(folder: Path, tmp_path: Path) -> None:
    network, codec = (load_file(folder / f"{name}.safetensors") for name in ("ema", "ae"))
    network |= {f"module.vae_model.{key}": x for key, x in codec.items()}
    save_file(network, tmp_path / "model.safetensors")
    for name in ("llm_config.json", "vit_config.json", "config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    model = load(tmp_path)
    assert torch.equal(model.codec.encoder.conv_in.weight, codec["encoder.conv_in.weight"])


def test_unknown_missing_and_misshapen_weights_are_all_named_before_any_is_read(copy: Path) -> None:
    network = load_file(copy / "ema.safetensors")
    save_file({**network, "language_model.foo": torch.zeros(1), "bar": torch.zeros(1)}, copy / "ema.safetensors")
    with pytest.raises(WeightsMismatch, match=r"2 unexpected: bar, language_model.foo"):
        load(copy)
    del network["language_model.lm_head.weight"]
    network["vae2llm.bias"] = torch.zeros(3)
    network["vae_model.encoder.extra"] = torch.zeros(1)
    save_file(network, copy / "ema.safetensors")
    with pytest.raises(KeysMismatch) as caught:
        load(copy)
    assert caught.value.missing == ("lm_head.weight",)
    assert caught.value.unexpected == ("codec.encoder.extra",)
    assert "vae2llm.bias ((3,) instead of (64,))" in str(caught.value)


@pytest.mark.parametrize(("name", "sharing"), [("tiny_mot", SHARED_ATTENTION), ("tiny_shared_attention", PER_EXPERT)])
def test_weights_of_another_sharing_fit_only_when_asked(name: str, sharing: SharingConfig) -> None:
    folder = ReleasedFolder(PARITY / name)
    config = folder.config()
    config = replace(config, transformer=replace(config.transformer, sharing=sharing))
    with pytest.raises(WeightsMismatch):
        load_released(folder, config)
    model = load_released(folder, config, adapt_experts=True)
    q = model.transformer.blocks[0].attention.q
    released = load_file(folder.path / "ema.safetensors")["language_model.model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(q.iqa.weight, released)
    assert (q.ir is None) == sharing.qkv
    if q.ir is not None:
        assert torch.equal(q.ir.weight, released)
    ffn = model.transformer.blocks[0].ffn
    assert not torch.equal(ffn.iqa.up.weight, ffn.ir.up.weight)


def test_names_are_matched_with_nothing_left_over() -> None:
    assert match({"a": (1,)}, {"a": (1,)}) == {"a": "a"}
    assert match({"x.ir.w": (1,), "x.iqa.w": (1,)}, {"x.iqa.w": (1,)}, adapt_experts=True)["x.ir.w"] == "x.iqa.w"
    with pytest.raises(KeysMismatch, match="1 unexpected: b"):
        match({"a": (1,)}, {"a": (1,), "b": (1,)}, adapt_experts=True)


def test_weights_are_cast_while_reading_and_the_codec_stays_exact(folder: Path) -> None:
    model = load(folder, execution=Execution(precision="bfloat16"))
    kept = {name: p.dtype for name, p in model.named_parameters()}
    assert {dtype for name, dtype in kept.items() if name.startswith("codec.")} == {torch.float32}
    assert {dtype for name, dtype in kept.items() if not name.startswith("codec.")} == {torch.bfloat16}
    context = model.start()
    z = model.codec.encode(torch.zeros(1, 3, 32, 32))
    model.append_latent(context, z)
    assert model.velocity(context, torch.randn(1, 16, 4, 4), 1.0).dtype is torch.float32


def test_a_folder_without_config_json_has_the_values_of_the_released_models(tmp_path: Path) -> None:
    released = released_7b().transformer
    llm = {
        "vocab_size": released.vocab_size,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
    }
    vit = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 980,
        "patch_size": 14,
    }
    for name, values in (("llm", llm), ("vit", vit)):
        (tmp_path / f"{name}_config.json").write_text(json.dumps(values))
    assert read_config(tmp_path, tokens=TOKENS, name="7b") == released_7b()
    with pytest.raises(ConfigError, match="names no special_tokens"):
        read_config(tmp_path)
    with pytest.raises(WeightsMismatch, match="none of ema"):
        load_released(ReleasedFolder(tmp_path), released_7b())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsMismatch, match=r"pytorch_model.bin is a pickle, which can run code"):
        load_released(ReleasedFolder(tmp_path), released_7b())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("llm_config.json", None, "llm_config.json is missing"),
        ("vit_config.json", "{", "vit_config.json is not JSON"),
        ("llm_config.json", "{}", "llm_config.json has no vocab_size"),
    ],
)
def test_a_broken_configuration_is_named(copy: Path, file: str, content: str | None, message: str) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    with pytest.raises(ConfigError, match=message):
        load(copy)


def test_a_configuration_that_contradicts_the_tensors_is_refused(copy: Path) -> None:
    values = json.loads((copy / "llm_config.json").read_text())
    values["intermediate_size"] *= 2
    values["num_hidden_layers"] += 1
    (copy / "llm_config.json").write_text(json.dumps(values))
    with pytest.raises(KeysMismatch, match=r"missing: transformer.blocks.2.*of another shape: .*ffn"):
        load(copy)


@pytest.mark.parametrize("change", ["cut", "pickle", "empty", "text", "int"])
def test_a_damaged_file_is_refused_with_its_name(copy: Path, change: str) -> None:
    path = copy / "ema.safetensors"
    data = path.read_bytes()
    if change == "int":
        save_file({"vae2llm.bias": torch.zeros(3, dtype=torch.int64)}, path)
    elif change == "pickle":
        torch.save({"vae2llm.bias": torch.zeros(3)}, path)
    else:
        path.write_bytes({"cut": data[:-100], "empty": b"", "text": b"<html>not found</html>"}[change])
    with pytest.raises(WeightsMismatch, match=r"ema.safetensors"):
        load(copy)


def test_a_network_in_several_files_is_read(copy: Path) -> None:
    tensors = load_file(copy / "ema.safetensors")
    (copy / "ema.safetensors").unlink()
    for number in range(2):
        part = dict(list(tensors.items())[number::2])
        save_file(part, copy / f"model-0000{number + 1}-of-00002.safetensors")
    assert torch.equal(load(copy).vae2llm.weight, tensors["vae2llm.weight"])


def test_an_exported_checkpoint_comes_back_bit_for_bit(
    folder: Path, released_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = replace(read_config(folder), tokens=released_tokenizer.special, name="there")
    model = load_released(ReleasedFolder(folder), config)
    export_released(model, released_tokenizer, tmp_path / "there")
    back = ReleasedFolder(tmp_path / "there")
    assert back.config() == config
    again = load_released(back, config)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert back.tokenizer is not None
    assert back.tokenizer.encode("Severe noise, 12 HU.") == released_tokenizer.encode("Severe noise, 12 HU.")


def test_an_export_replaces_checkpoints_alone(released: Path, released_tokenizer: Tokenizer, tmp_path: Path) -> None:
    loaded = load_pretrained(str(released))
    target, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (mine / "SHA256SUMS").write_text("00  data.bin\n")
    for wrong in (mine, mine / "thesis.txt"):
        with pytest.raises(UnwritableImage, match=r"holds something else .* Choose another folder"):
            export_released(loaded.model, released_tokenizer, wrong)
    assert (mine / "thesis.txt").read_text() == "years of work"
    first = export_released(loaded.model, released_tokenizer, target)
    assert export_released(loaded.model, released_tokenizer, target) == first
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    for output in (target, target.parent):
        result = CliRunner().invoke(app, ["weights", "export", str(target), "-o", str(output), "--overwrite"])
        assert result.exit_code != 0
        assert "holds the source" in result.stderr
    assert before == {path.name: path.stat().st_mtime_ns for path in target.iterdir()}


def test_only_the_released_architecture_can_be_exported(tmp_path: Path) -> None:
    nano = load_pretrained("nano")
    with pytest.raises(WeightsMismatch, match=r"nano has parts .* does not know: .* can be exported"):
        export_released(nano.model, nano.tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_codec_whose_levels_contradict_its_factor_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("llm_config.json", "vit_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    extra = json.loads((folder / "config.json").read_text())
    extra["vae_config"]["downsample"] = 4
    (tmp_path / "config.json").write_text(json.dumps(extra))
    with pytest.raises(ConfigError, match="downsample 4, but ch_mult has 4 levels"):
        read_config(tmp_path)
