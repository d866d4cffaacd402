import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medq_uni.config import (
    PER_EXPERT,
    SHARED_ATTENTION,
    FluxCodecConfig,
    ModelConfig,
    SpecialTokens,
    TransformerConfig,
    VisionConfig,
)
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.convert import (
    WeightsMismatch,
    from_released,
    load_released,
    load_state,
    our_key,
    read_config,
    released_key,
    to_released,
)

PARITY = Path(__file__).parents[1] / "parity"
TOKENS = SpecialTokens(bos=1, eos=2, start_of_image=3, end_of_image=4)


@pytest.fixture(params=["tiny_mot", "tiny_shared_attention"])
def folder(request: pytest.FixtureRequest) -> Path:
    return PARITY / request.param


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
        vision=VisionConfig(),
        codec=FluxCodecConfig(),
        tokens=TOKENS,
    )


def test_there_and_back_gives_the_released_files_key_for_key(folder: Path) -> None:
    network, codec = to_released(load_released(folder, read_config(folder)))
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
    model = load_released(tmp_path, read_config(folder))
    assert torch.equal(model.codec.encoder.conv_in.weight, codec["encoder.conv_in.weight"])


def test_unknown_missing_and_misshapen_weights_are_all_named(folder: Path) -> None:
    network, codec = (load_file(folder / f"{name}.safetensors") for name in ("ema", "ae"))
    with pytest.raises(WeightsMismatch, match=r"2 unexpected: language_model.foo, bar"):
        from_released({**network, "language_model.foo": torch.zeros(1), "bar": torch.zeros(1)})
    state = from_released(network, codec)
    model = MedQ(read_config(folder))
    del state["lm_head.weight"]
    state["vae2llm.bias"] = torch.zeros(3)
    state["extra"] = torch.zeros(1)
    with pytest.raises(WeightsMismatch) as caught:
        load_state(model, state)
    assert caught.value.missing == ("lm_head.weight",)
    assert caught.value.unexpected == ("extra",)
    assert "vae2llm.bias ((3,) instead of (64,))" in str(caught.value)


def test_weights_of_another_sharing_fit_only_when_asked() -> None:
    per_expert, shared = PARITY / "tiny_mot", PARITY / "tiny_shared_attention"
    for folder, sharing in ((per_expert, SHARED_ATTENTION), (shared, PER_EXPERT)):
        config = read_config(folder)
        config = ModelConfig(
            **{
                **{f: getattr(config, f) for f in config.__dataclass_fields__},
                "transformer": TransformerConfig(
                    **{
                        **{f: getattr(config.transformer, f) for f in config.transformer.__dataclass_fields__},
                        "sharing": sharing,
                    }
                ),
            }
        )
        with pytest.raises(WeightsMismatch):
            load_released(folder, config)
        model = load_released(folder, config, adapt_experts=True)
        q = model.transformer.blocks[0].attention.q
        released = load_file(folder / "ema.safetensors")["language_model.model.layers.0.self_attn.q_proj.weight"]
        assert torch.equal(q.iqa.weight, released)
        assert (q.ir is None) == sharing.qkv
        if q.ir is not None:
            assert torch.equal(q.ir.weight, released)
        ffn = model.transformer.blocks[0].ffn
        assert not torch.equal(ffn.iqa.up.weight, ffn.ir.up.weight)


def test_weights_are_cast_while_reading(folder: Path) -> None:
    model = load_released(folder, read_config(folder), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    context = model.start()
    z = model.codec.encode(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16))
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
    with pytest.raises(ValueError, match="names no special_tokens"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="none of ema"):
        load_released(tmp_path, released_7b())


def test_a_codec_whose_levels_contradict_its_factor_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("llm_config.json", "vit_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    extra = json.loads((folder / "config.json").read_text())
    extra["vae_config"]["downsample"] = 4
    (tmp_path / "config.json").write_text(json.dumps(extra))
    with pytest.raises(ValueError, match="downsample 4, but ch_mult has 4 levels"):
        read_config(tmp_path)
