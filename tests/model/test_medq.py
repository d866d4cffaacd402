from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from medq_uni.config import ModelConfig, SamplerConfig
from medq_uni.model.generation import Context, GuidanceContexts
from medq_uni.model.grid import SizeError
from medq_uni.model.medq import MedQ, StreamInputs, StreamOutputs
from medq_uni.stream import Block, BlockKind, ImageBlock, TextBlock, pack

INSTRUCTION, DESCRIPTION = [[1, 2, 3], [4], [5, 6]], [[7], [8, 9, 10, 11], [12, 13]]


def image_block(kind: BlockKind, side: int = 2, **kwargs: object) -> ImageBlock:
    return ImageBlock(kind=kind, rows=side, cols=side, **kwargs)


class Batch:
    """Three samples with texts of different lengths."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.image = torch.randn(3, 1, 8, 8, generator=g)
        self.latent = torch.randn(3, 3, 4, 4, generator=g)
        self.x_t = torch.randn(3, 3, 4, 4, generator=g)
        self.t = torch.tensor([0.2, 0.6, 1.0])
        self.offset = torch.tensor([[0, 0], [1, 2], [3, 0]])
        self.dropped: tuple[bool, ...] = ()

    def blocks(self, rows: slice) -> list[Block]:
        return [
            image_block(BlockKind.CLEAN),
            image_block(BlockKind.VISION),
            TextBlock(ids=INSTRUCTION[rows]),
            TextBlock(ids=DESCRIPTION[rows], labels=True, dropped=self.dropped[rows]),
            image_block(BlockKind.NOISED),
        ]

    def run(self, model: MedQ, rows: slice = slice(None)) -> StreamOutputs:
        inputs = StreamInputs(
            clean=(self.latent[rows],),
            images=(self.image[rows],),
            noised=(self.x_t[rows],),
            t=self.t[rows],
            latent_offset=self.offset[rows],
        )
        with torch.no_grad():
            return model(pack(self.blocks(rows), model.config.tokens), inputs)

    def context(self, model: MedQ, rows: slice = slice(None)) -> Context:
        context = model.start(len(self.t[rows]), capacity=4, latent_offset=self.offset[rows])
        model.append_latent(context, self.latent[rows])
        model.append_vision(context, self.image[rows])
        model.append_text(context, INSTRUCTION[rows])
        return context


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_a_fresh_model_predicts_no_velocity_and_has_equal_experts(
    tiny_config: Callable[..., ModelConfig],
) -> None:
    model = MedQ(tiny_config())
    assert Batch().run(model).velocity.abs().max() == 0
    state = model.state_dict()
    pairs = [(k, k.replace(".iqa.", ".ir.")) for k in state if ".iqa." in k]
    assert len(pairs) > 20
    assert all(torch.equal(state[a], state[b]) for a, b in pairs)


def test_reading_block_by_block_equals_reading_the_whole_stream_for_a_batch(model: MedQ) -> None:
    batch = Batch()
    whole = batch.run(model).velocity
    context = batch.context(model)
    model.append_text(context, DESCRIPTION)
    length = context.past.length
    cached = model.velocity(context, batch.x_t, batch.t)
    close(model.latent_tokens(cached), whole)
    assert whole.std() > 0.05
    # only read: a second time gives the same
    close(model.velocity(context, batch.x_t, batch.t), cached)
    assert context.past.length == context.cache.length == length


def test_results_of_a_sample_do_not_depend_on_its_batch_mates(model: MedQ) -> None:
    batch = Batch()
    together = batch.run(model)
    lengths = [len(ids) + 1 for ids in DESCRIPTION]
    logits = together.logits.split(lengths)
    for i in range(3):
        alone = batch.run(model, slice(i, i + 1))
        close(together.velocity[i : i + 1], alone.velocity)
        close(logits[i], alone.logits)


def test_a_dropped_description_is_as_if_it_had_never_been(model: MedQ) -> None:
    batch = Batch()
    batch.dropped = (False, True, False)
    velocity = batch.run(model).velocity
    context = batch.context(model)
    without = model.velocity(context, batch.x_t, batch.t)
    model.append_text(context, DESCRIPTION)
    with_text = model.velocity(context, batch.x_t, batch.t)
    close(velocity[1], model.latent_tokens(without)[1])
    close(velocity[[0, 2]], model.latent_tokens(with_text)[[0, 2]])
    assert (with_text[1] - without[1]).abs().max() > 1e-3


def test_a_noised_image_is_invisible_to_every_later_block(model: MedQ) -> None:
    batch, changed = Batch(), Batch()
    changed.x_t = batch.x_t + 10
    outputs = []
    for b in (batch, changed):
        blocks = [image_block(BlockKind.NOISED), TextBlock(ids=DESCRIPTION, labels=True)]
        stream = pack([*blocks, image_block(BlockKind.NOISED)], model.config.tokens)
        with torch.no_grad():
            outputs.append(model(stream, StreamInputs(noised=(b.x_t, batch.x_t), t=batch.t)))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    first, second = (o.velocity.split(4, dim=1) for o in outputs)
    assert torch.equal(first[1], second[1])
    assert not torch.allclose(first[0], second[0])


def test_the_restoration_reads_the_description(model: MedQ) -> None:
    batch = Batch()
    context, other = batch.context(model), batch.context(model)
    model.append_text(context, DESCRIPTION)
    model.append_text(other, [[i + 1 for i in ids] for ids in DESCRIPTION])
    a, b = (model.velocity(c, batch.x_t, batch.t) for c in (context, other))
    assert (a - b).abs().amax((1, 2, 3)).min() > 1e-3


def test_images_of_another_size_than_the_stream_says_are_refused(model: MedQ) -> None:
    stream = pack([image_block(BlockKind.CLEAN)], model.config.tokens, batch_size=1)
    with pytest.raises(SizeError, match="got an image of"):
        model.hidden(stream, StreamInputs(clean=(torch.zeros(1, 3, 4, 6),)))
    with pytest.raises(SizeError, match="more clean blocks"):
        model.hidden(stream, StreamInputs())


def test_an_offset_moves_a_crop_to_its_place_in_the_whole(model: MedQ) -> None:
    latent = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.zeros(1)
    whole = model.embed_latent(latent, t).unflatten(1, (4, 4))
    crop = model.embed_latent(latent[:, :, 2:6, 4:], t, (1, 2)).unflatten(1, (2, 2))
    close(crop, whole[:, 1:3, 2:])
    with pytest.raises(SizeError, match="outside the position table"):
        model.embed_latent(latent, t, (5, 0))


@given(rows=st.integers(1, 4), cols=st.integers(1, 4), text=st.integers(0, 5), batch=st.integers(1, 3))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cached_equals_uncached_at_every_size(model: MedQ, rows: int, cols: int, text: int, batch: int) -> None:
    g = torch.Generator().manual_seed(rows * 100 + cols * 10 + text)
    latent, x_t = torch.randn(2, batch, 3, 2 * rows, 2 * cols, generator=g)
    image = torch.randn(batch, 1, 4 * cols, 4 * rows, generator=g)
    ids = [list(range(min(i, text))) for i in range(text, text + batch)]
    blocks = [
        ImageBlock(kind=BlockKind.VISION, rows=cols, cols=rows),
        TextBlock(ids=ids),
        ImageBlock(kind=BlockKind.CLEAN, rows=rows, cols=cols),
        ImageBlock(kind=BlockKind.NOISED, rows=rows, cols=cols),
    ]
    inputs = StreamInputs(clean=(latent,), images=(image,), noised=(x_t,), t=torch.full((batch,), 0.4))
    with torch.no_grad():
        whole = model(pack(blocks, model.config.tokens), inputs)
    context = model.start(batch)
    model.append_vision(context, image)
    model.append_text(context, ids)
    model.append_latent(context, latent)
    close(model.latent_tokens(model.velocity(context, x_t, 0.4)), whole.velocity)
    assert whole.logits.shape == (0, model.config.transformer.vocab_size)


def test_one_bridge_step_is_the_posterior_mean_formula(model: MedQ) -> None:
    batch = Batch()
    context = batch.context(model)
    restored = model.sample(context, (4, 4), SamplerConfig(), start_latent=batch.latent).latent
    assert restored.shape == (1, 3, 3, 4, 4)
    close(restored[0], batch.latent - model.velocity(context, batch.latent, 1.0))


@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_states_of_a_restoration_are_those_of_its_last_pass(model: MedQ, num_steps: int) -> None:
    batch = Batch()
    context = batch.context(model)
    sampler = SamplerConfig(num_steps=num_steps)
    found = model.sample(context, (4, 4), sampler, start_latent=batch.latent)
    # the head turns them into the last velocity: the last step goes from t = 1 / num_steps to 0
    before = model.sample(context, (4, 4), SamplerConfig(num_steps=1), start_latent=batch.latent)
    assert torch.equal(found.hidden_states, before.hidden_states) == (num_steps == 1)
    if num_steps == 1:
        states = found.hidden_states[0].flatten(2).transpose(1, 2)
        velocity = model.latent_image(model._head(states, (batch.latent,)), 4, 4)
        close(found.latent[0], batch.latent - velocity)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_sampler_evaluates_the_network_once_per_step(
    model: MedQ, monkeypatch: pytest.MonkeyPatch, num_steps: int
) -> None:
    batch, calls = Batch(), []
    context = batch.context(model)
    forward = model.transformer.forward
    monkeypatch.setattr(model.transformer, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    model.sample(context, (4, 4), SamplerConfig(num_steps=num_steps), start_latent=batch.latent)
    assert len(calls) == num_steps


def test_guidance_runs_only_inside_its_interval(model: MedQ, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, calls = Batch(), []
    context = batch.context(model)
    sampler = SamplerConfig(
        num_steps=4, text_guidance=3.0, image_guidance=2.0, guidance_interval=(0.4, 0.8), start="noise"
    )
    away = model.guidance_contexts(context, sampler)
    forward = model.transformer.forward
    monkeypatch.setattr(model.transformer, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    model.sample(context, (4, 4), sampler, generator=torch.Generator().manual_seed(0), guidance=away)
    assert len(calls) == 4 + 2 * 2  # t = 1, 0.75*, 0.5*, 0.25


def test_samples_from_noise_do_not_depend_on_how_they_are_batched(model: MedQ) -> None:
    batch, sampler = Batch(), SamplerConfig(start="noise", num_steps=2, num_samples=2)

    def sample(rows: slice) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)][rows]
        return model.sample(batch.context(model, rows), (4, 4), sampler, generator=generators).latent

    together = sample(slice(None))
    assert together.shape == (2, 3, 3, 4, 4)
    assert not torch.allclose(together[0], together[1])
    for i in range(3):
        close(together[:, i : i + 1], sample(slice(i, i + 1)))


def test_own_guidance_contexts_are_repeated_for_every_sample(model: MedQ) -> None:
    batch = Batch()
    context = batch.context(model)
    sampler = SamplerConfig(start="noise", num_samples=2, text_guidance=2.0)
    own = GuidanceContexts(context.without_text())
    a, b = (
        model.sample(context, (4, 4), sampler, generator=torch.Generator().manual_seed(0), guidance=g).latent
        for g in (None, own)
    )
    close(a, b)


def test_what_sampling_needs_is_asked_for(model: MedQ) -> None:
    context = model.start(1)
    model.append_latent(context, Batch().latent[:1])
    with pytest.raises(ValueError, match="needs start_latent"):
        model.sample(context, (4, 4), SamplerConfig())
    with pytest.raises(ValueError, match="needs a context with text"):
        model.sample(context, (4, 4), SamplerConfig(start="noise", text_guidance=2.0))
    with pytest.warns(UserWarning, match="no effect"):
        model.sample(context, (4, 4), SamplerConfig(image_guidance=2.0), start_latent=Batch().latent[:1])


def test_low_precision_stays_near_full_precision(model: MedQ) -> None:
    batch = Batch()
    full = batch.run(model).velocity
    with torch.autocast("cpu", torch.bfloat16):
        low = batch.run(model).velocity
        context = batch.context(model)
        model.append_text(context, DESCRIPTION)
        cached = model.latent_tokens(model.velocity(context, batch.x_t, batch.t))
    assert context.cache.keys[0].dtype is torch.bfloat16
    for x in (low.float(), cached):
        assert (x - full).abs().mean() < 0.03 * full.abs().mean()


def test_gradients_reach_both_experts_in_low_precision_too(model: MedQ) -> None:
    batch = Batch()
    stream = pack(batch.blocks(slice(None)), model.config.tokens)
    inputs = StreamInputs(clean=(batch.latent,), images=(batch.image,), noised=(batch.x_t,), t=batch.t)
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(stream, inputs)
            (out.velocity.float().square().mean() + out.logits.float().square().mean()).backward()
        unused = ("codec.",)
        for name, parameter in model.named_parameters():
            if not name.startswith(unused):
                assert parameter.grad is not None
                assert torch.isfinite(parameter.grad).all(), name
    model.zero_grad()


def test_shrinkage_starts_at_nothing_and_then_passes_a_share_of_every_coefficient(
    tiny_config: Callable[..., ModelConfig],
) -> None:
    torch.manual_seed(0)
    model, batch = MedQ(replace(tiny_config(), shrinkage=True)).eval(), Batch()
    assert not batch.run(model).velocity.any()
    head = model.shrinkage
    assert head is not None
    with torch.no_grad():
        head.bias.fill_(0.25)
    close(batch.run(model).velocity, 0.25 * model.latent_tokens(batch.x_t))
    with torch.no_grad():
        head.weight.normal_(0, 0.1)
    context = batch.context(model)
    model.append_text(context, DESCRIPTION)
    close(model.latent_tokens(model.velocity(context, batch.x_t, batch.t)), batch.run(model).velocity)
