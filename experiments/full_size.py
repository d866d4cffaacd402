"""Print what the full 14.6 B model costs: per step, per token, per image, its memory, and its ratio to the roofline.

The model is built with random weights where it runs; nothing is downloaded. Without a GPU a model of the same form and
few, narrow layers runs on the CPU, so that the script itself is known to work; its numbers say nothing about the large
one. The roofline is measured in the same run: the rate of a large matrix product, and of reading memory.

Run: python -m experiments.full_size [--device cuda] [--batch 8] [--precision bfloat16]     (H200: about 5 minutes)
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor

from experiments.machine import matrix_rate, times_of
from experiments.synthetic import random_model, released_config
from medq_uni.config import Execution, FluxCodecConfig, ModelConfig, SamplerConfig, TransformerConfig, VisionConfig
from medq_uni.inference import Condition, Inference
from medq_uni.model.device_placement import place, weight_bytes
from medq_uni.model.generation import Context
from medq_uni.model.medq import MedQ
from medq_uni.preprocess import Preprocessor
from medq_uni.pretrained.load import folder_of
from medq_uni.pretrained.memory import GIB, need_of, needs_of
from medq_uni.tokenizer import Tokenizer

INSTRUCTION, DESCRIPTION, WRITTEN = 20, 60, 48
"""Tokens of the instruction and of the description that guide, and tokens that are written to time them."""
SIDES, STEPS = (256, 512), (1, 10, 49)


@dataclass(frozen=True)
class Machine:
    """What the machine reaches in this run."""

    device: torch.device
    dtype: torch.dtype
    flops: float
    """Matrix products, FLOP/s."""
    bandwidth: float
    """Reading memory, B/s."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=None, help="slices at once; by default 8 on a GPU, else 1")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "int8", "nf4"))
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    is_gpu = options.device.startswith("cuda")
    machine = _machine(torch.device(options.device), torch.bfloat16 if is_gpu else torch.float32)
    name = torch.cuda.get_device_name(machine.device) if is_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}: {machine.flops / 1e12:.2f} TFLOP/s in matrix products, {machine.bandwidth / 1e9:.0f} GB/s read\n")
    _print_memory()
    config = released_config() if is_gpu else _small()
    model = random_model(config, machine.device, machine.dtype)
    execution = Execution(precision=options.precision if is_gpu else "float32", compile=options.compile)
    if options.compile or execution.precision in ("int8", "nf4"):
        place(model, machine.device, execution)
    shapes = {key: tuple(weight.shape) for key, weight in model.state_dict().items()}
    parameters = sum(weight.numel() for weight in model.parameters())
    need = need_of(config, shapes, execution)
    print(f"{parameters / 1e9:.2f} B parameters in {execution.precision}, estimated {need.device / GIB:.1f} GiB\n")
    tokenizer = Tokenizer.from_file(folder_of("nano") / "tokenizer.json")  # nothing is read or written by it
    inference = Inference(model, tokenizer, Preprocessor(config, tile_size=1024))
    batches = (1, options.batch or (8 if is_gpu else 1))
    with torch.inference_mode():
        _print_steps(inference, machine, sorted(set(batches)))
        _print_text(inference, machine, execution)
    peak = torch.cuda.max_memory_allocated() if is_gpu else psutil.Process().memory_info().rss
    print(f"\n{'peak' if is_gpu else 'resident'} memory {peak / GIB:.1f} GiB")


def _print_memory() -> None:
    """Print what the full model is estimated to need in every mode, whatever this machine has."""
    config = released_config()
    with torch.device("meta"):
        shapes = {key: tuple(weight.shape) for key, weight in MedQ(config).state_dict().items()}
    print("| the full model in | on the device (GiB) | of it work for one slice of 512x512 | in host memory |")
    print("|---|---|---|---|")
    for need in needs_of(config, shapes):
        print(f"| {need.name} | {need.device / GIB:.1f} | {need.work / GIB:.1f} | {need.host / GIB:.1f} |")
    print()


