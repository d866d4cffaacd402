"""Checkpoints of a training run: safetensors and JSON, replaced atomically, never pickled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medq_uni.train.parallel import divided_like, whole

STATE_NAME = "state.safetensors"
PREVIOUS_NAME = "state.previous.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    stage: int
    """Position in the recipe's list of stages."""
    step: int
    """Steps done in that stage."""
    seconds: float
    """Time spent training so far."""
    recipe_hash: str
    """Of the recipe, so that another recipe is not resumed by mistake."""


class WeightAverage:
    """Exponential moving average of the weights that learn, or have learned (EMA), float32."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {}

    def track(self, model: nn.Module) -> None:
        """Begin to average the weights that learn from now on; those that were averaged before stay."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name not in self.shadow:
                self.shadow[name] = parameter.detach().float().clone()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights; faster while the average is young."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.shadow[name].lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the average; calling it twice restores both."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                kept = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name] = kept.float()


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer | None,
    generator: torch.Generator,
    progress: Progress,
    only_learned: bool = False,
    is_first: bool = True,
) -> None:
    """Write the whole training state; the one before is kept as a second chance.

    Args:
        folder: Where to.
        model: Network; of several processes every one must call this.
        average: Its averaged weights.
        optimizer: Of the present stage.
        generator: Source of all random numbers.
        progress: Where the run stands.
        only_learned: Leave out weights that never learned: they are those of the pretrained model.
        is_first: Whether this process writes.
    """
    kept = {k: x for k, x in model.state_dict().items() if not only_learned or k in average.shadow}
    divided = {f"model.{name}": value for name, value in kept.items()}
    divided |= {f"average.{name}": value for name, value in average.shadow.items()}
    divided |= _optimizer_tensors(model, optimizer)
    tensors = {name: whole(value).cpu() for name, value in divided.items()}
    if not is_first:
        return
    tensors["generator"] = generator.get_state()
    metadata = {"progress": json.dumps(asdict(progress)), "updates": str(average.updates)}
    folder.mkdir(parents=True, exist_ok=True)
    partial, path = folder / (STATE_NAME + ".part"), folder / STATE_NAME
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, partial, metadata)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, folder / PREVIOUS_NAME)
    os.replace(partial, path)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Progress, int] | None:
    """Return tensors, progress and average updates of the newest readable checkpoint, None if there is none.

    Raises:
        CheckpointError: If there are checkpoint files and none of them can be read.
    """
    broken = []
    for name in (STATE_NAME, PREVIOUS_NAME):
        path = folder / name
        if not path.is_file():
            continue
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, Progress(**json.loads(metadata["progress"])), int(metadata["updates"])
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            broken.append(f"{name} ({type(error).__name__})")
    if broken:
        raise CheckpointError(
            f"{folder}: no readable checkpoint, tried {', '.join(broken)}. Start again in an empty folder."
        )
    return None


def restore(
    tensors: dict[str, Tensor],
    updates: int,
    *,
    model: nn.Module,
    average: WeightAverage,
    generator: torch.Generator,
) -> None:
    """Put weights, average and random state of a checkpoint in place."""
    own = model.state_dict()
    with torch.no_grad():
        for name, value in _part(tensors, "model."):
            own[name].copy_(divided_like(value, own[name]))
    average.shadow = {name: divided_like(value, own[name]) for name, value in _part(tensors, "average.")}
    average.updates = updates
    generator.set_state(tensors["generator"])


def restore_optimizer(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the moments of a checkpoint into an optimizer over the same weights."""
    for name, parameter in model.named_parameters():
        if f"optimizer.step.{name}" in tensors:
            optimizer.state[parameter] = {
                "step": tensors[f"optimizer.step.{name}"],
                "exp_avg": divided_like(tensors[f"optimizer.exp_avg.{name}"], parameter),
                "exp_avg_sq": divided_like(tensors[f"optimizer.exp_avg_sq.{name}"], parameter),
            }


def _part(tensors: dict[str, Tensor], prefix: str) -> list[tuple[str, Tensor]]:
    return [(name.removeprefix(prefix), value) for name, value in tensors.items() if name.startswith(prefix)]


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    if optimizer is None:
        return {}
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
