from collections.abc import Callable

import pytest
import torch

from medq_uni.model.generation import write_text
from medq_uni.model.medq import MedQ
from medq_uni.stream import Past

TEXTS = [[1, 2, 3], [4]]


class Script:
    """Forces the ids of a script and leaves a choice where it has a list."""

    def __init__(self, *script: int | list[int]) -> None:
        self.script = script

    def allowed(self, prefix: list[int]) -> list[int] | None:
        here = self.script[len(prefix)]
        return here if isinstance(here, list) else [here]

    def narrowed(self, prefix: list[int], allowed: list[int], logits: list[float]) -> list[int]:
        return allowed

    def forced(self, prefix: list[int]) -> list[int]:
        run: list[int] = []
        for item in self.script[len(prefix) :]:
            if isinstance(item, list):
                break
            run.append(item)
        return run


def context_of(model: MedQ, rows: slice = slice(None)) -> object:
    context = model.start(len(TEXTS[rows]))
    model.append_text(context, TEXTS[rows])
    return context


def state_of(model: MedQ, context: object) -> torch.Tensor:
    x_t = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return model.velocity(context, x_t.expand(context.batch_size, -1, -1, -1), 0.5)


def test_greedy_text_is_what_reading_token_by_token_predicts(model: MedQ) -> None:
    written = model.generate(context_of(model, slice(1)), max_tokens=5)[0]
    expected: list[int] = []
    for _ in range(5):
        context = context_of(model, slice(1))
        token = int(model.extend_text(context, [expected], closes=False).argmax())
        if token == model.config.tokens.eos:
            break
        expected.append(token)
    assert written == expected
    assert len(written) > 0


def test_texts_of_a_batch_do_not_depend_on_their_batch_mates(model: MedQ) -> None:
    together = model.generate(context_of(model), max_tokens=6)
    alone = [model.generate(context_of(model, slice(i, i + 1)), max_tokens=6)[0] for i in range(2)]
    assert together == alone


def test_the_context_after_writing_is_the_context_after_reading(model: MedQ) -> None:
    eos = model.config.tokens.eos
    constraints = [Script(7, 8, [9, 10], 11, 12, eos), Script([5, 6], eos)]
    context = context_of(model)
    texts = model.generate(context, constraint=constraints)
    assert [len(text) for text in texts] == [5, 1]
    assert texts[0][:2] == [7, 8]
    assert texts[0][2] in (9, 10)
    other = context_of(model)
    model.append_text(other, texts)
    torch.testing.assert_close(state_of(model, context), state_of(model, other), atol=2e-5, rtol=2e-5)
    assert torch.equal(context.past.next_position, other.past.next_position)


def test_a_forced_run_costs_one_pass_and_a_choice_one_more(model: MedQ, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    context = context_of(model, slice(1))
    forward = model.transformer.forward
    monkeypatch.setattr(model.transformer, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    script = Script(1, 2, 3, 4, [5, 6], 7, 8, 9, model.config.tokens.eos)
    text = model.generate(context, constraint=script)[0]
    assert len(text) == 8
    assert len(calls) == 2


def test_a_text_is_cut_at_its_longest_length_even_inside_a_forced_run(model: MedQ) -> None:
    context = context_of(model, slice(1))
    assert model.generate(context, constraint=Script(*range(20)), max_tokens=6) == [[0, 1, 2, 3, 4, 5]]
    assert context.past.length == 5 + 8


def test_drawing_replays_with_the_generator_and_follows_the_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.6, 0.3])

    def extend(ids: list[list[int]], opens: bool, closes: bool) -> torch.Tensor:
        return probabilities.log().expand(len(ids), -1)

    def draw(temperature: float, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return write_text(
            extend, 1, 99, constraints=[None], max_tokens=2000, temperature=temperature, generator=generator
        )[0]

    assert draw(1.0, 0) == draw(1.0, 0) != draw(1.0, 1)
    frequency = torch.bincount(torch.tensor(draw(1.0, 0)), minlength=3) / 2000
    torch.testing.assert_close(frequency, probabilities, atol=0.04, rtol=0)
    assert set(draw(0.0, 0)) == {1}
    assert draw(0.2, 0).count(1) > 1800


def test_a_fork_is_independent_and_repeats_samples_in_a_row(model: MedQ) -> None:
    context = context_of(model)
    before = state_of(model, context)
    fork = context.fork(2)
    assert fork.batch_size == 4
    torch.testing.assert_close(state_of(model, fork), before.repeat_interleave(2, 0), atol=2e-5, rtol=2e-5)
    model.append_text(fork, [[9]] * 4)
    torch.testing.assert_close(state_of(model, context), before)


def test_without_text_is_the_context_before_its_first_text(model: MedQ) -> None:
    latent = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    context = model.start(2)
    model.append_latent(context, latent)
    before = state_of(model, context)
    for texts in (TEXTS, [[8], [9]]):
        model.append_text(context, texts)
    after = state_of(model, context)
    torch.testing.assert_close(state_of(model, context.without_text()), before)
    torch.testing.assert_close(state_of(model, context), after)
    assert (after - before).abs().max() > 1e-3


def test_an_empty_past_has_nothing() -> None:
    past = Past.empty(3)
    assert (past.length, past.batch_size, past.next_position.tolist()) == (0, 3, [0, 0, 0])


def test_sharing_does_not_change_how_a_context_works(tiny_config: Callable, scrambled: Callable[..., MedQ]) -> None:
    from medq_uni.config import SHARED_ATTENTION

    model = scrambled(tiny_config(SHARED_ATTENTION))
    context = context_of(model)
    texts = model.generate(context, max_tokens=3)
    other = context_of(model)
    model.append_text(other, texts)
    torch.testing.assert_close(state_of(model, context), state_of(model, other), atol=2e-5, rtol=2e-5)
