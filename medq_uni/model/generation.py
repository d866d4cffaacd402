"""Step-by-step use of the network: what a context remembers, and how text is chosen token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medq_uni.model.grid import Offset
from medq_uni.model.transformer import KVCache
from medq_uni.stream import Past


@runtime_checkable
class Constraint(Protocol):
    """Restricts what may be written; called with the ids written so far, framing tokens excluded."""

    def allowed(self, prefix: list[int]) -> list[int] | None:
        """Return the ids that may come next, eos among them where the text may end; None is any."""
        ...

    def forced(self, prefix: list[int]) -> list[int]:
        """Return ids that must come next, in one run; empty where there is a choice.

        A run may end in eos. It costs one pass of the network instead of one per token.
        """
        ...

    def narrowed(self, prefix: list[int], allowed: list[int], logits: list[float]) -> list[int]:
        """Return those of the allowed ids that may be chosen, given what the network makes of each."""
        ...


@dataclass(eq=False)
class Context:
    """Everything a batch of samples has read and written so far, as keys and values."""

    cache: KVCache
    past: Past
    latent_offset: Offset = (0, 0)
    """Row and column, in tokens, of this crop in the whole latent."""
    vision_offset: Offset = (0, 0)
    """The same for the vision image, in patches."""
    before_text: Past | None = None
    """The past when the first text began; None if there is no text yet."""
    instruction: list[list[int]] = field(default_factory=list)
    """Ids of the first text, without bos and eos."""

    @property
    def batch_size(self) -> int:
        """Samples."""
        return self.past.batch_size

    def fork(self, repeats: int = 1) -> Context:
        """Return an independent copy, with every sample ``repeats`` times in a row."""
        rows = torch.arange(self.batch_size).repeat_interleave(repeats)
        return self._select(rows, self.past)

    def without_text(self) -> Context:
        """Return a copy as it was before its first text."""
        assert self.before_text is not None, "there is no text"
        copy = self._select(torch.arange(self.batch_size), self.before_text)
        copy.before_text, copy.instruction = None, []
        return copy

    def _select(self, rows: Tensor, past: Past) -> Context:
        repeats = len(rows) // self.batch_size
        return Context(
            cache=self.cache.select(rows, past.length),
            past=past.select(rows),
            latent_offset=_repeated(self.latent_offset, repeats),
            vision_offset=_repeated(self.vision_offset, repeats),
            before_text=None if self.before_text is None else self.before_text.select(rows),
            instruction=[self.instruction[row] for row in rows.tolist()] if self.instruction else [],
        )


def _repeated(offset: Offset, repeats: int) -> tuple[int, int] | Int[Tensor, "N 2"]:
    return offset.repeat_interleave(repeats, dim=0) if isinstance(offset, Tensor) else offset


@dataclass(frozen=True, eq=False)
class GuidanceContexts:
    """The contexts that guidance leads away from."""

    without_text: Context
    """Usually the images alone."""
    without_images: Context | None = None
    """Usually the instruction alone; needed only for image guidance."""

    def fork(self, repeats: int) -> GuidanceContexts:
        """Return independent copies, with every sample ``repeats`` times in a row."""
        without_images = None if self.without_images is None else self.without_images.fork(repeats)
        return GuidanceContexts(self.without_text.fork(repeats), without_images)


Extend = Callable[[list[list[int]], bool, bool], Float[Tensor, "B V"]]
"""extend(ids of each sample, opens, closes): read these tokens; return logits after the last of each."""


def write_text(
    extend: Extend,
    batch_size: int,
    eos: int,
    *,
    constraints: Sequence[Constraint | None],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[list[int]]:
    """Return the text that each sample writes, and leave it, closed by eos, in the context.

    Args:
        extend: Reads tokens; see :data:`Extend`.
        batch_size: Samples.
        eos: Id that ends a text.
        constraints: One per sample, or None.
        max_tokens: Longest text; a longer one is cut.
        temperature: 0 takes the most likely token, else the logits are divided by it and drawn from.
        generator: Source of the draws.
    """
    texts: list[list[int]] = [[] for _ in range(batch_size)]
    pending: list[list[int]] = [[] for _ in range(batch_size)]
    is_open = [True] * batch_size
    opens = True

    def write(sample: int, ids: Sequence[int]) -> None:
        room = max_tokens - len(texts[sample])
        ids = list(ids)
        ended = eos in ids[:room]
        ids = ids[: ids.index(eos)] if ended else ids[:room]
        texts[sample] += ids
        pending[sample] += ids
        is_open[sample] = not ended and len(texts[sample]) < max_tokens

    while True:
        for sample, constraint in enumerate(constraints):
            while constraint is not None and is_open[sample]:
                if not (run := constraint.forced(texts[sample])):
                    break
                write(sample, run)
        if not any(is_open):
            break
        logits = extend(pending, opens, False)
        opens, pending = False, [[] for _ in range(batch_size)]
        for sample, constraint in enumerate(constraints):
            if is_open[sample]:
                allowed = _allowed(constraint, texts[sample], logits[sample])
                write(sample, [_choose(logits[sample], allowed, temperature, generator)])
    extend(pending, opens, True)
    return texts


def _allowed(constraint: Constraint | None, prefix: list[int], logits: Float[Tensor, " V"]) -> list[int] | None:
    allowed = None if constraint is None else constraint.allowed(prefix)
    if constraint is None or allowed is None:
        return allowed
    scores: list[float] = logits[torch.tensor(allowed, device=logits.device)].float().tolist()
    return constraint.narrowed(prefix, allowed, scores)


def _choose(
    logits: Float[Tensor, " V"],
    allowed: list[int] | None,
    temperature: float,
    generator: torch.Generator | None,
) -> int:
    if allowed is not None:
        assert allowed, "a constraint must allow something"
        if len(allowed) == 1:
            return allowed[0]
        logits = logits[torch.tensor(allowed, device=logits.device)]
    if temperature <= 0:
        place = int(logits.argmax())
    else:
        probability = (logits.float().cpu() / temperature).softmax(-1)
        place = int(torch.multinomial(probability, 1, generator=generator))
    return place if allowed is None else allowed[place]
