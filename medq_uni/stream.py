"""The token stream: which tokens there are, whose they are, where they stand and what they see.

A stream is a batch of samples with the same list of blocks. Texts of a block may differ in length:
a block is as wide as its longest text, and the rest is padding that nobody sees. So every column of
the stream has one token kind and one expert, for all samples, and routing is two index arrays.

    block            tokens                                  inside   RoPE ids
    text             bos, ids, eos                           causal   r, r + 1, ...; then r += length
    vision image     start_of_image, patches, end_of_image   full     all r;         then r += 1
    clean image      start_of_image, latents, end_of_image   full     all r;         then r += 1
    noised image     start_of_image, latents, end_of_image   full     all r;         r stays

Every block sees all earlier blocks, except noised images, which nobody but themselves sees.
Latents belong to the restoration expert (ir), everything else to the assessment expert (iqa).
Dropping a text from a sample (condition dropout) takes its RoPE ids away, dropping an image does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from medq_uni.config import SpecialTokens
from medq_uni.errors import MedQError


class StreamError(MedQError):
    """Blocks that cannot be put into one stream."""


class Expert(IntEnum):
    """Who processes a token."""

    IQA = 0
    IR = 1


class TokenKind(IntEnum):
    """What a token is."""

    TEXT = 0
    VISION = 1
    LATENT = 2


class BlockKind(Enum):
    """What a block is; see the table of the module."""

    TEXT = "text"
    VISION = "vision"
    CLEAN = "clean"
    NOISED = "noised"


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """One text per sample, framed by bos and eos."""

    ids: Sequence[Sequence[int]]
    """Token ids of each sample, without bos and eos; lengths may differ."""
    labels: bool = False
    """Whether the outputs of this block are trained to predict the next token, eos included."""
    opens: bool = True
    """Whether bos comes first; false continues a text that is in the cache."""
    closes: bool = True
    """Whether eos comes last."""
    dropped: Sequence[bool] = ()
    """Samples that do not have this block; empty is none."""


@dataclass(frozen=True, kw_only=True)
class ImageBlock:
    """One image per sample, of one size."""

    kind: BlockKind
    """VISION, CLEAN or NOISED."""
    rows: int
    """Height in tokens."""
    cols: int
    """Width in tokens."""
    dropped: Sequence[bool] = ()
    """Samples that do not have this block; empty is none."""


Block = TextBlock | ImageBlock


@dataclass(frozen=True)
class Span:
    """The columns of one block."""

    kind: BlockKind
    start: int
    stop: int
    rows: int = 0
    cols: int = 0


@dataclass(frozen=True, eq=False)
class Past:
    """What a cache holds already, seen from the next block; always on the CPU."""

    visible: Bool[Tensor, "B L_past"]
    """Cached tokens that are no padding."""
    next_position: Int[Tensor, " B"]
    """RoPE id at which the next block begins."""

    @property
    def length(self) -> int:
        """Cached tokens per sample, padding included."""
        return self.visible.shape[1]

    @property
    def batch_size(self) -> int:
        """Samples."""
        return self.visible.shape[0]

    @classmethod
    def empty(cls, batch_size: int) -> Past:
        """Return the past of a sequence that has not begun."""
        return cls(torch.zeros(batch_size, 0, dtype=torch.bool), torch.zeros(batch_size, dtype=torch.long))

    def select(self, rows: Int[Tensor, " N"]) -> Past:
        """Return the past of the samples ``rows``, which may repeat."""
        return Past(self.visible[rows], self.next_position[rows])


@dataclass(frozen=True, eq=False)
class TokenStream:
    """A batch of packed sequences; make one with :func:`pack`.

    ``iqa`` and ``ir`` parts of a tensor are its columns ``iqa_columns`` and ``ir_columns``; sorted
    order is the first followed by the second, which is the order in which attention runs.
    """

    spans: tuple[Span, ...]
    """Columns of each block."""
    token_ids: Int[Tensor, "B L"]
    """Text and special token ids; -1 where there is no text or only padding."""
    position: Int[Tensor, "B L"]
    """RoPE ids."""
    valid: Bool[Tensor, "B L"]
    """False for padding and dropped blocks."""
    kind: UInt8[Tensor, " L"]
    """TokenKind of each column."""
    label_positions: Int[Tensor, " N"]
    """Flat positions (sample * L + column) whose output predicts ``labels``."""
    labels: Int[Tensor, " N"]
    """Token ids to predict."""
    past: Past
    """What the cache holds before this stream; empty without a cache."""
    after: Past | None
    """What the cache holds after this stream; None if it has noised images, which never enter a cache."""
    iqa_columns: Int[Tensor, " L_iqa"]
    """Columns of the assessment expert."""
    ir_columns: Int[Tensor, " L_ir"]
    """Columns of the restoration expert."""
    sorted_mask: Bool[Tensor, "#B 1 L L_all"] | None
    """Mask over (past, then sorted columns); None when every token sees every token. B may be 1."""

    @property
    def batch_size(self) -> int:
        """Samples."""
        return self.token_ids.shape[0]

    @property
    def length(self) -> int:
        """Columns."""
        return self.token_ids.shape[1]

    @property
    def num_iqa(self) -> int:
        """Columns of the assessment expert."""
        return self.iqa_columns.shape[0]

    @cached_property
    def expert(self) -> UInt8[Tensor, " L"]:
        """Expert of each column."""
        return (self.kind == TokenKind.LATENT).to(torch.uint8)

    @cached_property
    def order(self) -> Int[Tensor, " L"]:
        """Sorted order: column of the stream at each sorted place."""
        return torch.cat([self.iqa_columns, self.ir_columns])

    @cached_property
    def sorted_position(self) -> Int[Tensor, "B L"]:
        """RoPE ids in sorted order."""
        return self.position[:, self.order]

    @property
    def has_vision(self) -> bool:
        """Whether there is a vision image."""
        return any(span.kind is BlockKind.VISION for span in self.spans)

    @cached_property
    def text_ids(self) -> Int[Tensor, "B L_text"]:
        """Ids of the text columns; padding holds 0, which nobody sees."""
        text = (self.kind == TokenKind.TEXT).nonzero()[:, 0] if self.has_vision else self.iqa_columns
        return self.token_ids[:, text].clamp_min(0)

    @cached_property
    def iqa_assembly(self) -> Int[Tensor, " L_iqa"] | None:
        """Where each iqa column lies in (all text columns, all vision columns); None if in place."""
        if not self.has_vision:
            return None
        return torch.argsort(torch.argsort(self.kind[self.iqa_columns], stable=True))

    @cached_property
    def label_iqa_positions(self) -> Int[Tensor, " N"]:
        """``label_positions`` as flat positions (sample * L_iqa + place) in the iqa part."""
        rank = torch.zeros(self.length, dtype=torch.long, device=self.kind.device)
        rank[self.iqa_columns] = torch.arange(self.num_iqa, device=self.kind.device)
        sample = self.label_positions // max(self.length, 1)
        return sample * self.num_iqa + rank[self.label_positions % max(self.length, 1)]

    @cached_property
    def target_places(self) -> Int[Tensor, " L_target"]:
        """Places in the ir part of the latents of noised blocks."""
        latents = [s for s in self.spans if s.kind in (BlockKind.CLEAN, BlockKind.NOISED)]
        is_target = [s.kind is BlockKind.NOISED for s in latents for _ in range(s.rows * s.cols)]
        return torch.tensor(is_target, dtype=torch.bool).nonzero()[:, 0].to(self.kind.device)

    @property
    def mask(self) -> Bool[Tensor, "#B 1 L L_all"]:
        """True where the row (query) may attend the column (key), in stream order after the past."""
        return _mask(self.spans, self.valid.cpu(), self.past, torch.arange(self.length), torch.device("cpu"))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the iqa and ir parts of ``x`` (B, L, ...)."""
        return x[:, self.iqa_columns], x[:, self.ir_columns]

    def merge(self, iqa: Tensor, ir: Tensor) -> Tensor:
        """Return (B, L, ...) in stream order; the inverse of :meth:`split`."""
        return torch.cat([iqa, ir], dim=1)[:, torch.argsort(self.order)]

    def last_valid_iqa(self) -> Int[Tensor, " B"]:
        """Place in the iqa part of the last token of each sample that is no padding, else 0."""
        valid = self.valid[:, self.iqa_columns]
        place = torch.arange(1, self.num_iqa + 1, device=valid.device)
        return ((valid * place).amax(1) - 1).clamp_min(0)

    def to(self, device: torch.device | str) -> TokenStream:
        """Return the stream with its tensors on ``device``; the pasts stay on the CPU."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)


def pack(
    blocks: Sequence[Block],
    tokens: SpecialTokens,
    *,
    batch_size: int | None = None,
    past: Past | None = None,
    device: torch.device | str = "cpu",
) -> TokenStream:
    """Return the stream of ``blocks``, in the order in which they are given.

    Args:
        blocks: Text and image blocks.
        tokens: Ids of the framing tokens.
        batch_size: Samples; needed only where neither a text nor ``past`` says it.
        past: What a cache holds already; positions continue there and all of it is seen.
        device: Where the stream is wanted. The mask is made there: it has the most numbers by far.

    Raises:
        StreamError: If blocks disagree in the number of samples, or an image is empty.
    """
    size = _batch_size(blocks, batch_size, past)
    past = Past.empty(size) if past is None else past
    builder = _Builder(size, past.next_position, tokens)
    for block in blocks:
        builder.add_text(block) if isinstance(block, TextBlock) else builder.add_image(block)
    return builder.finish(past, torch.device(device)).to(device)


def _batch_size(blocks: Sequence[Block], batch_size: int | None, past: Past | None) -> int:
    sizes = {len(b.ids) for b in blocks if isinstance(b, TextBlock)} | {len(b.dropped) for b in blocks if b.dropped}
    sizes |= {n for n in (batch_size, past.batch_size if past else None) if n is not None}
    if len(sizes) != 1:
        raise StreamError(
            f"every block needs the same number of samples, got {sorted(sizes) or 'none'}. "
            "Give one text per sample in each text block, or batch_size."
        )
    return sizes.pop()


class _Builder:
    """Collects the columns of one block after another."""

    def __init__(self, batch_size: int, start: Tensor, tokens: SpecialTokens) -> None:
        self.batch_size = batch_size
        self.tokens = tokens
        self.next_position = start.clone()
        self.length = 0
        self.spans: list[Span] = []
        self.ids: list[Tensor] = []
        self.position: list[Tensor] = []
        self.valid: list[Tensor] = []
        self.kind: list[Tensor] = []
        self.label_sites: list[tuple[int, int, int]] = []  # sample, column, id

    def add_text(self, block: TextBlock) -> None:
        """Append a text block, as wide as its longest text."""
        dropped = block.dropped or [False] * self.batch_size
        head, tail = [self.tokens.bos] * block.opens, [self.tokens.eos] * block.closes
        rows = [[] if drop else [*head, *ids, *tail] for ids, drop in zip(block.ids, dropped, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        place = torch.arange(width)
        if block.labels:
            for sample, row in enumerate(rows):
                self.label_sites += [(sample, self.length + i, row[i + 1]) for i in range(len(row) - 1)]
        ids = torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.long)
        position = self.next_position[:, None] + place
        kind = torch.full((width,), TokenKind.TEXT, dtype=torch.uint8)
        self._append(Span(BlockKind.TEXT, self.length, self.length + width), ids, position, kind)
        self.valid.append(place < lengths[:, None])
        self.next_position = self.next_position + lengths

    def add_image(self, block: ImageBlock) -> None:
        """Append an image between its two framing tokens."""
        if block.kind is BlockKind.TEXT or block.rows < 1 or block.cols < 1:
            raise StreamError(
                f"an image block needs kind VISION, CLEAN or NOISED and at least 1 x 1 tokens, "
                f"got {block.kind.name} of {block.rows} x {block.cols}."
            )
        width = block.rows * block.cols + 2
        ids = torch.full((self.batch_size, width), -1)
        ids[:, 0], ids[:, -1] = self.tokens.start_of_image, self.tokens.end_of_image
        kind = torch.full((width,), TokenKind.VISION if block.kind is BlockKind.VISION else TokenKind.LATENT)
        kind[0] = kind[-1] = TokenKind.TEXT
        dropped = torch.tensor(block.dropped or [False] * self.batch_size)
        span = Span(block.kind, self.length, self.length + width, block.rows, block.cols)
        ids = ids.masked_fill(dropped[:, None], -1)
        self._append(span, ids, self.next_position[:, None].expand(-1, width), kind.to(torch.uint8))
        self.valid.append(~dropped[:, None].expand(-1, width))
        if block.kind is not BlockKind.NOISED:
            self.next_position = self.next_position + 1

    def _append(self, span: Span, ids: Tensor, position: Tensor, kind: Tensor) -> None:
        self.spans.append(span)
        self.ids.append(ids)
        self.position.append(position)
        self.kind.append(kind)
        self.length = span.stop

    def finish(self, past: Past, device: torch.device) -> TokenStream:
        """Return the stream of everything added."""
        kind, valid = torch.cat(self.kind), torch.cat(self.valid, dim=1)
        is_latent = kind == TokenKind.LATENT
        iqa, ir = (~is_latent).nonzero()[:, 0], is_latent.nonzero()[:, 0]
        sites = torch.tensor(self.label_sites, dtype=torch.long).reshape(-1, 3)
        order = torch.cat([iqa, ir])
        is_open = len(self.spans) == 1 and (self.length == 1 or self.spans[0].kind is not BlockKind.TEXT)
        sees_all = is_open and bool(valid.all()) and bool(past.visible.all())
        after = Past(torch.cat([past.visible, valid[:, order]], dim=1), self.next_position)
        return TokenStream(
            spans=tuple(self.spans),
            token_ids=torch.cat(self.ids, dim=1),
            position=torch.cat(self.position, dim=1),
            valid=valid,
            kind=kind,
            label_positions=sites[:, 0] * self.length + sites[:, 1],
            labels=sites[:, 2],
            past=past,
            after=None if BlockKind.NOISED in {span.kind for span in self.spans} else after,
            iqa_columns=iqa,
            ir_columns=ir,
            sorted_mask=None if sees_all else _mask(tuple(self.spans), valid, past, order, device),
        )


def _mask(spans: tuple[Span, ...], valid: Tensor, past: Past, columns: Tensor, device: torch.device) -> Tensor:
    """Return (B or 1, 1, L, L_past + L) on ``device``, for queries and keys at ``columns``."""
    is_padded = not (bool(valid.all()) and bool(past.visible.all()))
    block = torch.cat([torch.full((s.stop - s.start,), i) for i, s in enumerate(spans)])[columns]
    kinds = [[s.kind is kind for s in spans] for kind in (BlockKind.TEXT, BlockKind.NOISED)]
    is_causal, is_noised = torch.tensor(kinds)[:, block].to(device)
    valid, block, columns = (x.to(device) for x in (valid[:, columns], block, columns))
    earlier = (block[None, :] < block[:, None]) & ~is_noised[None, :]
    within = (block[None, :] == block[:, None]) & (~is_causal[:, None] | (columns[None, :] <= columns[:, None]))
    own = (earlier | within)[None]
    if not is_padded:
        return torch.cat([own.new_ones(1, len(columns), past.length), own], dim=-1)[:, None]
    # Padding sees only itself: a row without a single key would be a softmax over nothing.
    own = (own & valid[:, None, :] & valid[:, :, None]) | torch.eye(len(columns), dtype=torch.bool, device=device)
    seen = past.visible.to(device)[:, None, :] & valid[:, :, None]
    return torch.cat([seen, own], dim=-1)[:, None]
