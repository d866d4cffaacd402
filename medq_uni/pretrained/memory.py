"""How much memory a network needs in each mode, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import get_args

import psutil
import torch

from medq_uni.config import Execution, FluxCodecConfig, ModelConfig, Precision
from medq_uni.model.device_placement import BLOCK, weight_bytes
from medq_uni.pretrained.keys import Shape, WeightsMismatch

GIB = 1024**3
SLICE_SIDE = 512
"""Side of the slice for which working memory is estimated, in pixels."""
TEXT_TOKENS = 300
"""Tokens of instruction and description."""
CODEC_MAPS = 10
"""Feature maps of full width and resolution that are alive at once while the codec decodes."""
HIDDEN_COPIES = 6
"""Copies of the hidden states that are alive at once in a block."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class NotEnoughMemory(WeightsMismatch):
    """A network that would not fit; says what would."""


@dataclass(frozen=True)
class Need:
    """Memory of one mode, in bytes."""

    execution: Execution
    device: int
    """On the device that computes: weights and work."""
    host: int
    """In host memory, where that is not the device."""
    work: int
    """Share of ``device`` that is work: keys and values, hidden states, features of the codec; estimated for one
    slice of :data:`SLICE_SIDE` squared."""

    @property
    def name(self) -> str:
        """The mode in words."""
        return f"{self.execution.precision}{', offload' if self.execution.offload else ''}"


def need_of(config: ModelConfig, shapes: Mapping[str, Shape], execution: Execution) -> Need:
    """Return what one mode needs.

    Args:
        config: Sizes of the network.
        shapes: Shape of every weight, under our names.
        execution: The mode.
    """
    sizes = {name: weight_bytes(name, shape, execution) for name, shape in shapes.items()}
    blocks = {name: size for name, size in sizes.items() if name.startswith(BLOCK)}
    work = _work(config, execution)
    if not execution.offload:
        return Need(execution, sum(sizes.values()) + work, 0, work)
    per_block: dict[str, int] = {}
    for name, size in blocks.items():
        number = name.removeprefix(BLOCK).split(".")[0]
        per_block[number] = per_block.get(number, 0) + size
    resident = sum(sizes.values()) - sum(blocks.values())
    return Need(execution, resident + max(per_block.values()) + work, sum(blocks.values()), work)


def needs_of(config: ModelConfig, shapes: Mapping[str, Shape]) -> list[Need]:
    """Return what every mode needs."""
    modes = (Execution(precision=p, offload=o) for p, o in product(PRECISIONS, (False, True)))
    return [need_of(config, shapes, mode) for mode in modes]


def available(device: torch.device) -> tuple[int, int]:
    """Return free memory of the device and of the host in bytes; the same number where they are one."""
    host = int(psutil.virtual_memory().available)
    return (int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else host), host


def check_memory(config: ModelConfig, shapes: Mapping[str, Shape], execution: Execution, device: torch.device) -> None:
    """Refuse a network that would not fit.

    Raises:
        NotEnoughMemory: With what there is, what is needed, and the modes that would fit.
    """
    free, host = available(device)
    need = need_of(config, shapes, execution)
    if _fits(need, free, host, device):
        return
    fitting = [other.name for other in needs_of(config, shapes) if _fits(other, free, host, device)]
    hint = f"These modes would fit: {'; '.join(fitting)}." if fitting else "No mode fits; use a larger machine."
    where = f" and {need.host / GIB:.1f} GiB of host memory" if need.host else ""
    raise NotEnoughMemory(
        f"{config.name} in {need.name} needs about {need.device / GIB:.1f} GiB on {device}{where}; "
        f"{free / GIB:.1f} GiB are free there, {host / GIB:.1f} GiB on the host. {hint}"
    )


def describe(needs: Iterable[Need]) -> list[dict[str, float | str]]:
    """Return the needs as rows: mode, and GiB on the device and the host."""
    return [
        {
            "mode": need.name,
            "weights_gib": round((need.device - need.work) / GIB, 2),
            "work_gib": round(need.work / GIB, 2),
            "device_gib": round(need.device / GIB, 2),
            "host_gib": round(need.host / GIB, 2),
        }
        for need in needs
    ]


def _fits(need: Need, free: int, host: int, device: torch.device) -> bool:
    if device.type == "cpu":  # offloading moves nothing where host and device are one
        return need.device + need.host <= host
    return need.device <= free and need.host <= host


def _work(config: ModelConfig, execution: Execution) -> int:
    item = 4 if execution.precision in (None, "float32") else 2
    sizes, vision = config.transformer, config.vision
    latents = (SLICE_SIDE // config.token_pixels) ** 2
    side = SLICE_SIDE if vision.view_sides is None else min(max(SLICE_SIDE, vision.view_sides[0]), vision.view_sides[1])
    tokens = 2 * latents + (side // vision.patch_size) ** 2 + TEXT_TOKENS
    cache = 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim * tokens * item
    hidden = tokens * (HIDDEN_COPIES * sizes.hidden_size + 3 * sizes.intermediate_size) * item
    width = config.codec.channels if isinstance(config.codec, FluxCodecConfig) else config.codec.widths[0]
    return cache + max(hidden, CODEC_MAPS * width * SLICE_SIDE**2 * 4)
