"""Training state on disk: sharded safetensors, hashed, whole or not at all, for any number of processes.

Every process writes its own part (PyTorch's distributed checkpoints in their safetensors form), so nobody ever holds
the whole state, and what many have written any other number can read. Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from medq_uni.errors import MedQError
from medq_uni.files import file_digest, flush, write_text
from medq_uni.json_text import load_json
from medq_uni.train.parallel import DistContext, is_divided

PREFIX, PARTIAL, MANIFEST = "checkpoint-", "checkpoint.part", "progress.json"
DIVERGED = "diverged"
"""Checkpoint of the moment before a loss became NaN."""
FILE_BYTES = 2**29
"""Size at which the next file is begun."""
KEPT = 2
"""Checkpoints that are kept: the newest, and the one before as a second chance."""
LOCK, LOCK_SECONDS = ".lock", 10.0
"""File that a run holds while it writes to its folder, and how long another waits for it."""


class CheckpointError(MedQError):
    """A run folder whose state cannot be used; the message says what to do."""


@dataclass(frozen=True)
class RunPosition:
    """Where a run stands."""

    stage: int
    """Number of the stage, from 0."""
    step: int
    """Optimizer steps done in it."""
    seconds: float
    """Training time so far."""
    recipe_hash: str
    """Of the recipe that the run belongs to."""
    updates: int = 0
    """Updates of the averaged weights."""
    software: str = ""
    """Version that wrote it."""


class WeightAverage:
    """Exponential moving average of the weights that learn, or have learned (EMA), float32.

    Weights that are divided among processes are averaged where they are, each part by its process.
    """

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
        """Move the average toward the model; early updates count more, so that it does not lag."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        learning = [(self.shadow[name], p.detach().float()) for name, p in model.named_parameters() if p.requires_grad]
        for is_one in (True, False):  # divided weights and whole ones cannot be moved in one go
            pairs = [pair for pair in learning if is_divided(pair[0]) is is_one]
            if pairs:
                torch._foreach_lerp_([shadow for shadow, _ in pairs], [weights for _, weights in pairs], 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the average; calling it twice restores both."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                kept = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name] = kept.float()


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What changes while a model is trained.

    Attributes:
        model: Network; its parts may be divided among processes.
        average: Its averaged weights.
        optimizer: Of the present stage; None between stages.
        generator: Source of all random numbers, the same in every process.
        is_base_kept: Whether weights that never learned belong to the state; those of a pretrained model do not.
    """

    model: nn.Module
    average: WeightAverage
    optimizer: torch.optim.Optimizer | None
    generator: torch.Generator
    is_base_kept: bool = True

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name."""
        shadow = self.average.shadow
        found = {f"model.{k}": x for k, x in self.model.state_dict().items() if self.is_base_kept or k in shadow}
        found |= {f"average.{name}": value for name, value in shadow.items()}
        if self.optimizer is not None:
            for name, parameter in self.model.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    found[f"optimizer.{key}.{name}"] = value.reshape(1) if value.ndim == 0 else value
        # files hold the standard objective only; an image objective comes back when weights are copied in place
        return {name: x.contiguous() for name, x in found.items()} | {"generator": self.generator.get_state()}


@contextmanager
def sole_writer(folder: Path, dist: DistContext) -> Iterator[None]:
    """Hold the folder of a run, so that no second run writes to it; every process must enter.

    The operating system lets the folder go when the first process dies, however it dies.

    Raises:
        CheckpointError: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, is_held = FileLock(folder / LOCK), True
    if dist.is_first:
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            is_held = False
    try:
        if not dist.as_first_says(is_held):
            raise CheckpointError(
                f"{folder} is being written by another run. Wait for it or stop it; the workers of a launcher that was "
                "killed may still be alive."
            )
        yield
    finally:
        lock.release()


def save_checkpoint(
    folder: Path, state: TrainingState, position: RunPosition, dist: DistContext, name: str = ""
) -> None:
    """Write a checkpoint; every process must call this. Those before the last two are removed.

    Args:
        folder: Folder of the run.
        state: What to write.
        position: Where the run stands.
        dist: The processes that train together.
        name: Name of its folder; by default it follows from the position.
    """
    partial = folder / PARTIAL
    target = folder / (name or f"{PREFIX}{position.stage:02d}-{position.step:08d}")
    if dist.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.wait()
    tensors = state.tensors()
    files = _files_of(tensors)
    writer = HuggingFaceStorageWriter(str(partial), fqn_to_index_mapping=files, save_distributed=True)
    try:
        with _alone_is_fine():
            save_distributed(tensors, storage_writer=writer, no_dist=dist.world == 1)
    except (CheckpointException, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{partial} cannot be written ({_cause(error)}). The checkpoints before it are whole: make room, then go "
            "on with --resume."
        ) from error
    mine = sorted(partial.glob(f"shard-{dist.rank + 1:05d}-*.safetensors"))
    for file in mine:
        flush(file)
    parts = dist.gathered({file.name: file_digest(file) for file in mine})
    if dist.is_first:
        manifest = {"progress": asdict(position), "files": {k: v for part in parts for k, v in part.items()}}
        write_text(partial / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
        for old in _found(folder)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    dist.wait()


def newest_checkpoint(folder: Path, name: str = "") -> tuple[Path, RunPosition] | None:
    """Return the newest whole checkpoint of a run and where it stands; None if the run has none at all.

    Warns of newer ones that are damaged.

    Raises:
        CheckpointError: If there are checkpoints, and all of them are damaged.
    """
    broken: list[str] = []
    for path in [folder / name] if name else _found(folder):
        try:
            manifest = load_json(path / MANIFEST)
            damaged = [file for file, digest in manifest["files"].items() if file_digest(path / file) != digest]
            if not damaged:
                position = RunPosition(**manifest["progress"])
                if broken:
                    warnings.warn(f"{', '.join(broken)}: damaged, {path.name} is used instead.", stacklevel=2)
                return path, position
            broken.append(f"{path.name} ({damaged[0]} was altered)")
        except (OSError, ValueError, KeyError, TypeError) as error:
            broken.append(f"{path.name} ({type(error).__name__})")
    if broken:
        raise CheckpointError(f"{folder}: no whole checkpoint, tried {', '.join(broken)}. Start in an empty folder.")
    return None


def load_checkpoint(path: Path, state: TrainingState, position: RunPosition) -> None:
    """Put weights, average and random numbers of a checkpoint in place; the optimizer's come with :func:`load_moments`.

    Args:
        path: Folder of the checkpoint.
        state: Is filled in place.
        position: What the checkpoint says about itself.

    Raises:
        CheckpointError: If it holds other weights than the model.
    """
    own = state.model.state_dict()
    wanted: dict[str, Tensor] = {"generator": state.generator.get_state()}
    for key in _stored(path):
        kind, _, name = key.partition(".")
        if kind not in ("model", "average"):
            continue
        if name not in own:
            raise CheckpointError(f"{path.name} holds {name}, which this recipe's network does not have.")
        wanted[key] = own[name] if kind == "model" else torch.empty_like(own[name], dtype=torch.float32)
    _load(path, wanted)
    shadow = {key.removeprefix("average."): x for key, x in wanted.items() if key.startswith("average.")}
    state.average.shadow, state.average.updates = shadow, position.updates
    state.generator.set_state(wanted["generator"])


def load_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the moments of a checkpoint into an optimizer over the same weights."""
    stored, wanted = _stored(path), {}
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"optimizer.{key}.{name}" in stored:
                empty = torch.empty(1) if key == "step" else torch.empty_like(parameter, requires_grad=False)
                wanted[f"optimizer.{key}.{name}"] = empty
    if not wanted:
        return
    _load(path, wanted)
    for name, parameter in model.named_parameters():
        if f"optimizer.step.{name}" in wanted:
            optimizer.state[parameter] = {
                "step": wanted[f"optimizer.step.{name}"].reshape(()),
                "exp_avg": wanted[f"optimizer.exp_avg.{name}"],
                "exp_avg_sq": wanted[f"optimizer.exp_avg_sq.{name}"],
            }


def _files_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file of every tensor: a file is put together in memory, so none becomes large."""
    number, size = 1, 0
    files: dict[str, int] = {}
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        if size > FILE_BYTES and files:
            number, size = number + 1, tensor.numel() * tensor.element_size()
        files[name] = number
    return files


def _found(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    return sorted(folder.glob(f"{PREFIX}[0-9]*"), reverse=True)


def _stored(path: Path) -> set[str]:
    names: set[str] = set()
    for file in path.glob("*.safetensors"):
        try:
            with safe_open(str(file), "pt") as tensors:
                names |= set(tensors.keys())
        except SafetensorError as error:
            raise CheckpointError(f"{path.name}/{file.name} is damaged ({error}).") from error
    return names


def _load(path: Path, into: Mapping[str, Tensor]) -> None:
    reader = HuggingFaceStorageReader(str(path))
    with _alone_is_fine():
        load_distributed(dict(into), storage_reader=reader, no_dist=not torch.distributed.is_initialized())


def _cause(error: BaseException) -> str:
    """Return what went wrong in the first process that failed."""
    failures = getattr(error, "failures", None) or {0: (error, None)}
    first = next(iter(failures.values()))[0]
    return f"{type(first).__name__}: {first}"


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
