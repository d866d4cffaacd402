import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.config import SpecialTokens
from medq_uni.stream import BlockKind, Expert, ImageBlock, Past, StreamError, TextBlock, TokenKind, TokenStream, pack

TOKENS = SpecialTokens(bos=90, eos=91, start_of_image=92, end_of_image=93)


def clean(rows: int = 1, cols: int = 2, **kwargs: object) -> ImageBlock:
    return ImageBlock(kind=BlockKind.CLEAN, rows=rows, cols=cols, **kwargs)


def vision(rows: int = 1, cols: int = 2) -> ImageBlock:
    return ImageBlock(kind=BlockKind.VISION, rows=rows, cols=cols)


def noised(rows: int = 1, cols: int = 2) -> ImageBlock:
    return ImageBlock(kind=BlockKind.NOISED, rows=rows, cols=cols)


def columns(stream: TokenStream, block: int) -> slice:
    return slice(stream.spans[block].start, stream.spans[block].stop)


def test_a_small_stream_written_out_by_hand() -> None:
    stream = pack([clean(), TextBlock(ids=[[7]], labels=True), noised()], TOKENS)
    assert stream.token_ids.tolist() == [[92, -1, -1, 93, 90, 7, 91, 92, -1, -1, 93]]
    assert stream.position.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4]]
    assert stream.kind.tolist() == [0, 2, 2, 0, 0, 0, 0, 0, 2, 2, 0]
    assert stream.expert.tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]
    assert stream.label_positions.tolist() == [4, 5]
    assert stream.labels.tolist() == [7, 91]
    image, text, target = [1] * 4, [1] * 3, [1] * 4
    expected = [
        *[image + [0] * 7] * 4,
        image + [1, 0, 0] + [0] * 4,
        image + [1, 1, 0] + [0] * 4,
        image + [1, 1, 1] + [0] * 4,
        *[image + text + target] * 4,
    ]
    assert stream.mask[0, 0].int().tolist() == expected


def test_nobody_but_itself_sees_a_noised_image_and_the_copy_after_it_takes_its_position() -> None:
    stream = pack([vision(), noised(), clean(), TextBlock(ids=[[1, 2]])], TOKENS)
    mask, target = stream.mask[0, 0], columns(stream, 1)
    assert mask[target, target].all()
    assert not mask[target.stop :, target].any()
    assert mask[columns(stream, 2), columns(stream, 0)].all()
    assert stream.position[0, target].tolist() == stream.position[0, columns(stream, 2)].tolist() == [1] * 4


def test_positions_of_a_sample_do_not_depend_on_its_batch_mates() -> None:
    long, short = [1, 2, 3, 4, 5], [6]
    together = pack([vision(), TextBlock(ids=[long, short]), clean(), noised()], TOKENS)
    alone = pack([vision(), TextBlock(ids=[short]), clean(), noised()], TOKENS)
    valid = together.valid[1]
    assert valid.sum() == alone.length
    assert torch.equal(together.position[1][valid], alone.position[0])
    assert torch.equal(together.token_ids[1][valid], alone.token_ids[0])
    assert torch.equal(together.mask[1, 0][valid][:, valid], alone.mask[0, 0])


def test_padding_is_seen_by_nobody_else_and_sees_only_itself() -> None:
    stream = pack([TextBlock(ids=[[1, 2, 3], [4]]), noised()], TOKENS)
    padding = ~stream.valid[1]
    assert padding.sum() == 2
    mask = stream.mask[1, 0]
    assert not mask[~padding][:, padding].any()
    assert torch.equal(mask[padding], torch.eye(stream.length, dtype=torch.bool)[padding])
    assert (stream.token_ids[1][padding] == -1).all()


def test_a_dropped_text_leaves_no_trace() -> None:
    blocks = [clean(), TextBlock(ids=[[1], [2]]), TextBlock(ids=[[3, 4], [5, 6]], labels=True), noised()]
    dropped = [*blocks[:2], TextBlock(ids=[[3, 4], [5, 6]], labels=True, dropped=[False, True]), noised()]
    stream, alone = pack(dropped, TOKENS), pack([clean(), TextBlock(ids=[[2]]), noised()], TOKENS)
    valid = stream.valid[1]
    assert torch.equal(stream.position[1][valid], alone.position[0])
    assert torch.equal(stream.mask[1, 0][valid][:, valid], alone.mask[0, 0])
    assert stream.labels.tolist() == [3, 4, 91]
    assert torch.equal(stream.position[0], pack(blocks, TOKENS).position[0])


