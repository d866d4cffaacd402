"""Print what fine-tuning the released model costs per step, and its peak memory against what must be held.

A synthetic checkpoint with the released shapes and two layers is written first, then trained by the paper's first stage
(the restoration expert) and by its second with low-rank updates, each in a process of its own. What must be held:
weights, and for those that learn gradients, two moments and the average, all float32. The rest of the peak is
activations and work.

Run: python -m experiments.finetuning [--layers 2] [--vocabulary 152064]     (2 CPU cores, 22 GiB: about 8 minutes)
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from experiments.machine import measured_alone
from experiments.synthetic import write_checkpoint
from medq_uni.config import SamplerConfig
from medq_uni.data.pairs import PairsConfig
from medq_uni.train.checkpoint import newest_checkpoint
from medq_uni.train.losses import LossWeights
from medq_uni.train.recipe import LoraConfig, TrainConfig
from medq_uni.train.run_log import LOG, read_log
from medq_uni.train.stage import ConditioningConfig, CropsConfig, FlowConfig, OptimizerConfig, StageConfig
from medq_uni.train.trainer import TrainOptions, train

GB = 1e9
CROPS, OPTIMIZER = CropsConfig(batch_size=1, sides=(64,)), OptimizerConfig(learning_rate=2e-5, lr_warmup_steps=1)
FLOW = FlowConfig(noise_share=1.0, noise_pixel_time=1.0)
RESTORE = StageConfig(
    name="restore",
    objective="restore",
    trainable=("ir",),
    steps=6,
    optimizer=OPTIMIZER,
    crops=CROPS,
    losses=LossWeights(flow=1.0, l1=0.5, ssim=0.5),
    flow=FLOW,
)
JOINT = replace(
    RESTORE,
    name="joint",
    objective="joint",
    trainable=("ir", "iqa"),
    losses=replace(RESTORE.losses, text=1.0),
    conditioning=ConditioningConfig(generated=0.0),
    assess_share=0.0,
)
STAGES = {"restoration expert": RESTORE, "low-rank updates of both": JOINT}


def main() -> None:
    """Write the checkpoint, train and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written; by default a temporary folder")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(Path(options.measure[0]), options.measure[1])))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_checkpoint(Path(folder) / "base", options.layers, torch.bfloat16, options.vocabulary)
        print("| learns | parameters | learning | s/step | must be held (GB) | peak (GB) | first flow loss | last |")
        print("|---|---|---|---|---|---|---|---|")
        for name in STAGES:
            found = measured_alone("experiments.finetuning", folder, name)
            counts = f"{found['parameters'] / 1e6:.0f} M | {found['learning'] / 1e6:.1f} M"
            memory = f"{found['held'] / GB:.2f} | {found['peak'] / GB:.2f}"
            losses = f"{found['first']:.3f} | {found['last']:.3f}"
            print(f"| {name} | {counts} | {found['seconds']:.1f} | {memory} | {losses} |", flush=True)


def _measure(folder: Path, name: str) -> dict[str, float]:
    """Train a few steps and return counts, bytes and seconds."""
    pairs = PairsConfig(count=5, seed=1, phantom_sizes=(64,))
    config = TrainConfig(
        about=("an experiment",),
        initial=str(folder / "base"),
        pairs=pairs,
        val_pairs=replace(pairs, count=1, seed=2, none_fraction=1.0),
        stages=(STAGES[name],),
        lora=LoraConfig(rank=16) if name.startswith("low-rank") else None,
        recompute=True,
        bfloat16=False,
        sampler=SamplerConfig(start="noise"),
        save_interval_minutes=60,
        validation_interval=100,
        log_interval=1,
    )
    run = folder / name.split()[0]
    trained = train(config, run, TrainOptions(device="cpu"))
    steps = [line for line in read_log(run / LOG) if line["event"] == "step"]
    parameters, learning = sum(p.numel() for p in trained.model.parameters()), _learning(run)
    return {
        "parameters": parameters,
        "learning": learning,
        "seconds": (steps[-1]["seconds"] - steps[0]["seconds"]) / (len(steps) - 1),
        "held": 4 * parameters + 16 * learning,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "first": steps[0]["flow"],
        "last": steps[-1]["flow"],
    }


def _learning(run: Path) -> int:
    """Return how many weights learned: those that a checkpoint holds the average of."""
    found = newest_checkpoint(run)
    assert found is not None
    count = 0
    for file in found[0].glob("*.safetensors"):
        with safe_open(str(file), "pt") as tensors:
            names = [key for key in tensors.keys() if key.startswith("average.")]  # noqa: SIM118
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return count


if __name__ == "__main__":
    main()