def _print_steps(inference: Inference, machine: Machine, batches: Sequence[int]) -> None:
    """Print whole restorations; what a step costs is the difference between long and short ones."""
    config = inference.model.config
    print("| image | slices at once | s/step | TFLOP/step | of the matrix rate | read + decode, s/slice | ", end="")
    print(" | ".join(f"{steps} steps, s/slice" for steps in STEPS) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    for side in SIDES:
        for batch in batches:
            images = torch.zeros(batch, 2, side, side).uniform_(-1, 1).to(machine.device)
            totals = [_image_seconds(inference, machine, images, steps) for steps in STEPS]
            step = (totals[-1] - totals[0]) / (STEPS[-1] - STEPS[0])
            work = batch * _step_flops(config, side, _tokens_read(inference, images))
            other = (totals[0] - STEPS[0] * step) / batch
            columns = f"{step:.4f} | {work / 1e12:.3f} | {100 * work / step / machine.flops:.0f} % | {other:.3f}"
            each = " | ".join(f"{seconds / batch:.3f}" for seconds in totals)
            print(f"| {side}x{side} | {batch} | {columns} | {each} |", flush=True)


def _image_seconds(inference: Inference, machine: Machine, images: Tensor, steps: int) -> float:
    sampler, count = SamplerConfig(start="noise", num_steps=steps, time_shift=3.0), len(images)
    texts = [[[5] * INSTRUCTION] * count, [[6] * DESCRIPTION] * count]
    size = inference.noise_shape(images.shape[-2], images.shape[-1])

    def restore() -> None:
        condition = Condition(texts, images)
        inference.restore(images, condition, sampler=sampler, noise=lambda numbers: torch.randn(count, *size))

    return _seconds(restore, machine, repeats=1)


def _tokens_read(inference: Inference, images: Tensor) -> int:
    """Return the tokens of one slice that a step attends to: its latent, what the encoder sees, and both texts."""
    latent = inference.noise_shape(images.shape[-2], images.shape[-1])[0]
    return latent + 2 + _tokens_seen(inference, images) + 2 + INSTRUCTION + 2 + DESCRIPTION + 2


def _tokens_seen(inference: Inference, images: Tensor) -> int:
    seen, patch = inference.preprocessor.vision_input(images[:1]), inference.model.config.vision.patch_size
    return int((seen.shape[-2] // patch) * (seen.shape[-1] // patch))


def _print_text(inference: Inference, machine: Machine, execution: Execution) -> None:
    """Print what a written token costs after as many tokens as an assessment reads before it writes."""
    model = inference.model
    images = torch.zeros(1, 2, SIDES[0], SIDES[0], device=machine.device)
    context = model.start(1, capacity=2048)
    model.append_text(context, [[5] * (_tokens_seen(inference, images) + 2 + INSTRUCTION)])
    constraint = _Open(model.config.tokens.eos)
    seconds = _seconds(
        lambda: model.generate(context.fork(), constraint=constraint, max_tokens=WRITTEN), machine, repeats=2
    )
    per_token = seconds / WRITTEN
    moved = _token_bytes(model, context, execution)
    print(f"\ndescription: {1000 * per_token:.2f} ms/token, {moved / 1e9:.2f} GB read per token, ", end="")
    print(f"{100 * moved / per_token / machine.bandwidth:.0f} % of the memory bandwidth")


class _Open:
    """Keeps a text from ending early."""

    def __init__(self, eos: int) -> None:
        self.ids = [number for number in range(64) if number != eos]

    def allowed(self, prefix: list[int]) -> list[int]:
        return self.ids

    def forced(self, prefix: list[int]) -> list[int]:
        return []


def _step_flops(config: ModelConfig, side: int, past: int) -> float:
    """Return the FLOP of one evaluation for one slice: matrices of one expert, and attention."""
    sizes = config.transformer
    tokens = (side // config.token_pixels) ** 2 + 2
    width, kv = sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim
    layer = 2 * width * width + 2 * width * kv + 3 * width * sizes.intermediate_size
    attention = 4 * tokens * (past + tokens) * width
    return sizes.num_layers * (2 * layer * tokens + attention)


def _token_bytes(model: MedQ, context: Context, execution: Execution) -> int:
    """Return the bytes that writing one token must read: the assessment expert, the head, keys and values."""
    weights = sum(
        weight_bytes(name, tuple(weight.shape), execution)
        for name, weight in model.named_parameters()
        if name == "lm_head.weight" or (name.startswith("transformer.") and ".ir." not in name)
    )
    keys = context.cache.keys
    per_place = keys[0][0, :, 0].numel() * keys[0].element_size()
    return weights + 2 * len(keys) * context.past.length * per_place


def _machine(device: torch.device, dtype: torch.dtype) -> Machine:
    machine = Machine(device, dtype, matrix_rate(device, dtype), 0.0)
    size = 2**31 if device.type == "cuda" else 2**27
    large = torch.empty(size, device=device, dtype=torch.int8).fill_(1).view(torch.float32)
    read = _seconds(lambda: large.sum(), machine, repeats=10)
    return replace(machine, bandwidth=large.numel() * 4 / read)


def _seconds(run: Callable[[], object], machine: Machine, repeats: int = 5) -> float:
    """Return the median time of a run, after one to warm up."""
    return statistics.median(times_of(run, machine.device, repeats))


def _small() -> ModelConfig:
    config = released_config(layers=4, vision_layers=4, vocabulary=4096)
    transformer: TransformerConfig = replace(
        config.transformer, hidden_size=512, intermediate_size=2048, num_heads=8, num_kv_heads=2
    )
    vision: VisionConfig = replace(config.vision, hidden_size=192, intermediate_size=768, num_heads=4)
    codec = FluxCodecConfig(channels=32, channel_multipliers=(1, 2, 2, 2), num_res_blocks=1)
    return replace(config, name="small", transformer=transformer, vision=vision, codec=codec)


if __name__ == "__main__":
    main()
