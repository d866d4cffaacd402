"""Which numbers, memory format and thread count a step is fastest with on the machine at hand, found by timing it."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medq_uni.files import write_text
from medq_uni.json_text import load_json
from medq_uni.model.medq import MedQ, codec_module
from medq_uni.threads import usable_cores
from medq_uni.train.checkpoint import CheckpointError
from medq_uni.train.parallel import DistContext

PACE = "pace.json"
"""File in the folder of a run that keeps the choice."""
TIMED_PAIRS = 4
"""Pairs in the step that is timed, by every process: autocast to bfloat16 on a processor without instructions for these
numbers takes ten times as long, and a whole batch would take minutes."""
HOPELESS = 5.0
"""How many times as long as the best a first step may take to be timed again."""
WORTH = 0.95
"""A choice is left for one that takes at most this share of its time, so that noise does not decide."""


@dataclass(frozen=True)
class Pace:
    """How a step is computed; none of it changes what is learned, beyond rounding."""

    bfloat16: bool
    """Autocast to bfloat16 where the operation allows it."""
    channels_last: bool
    """Convolutions keep the channels of a pixel beside each other."""
    threads: int
    """Threads of one operation on the processor."""

    def use(self, network: nn.Module) -> None:
        """Set the memory format of the convolutions and the thread count; autocast is entered by who computes."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        if isinstance(network, MedQ):
            codec_module(network).to(memory_format=layout)  # type: ignore[call-overload]
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


def layout_of(network: MedQ) -> torch.memory_format:
    """Return the memory format of the convolutions, in which their input is fastest."""
    for weight in codec_module(network).parameters():
        if weight.ndim == 4 and min(weight.shape) > 1:
            is_last = weight.is_contiguous(memory_format=torch.channels_last)
            return torch.channels_last if is_last else torch.contiguous_format
    return torch.contiguous_format


def kept_pace(note: Path, device: torch.device) -> Pace | None:
    """Return the choice that a run has made; None where it has made none, or made it on another machine.

    Raises:
        CheckpointError: If the file does not say it.
    """
    if not note.is_file():
        return None
    try:
        kept = load_json(note)
        pace = Pace(**kept["pace"])
        return pace if kept["machine"] == _machine(device) else None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{note} does not say how steps were computed. Remove it to time them again.") from error


def _machine(device: torch.device) -> str:
    """Return what a choice holds for: the GPU, or the instructions and cores of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {usable_cores()} cores"


def choose_pace(
    network: nn.Module, losses: Callable[[Pace], Tensor], note: Path, *, device: torch.device, dist: DistContext
) -> tuple[Pace, dict[Pace, float]]:
    """Return what a step is fastest with, and the seconds of every choice that was timed.

    The choice is kept in the folder of the run, so that one that goes on here computes as before. All processes take
    the same.

    Args:
        network: Whose gradients are computed; they are thrown away.
        losses: Returns the weighted loss of a small batch, computed with a choice.
        note: File that keeps the choice.
        device: Where it computes.
        dist: The processes that train together.
    """
    is_gpu = device.type == "cuda"
    begin = Pace(bfloat16=is_gpu, channels_last=True, threads=torch.get_num_threads())

    def seconds(pace: Pace) -> float:
        pace.use(network)
        began = time.perf_counter()
        losses(pace).backward()
        if is_gpu:
            torch.cuda.synchronize(device)
        return dist.mean(time.perf_counter() - began)

    best, times = fastest(begin, _changes(network, begin, is_gpu=is_gpu), seconds)
    network.zero_grad(set_to_none=True)
    if dist.is_first:
        write_text(note, json.dumps({"machine": _machine(device), "pace": asdict(best)}) + "\n")
    return best, times


def _changes(network: nn.Module, begin: Pace, *, is_gpu: bool) -> list[Callable[[Pace], Pace]]:
    """Return the changes that are tried one after the other, each on what was best before it."""
    found: list[Callable[[Pace], Pace]] = [lambda pace: replace(pace, bfloat16=not pace.bfloat16)]
    if isinstance(network, MedQ):
        found.append(lambda pace: replace(pace, channels_last=not pace.channels_last))
    if not is_gpu and begin.threads > 1:
        found.append(lambda pace: replace(pace, threads=max(1, begin.threads // 2)))
    return found


def fastest(
    begin: Pace, tried: Sequence[Callable[[Pace], Pace]], seconds: Callable[[Pace], float]
) -> tuple[Pace, dict[Pace, float]]:
    """Return the fastest choice found by one change after the other, and the seconds of every choice that was timed.

    Every choice is timed twice, because the first step prepares kernels; one that takes many times as long, once.

    Args:
        begin: First choice.
        tried: Changes that are tried one after the other, each on what was best before it.
        seconds: Times a step.
    """
    best, times = begin, {begin: min(seconds(begin), seconds(begin))}
    for change in tried:
        other = change(best)
        times[other] = seconds(other)
        if times[other] < HOPELESS * times[best]:
            times[best] = min(times[best], seconds(best))
            times[other] = min(times[other], seconds(other))
        best = other if times[other] < WORTH * times[best] else best
    return best, times
