import json

import pytest

from medq_uni.config import (
    ConfigError,
    FidelityCodecConfig,
    FluxCodecConfig,
    ModelConfig,
    SamplerConfig,
    SpecialTokens,
    TransformerConfig,
    VisionConfig,
)
from medq_uni.config_json import chosen, from_json, to_json

SIZES = {"vocab_size": 9, "intermediate_size": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}


@pytest.mark.parametrize("codec", [FidelityCodecConfig(), FluxCodecConfig()])
def test_a_model_configuration_comes_back_from_json(codec: FidelityCodecConfig | FluxCodecConfig):
    config = ModelConfig(
        name="x",
        transformer=TransformerConfig(hidden_size=16, **SIZES),
        vision=VisionConfig(),
        codec=codec,
        tokens=SpecialTokens(bos=0, eos=1, start_of_image=2, end_of_image=3),
    )
    assert from_json(ModelConfig, to_json(config)) == config
    assert config.token_channels == 4 * codec.latent_channels


def test_a_guide_has_the_width_of_the_expert():
    sizes = {"transformer": TransformerConfig(hidden_size=16, **SIZES), "vision": VisionConfig()}
    tokens = SpecialTokens(bos=0, eos=1, start_of_image=2, end_of_image=3)
    assert ModelConfig(name="x", **sizes, tokens=tokens, codec=FidelityCodecConfig(film_width=16))
    with pytest.raises(ConfigError, match="film_width must be 0 or the hidden_size of the transformer, 16, got 8"):
        ModelConfig(name="x", **sizes, tokens=tokens, codec=FidelityCodecConfig(film_width=8))


def test_what_is_chosen_is_what_is_no_default():
    codec = FidelityCodecConfig(widths=(4, 4, 4, 4), film_width=16)
    assert chosen(FidelityCodecConfig()) == {}
    assert chosen(codec) == {"widths": [4, 4, 4, 4], "film_width": 16}
    config = ModelConfig(
        name="x",
        transformer=TransformerConfig(hidden_size=16, **SIZES),
        vision=VisionConfig(patch_size=8),
        codec=codec,
        tokens=SpecialTokens(bos=0, eos=1, start_of_image=2, end_of_image=3),
    )
    assert set(chosen(config)) == {"name", "transformer", "vision", "codec", "tokens"}
    assert chosen(config)["vision"] == {"patch_size": 8}


def test_a_wrong_key_of_a_codec_is_answered_with_a_key_of_that_codec():
    made = ModelConfig(
        name="x",
        transformer=TransformerConfig(hidden_size=16, **SIZES),
        vision=VisionConfig(),
        codec=FidelityCodecConfig(),
        tokens=SpecialTokens(bos=0, eos=1, start_of_image=2, end_of_image=3),
    )
    config = json.loads(to_json(made))
    config["codec"]["fidelity_pth"] = config["codec"].pop("fidelity_path")
    with pytest.raises(ConfigError, match=r"fidelity_pth.*Did you mean 'fidelity_path'"):
        from_json(ModelConfig, json.dumps(config))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"num_step": 3}', "num_step.*Did you mean 'num_steps'"),
        ('{"num_steps": "many"}', "num_steps"),
        ('{"num_steps": 0}', "at least 1"),
        ('{"start": "middle"}', "start"),
        ("{", "JSON"),
        ('{"num_steps": 3, "num_steps": 4}', "'num_steps' is given twice"),
    ],
)
def test_a_wrong_configuration_names_the_key(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        from_json(SamplerConfig, text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TransformerConfig(hidden_size=18, **SIZES),
        lambda: TransformerConfig(hidden_size=16, **(SIZES | {"num_kv_heads": 3})),
        lambda: VisionConfig(patch_size=14, stem_channels=(4, 8)),
        lambda: FidelityCodecConfig(widths=(4, 8)),
        lambda: FidelityCodecConfig(blocks=(1, 1)),
        lambda: FidelityCodecConfig(blocks=(1, 1, 0, 1)),
        lambda: SamplerConfig(num_samples=4),
    ],
)
def test_sizes_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigError):
        make()
