"""Print how fast each stage trains: samples and FLOP per second, against the rate of a large matrix product.

The network is nano's with random weights, the pairs are phantoms. FLOP are counted by PyTorch, forward and backward.
The share of time in which the computation waited for its samples, and the peak memory beside what was foretold.

Run: python -m experiments.training [--device cuda] [--batch 16] [--steps 20] [--workers 8]     (2 CPU cores: 4 minutes)
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.machine import matrix_rate, times_of
from medq_uni.config import ModelConfig
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.load import load_pretrained
from medq_uni.pretrained.memory import GIB
from medq_uni.seeding import generator_of
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.losses import LossWeights
from medq_uni.train.memory import stage_memory
from medq_uni.train.objective import Losses, Objective
from medq_uni.train.optimizer import build_optimizer, choose_trainable
from medq_uni.train.prefetch import Prefetcher, next_seed
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.sampling import BatchBuilder, TrainBatch
from medq_uni.train.stage import ConditioningConfig, CropsConfig, FlowConfig, Group, ObjectiveName, StageConfig

TRAINABLE: dict[ObjectiveName, tuple[Group, ...]] = {
    "codec": ("decoder",),
    "restore": ("decoder", "ir"),
    "assess": ("iqa",),
    "joint": ("decoder", "ir", "iqa"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw the steps; 1 draws on a thread")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = matrix_rate(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in {str(dtype).removeprefix('torch.')} matrix products\n")
    columns = (
        "stage",
        "samples/s",
        "GFLOP/sample",
        "of the matrix rate",
        "waited",
        "held (GiB)",
        "activations",
        "peak",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    nano = load_pretrained("nano")
    with tempfile.TemporaryDirectory() as folder:
        pairs = build_pair_cache(PairsConfig(count=40, seed=1), Path(folder) / "pairs")
        texts = PairTexts(pairs, nano.tokenizer)
        for objective, trainable in TRAINABLE.items():
            stage = StageConfig(
                name=objective,
                objective=objective,
                trainable=trainable,
                steps=options.steps,
                crops=CropsConfig(batch_size=options.batch, sides=(options.crop,)),
                losses=LossWeights(flow=1.0, l1=1.0, ssim=1.0, text=1.0),
                conditioning=ConditioningConfig(generated=0.0),
                flow=FlowConfig(noise_share=0.0),
                assess_share=0.0,
            )
            print(_row(nano.config, texts, stage, device, rate, options.workers), flush=True)


def _row(
    config: ModelConfig, texts: PairTexts, stage: StageConfig, device: torch.device, rate: float, workers: int
) -> str:
    torch.manual_seed(0)
    model = MedQ(config).to(device).train()
    pairs = PairsConfig(count=1, seed=1)
    recipe = TrainConfig(about=(), initial="nano", pairs=pairs, val_pairs=replace(pairs, seed=2), stages=(stage,))
    choose_trainable(model, recipe, stage)
    optimizer = build_optimizer(model, recipe, stage)
    builder = BatchBuilder(texts, stage, config, BatchSampler(texts.pairs, token_pixels=config.token_pixels), {})
    objective, is_gpu = Objective(model), device.type == "cuda"

    def losses(batch: TrainBatch) -> Losses:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_gpu):
            return objective.losses(batch)

    needed = stage_memory(model, builder, 1, next_seed(generator_of(0)), losses)
    prefetcher = Prefetcher(builder, generator_of(0).get_state(), workers=workers, pinned=is_gpu)

    def step() -> None:
        total = sum(losses(prefetcher.take()).values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[union-attr]
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    flop = counter.get_total_flops()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    prefetcher.seconds = 0.0
    times = times_of(step, device, stage.steps)
    waited = prefetcher.seconds / sum(times)
    prefetcher.close()
    peak = torch.cuda.max_memory_allocated(device) if is_gpu else psutil.Process().memory_info().rss
    seconds, size = statistics.median(times), stage.crops.batch_size
    columns = [
        f"{size / seconds:.1f}",
        f"{flop / size / 1e9:.1f}",
        f"{100 * flop / seconds / rate:.0f} %",
        f"{100 * waited:.1f} %",
        f"{needed['held_gib']:.2f}",
        f"{needed['activations_gib']:.2f}",
        f"{peak / GIB:.2f}",
    ]
    return f"| {stage.objective} | " + " | ".join(columns) + " |"


if __name__ == "__main__":
    main()