def test_a_dropped_image_still_takes_its_position() -> None:
    stream = pack([clean(dropped=[False, True]), TextBlock(ids=[[1], [1]])], TOKENS)
    text = columns(stream, 1)
    assert torch.equal(stream.position[0, text], stream.position[1, text])
    assert not stream.mask[1, 0][text, columns(stream, 0)].any()


def test_blocks_that_disagree_in_samples_are_refused() -> None:
    with pytest.raises(StreamError, match="same number of samples"):
        pack([TextBlock(ids=[[1], [2]]), TextBlock(ids=[[1]])], TOKENS)
    with pytest.raises(StreamError, match="same number of samples"):
        pack([clean()], TOKENS)
    with pytest.raises(StreamError, match="at least 1 x 1"):
        pack([clean(rows=0)], TOKENS, batch_size=1)


def test_a_text_that_continues_the_past_has_no_new_frame() -> None:
    first = pack([TextBlock(ids=[[1], [2, 3]], closes=False)], TOKENS)
    second = pack([TextBlock(ids=[[4], [5]], opens=False)], TOKENS, past=first.after)
    whole = pack([TextBlock(ids=[[1, 4], [2, 3, 5]])], TOKENS)
    assert second.token_ids.tolist() == [[4, 91], [5, 91]]
    for sample, length in enumerate((4, 5)):
        assert second.position[sample].tolist() == whole.position[sample, length - 2 : length].tolist()
    assert second.mask[0, 0].int().tolist() == [[1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]


def test_a_stream_with_a_noised_image_has_nothing_for_a_cache() -> None:
    assert pack([noised()], TOKENS, batch_size=1).after is None


blocks = st.lists(
    st.one_of(
        st.builds(
            ImageBlock,
            kind=st.sampled_from([BlockKind.VISION, BlockKind.CLEAN]),
            rows=st.integers(1, 3),
            cols=st.integers(1, 3),
        ),
        st.builds(
            TextBlock,
            ids=st.lists(st.lists(st.integers(0, 80), max_size=4), min_size=2, max_size=2),
            labels=st.booleans(),
            dropped=st.sampled_from([(), (False, True), (True, True)]),
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(blocks)
@settings(deadline=None, max_examples=60)
def test_block_by_block_is_the_same_as_all_at_once(blocks: list) -> None:
    whole, past = pack(blocks, TOKENS, batch_size=2), Past.empty(2)
    start, cached = 0, []
    for block, span in zip(blocks, whole.spans, strict=True):
        part = pack([block], TOKENS, past=past)
        stop = start + part.length
        assert (start, stop) == (span.start, span.stop)
        assert torch.equal(part.valid, whole.valid[:, start:stop])
        assert torch.equal(part.position, whole.position[:, start:stop])
        mask = whole.mask.expand(2, -1, -1, -1)[..., start:stop, :stop]
        ours = part.mask.expand(2, -1, -1, -1)
        # the cache holds each block in sorted order, the whole stream does not
        order = torch.cat([*cached, torch.arange(start, stop)])
        rows = whole.valid[:, None, start:stop, None]
        assert torch.equal(ours & rows, mask[..., order] & rows)
        cached.append(part.order + start)
        past, start = part.after, stop
    assert torch.equal(past.next_position, whole.after.next_position)


@given(blocks)
@settings(deadline=None, max_examples=60)
def test_splitting_by_expert_and_merging_gives_the_stream_back(blocks: list) -> None:
    stream = pack(blocks, TOKENS, batch_size=2)
    x = torch.arange(2 * stream.length).reshape(2, -1)
    iqa, ir = stream.split(x)
    assert torch.equal(stream.merge(iqa, ir), x)
    assert (stream.expert[stream.ir_columns] == Expert.IR).all()
    assert torch.equal(stream.kind == TokenKind.LATENT, stream.expert == Expert.IR)
    flat = iqa.flatten()[stream.label_iqa_positions]
    assert torch.equal(flat, x.flatten()[stream.label_positions])
    assert stream.sorted_mask is None or bool(stream.sorted_mask.any(-1).all())


@given(blocks)
@settings(deadline=None, max_examples=40)
def test_labels_are_the_next_tokens_of_their_sample(blocks: list) -> None:
    stream = pack(blocks, TOKENS, batch_size=2)
    flat = stream.token_ids.flatten()
    assert torch.equal(flat[stream.label_positions + 1], stream.labels)
    expected = sum(
        len(ids) + 1
        for b in blocks
        if isinstance(b, TextBlock) and b.labels
        for i, ids in enumerate(b.ids)
        if not (b.dropped and b.dropped[i])
    )
    assert len(stream.labels) == expected
