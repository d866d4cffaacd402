"""Quantized, offloaded and compiled networks give nearly, or exactly, the numbers of the plain one."""

import functools

import jaxtyping
import pytest
import torch

from medq_uni.config import Execution
from medq_uni.model.device_placement import is_quantized
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.load import load_pretrained
from medq_uni.seeding import generator_of


def velocity(model: MedQ) -> torch.Tensor:
    image = torch.randn(1, 2, 64, 64, generator=generator_of(3)).clamp(-1, 1)
    latent = model.codec.encode(image)
    context = model.start()
    model.append_latent(context, latent)
    model.append_vision(context, image)
    model.append_text(context, [[300, 301, 302]])
    return model.velocity(context, latent, 1.0)


@functools.cache
def plain() -> torch.Tensor:
    return velocity(load_pretrained("nano").model)


def agreement(execution: Execution) -> float:
    """Signal over error in dB."""
    other = velocity(load_pretrained("nano", execution=execution).model)
    return float(10 * torch.log10(plain().square().mean() / (other - plain()).square().mean()))


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 45.0), ("int8", 42.0), ("nf4", 28.0)])
def test_fewer_bits_agree_with_the_plain_path(precision: str, least: float) -> None:
    assert agreement(Execution(precision=precision)) > least  # type: ignore[arg-type]


def test_offloaded_blocks_visit_the_device_one_at_a_time_and_give_the_same_bits() -> None:
    model = load_pretrained("nano", execution=Execution(offload=True)).model
    block = model.transformer.blocks[0]
    home = block.ffn.ir.up.weight
    seen = []
    block.ffn.ir.up.register_forward_pre_hook(lambda module, args: seen.append(module.weight))
    assert torch.equal(velocity(model), plain())
    assert seen
    assert all(weight is not home for weight in seen)
    assert block.ffn.ir.up.weight is home


@pytest.mark.slow
def test_compiled_blocks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the checks would be compiled too
    assert agreement(Execution(compile=True)) > 100


def test_only_the_linear_layers_of_blocks_are_quantized() -> None:
    execution = Execution(precision="int8")
    assert is_quantized("transformer.blocks.0.ffn.ir.up.weight", (64, 64), execution)
    assert not is_quantized("transformer.blocks.0.attention_norm.ir.weight", (64,), execution)
    assert not is_quantized("lm_head.weight", (64, 64), execution)
    assert not is_quantized("codec.encoder.conv_in.weight", (64, 64), execution)
    assert not is_quantized("transformer.blocks.0.ffn.ir.up.weight", (64, 64), Execution(precision="bfloat16"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "nf4"])
def test_offloaded_blocks_wait_in_host_memory(precision: str) -> None:
    execution = Execution(precision=precision, offload=True)  # type: ignore[arg-type]
    model = load_pretrained("nano", device="cuda", execution=execution).model
    assert model.device.type == "cuda"
    assert {parameter.device.type for parameter in model.transformer.blocks.parameters()} == {"cpu"}
