import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.config import SamplerConfig
from medq_uni.model.flow import (
    TimeEmbedder,
    euler,
    guide,
    guided_velocity,
    interpolate,
    is_guided,
    predicted_data,
    target_velocity,
    times,
)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 100))
def test_the_true_velocity_leads_from_any_time_to_the_data(t: float, seed: int) -> None:
    x0, x1 = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    x_t = interpolate(x0, x1, t)
    torch.testing.assert_close(predicted_data(x_t, target_velocity(x0, x1), t), x0, atol=1e-5, rtol=1e-4)


def test_each_sample_has_its_own_time() -> None:
    x0, x1 = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    x_t = interpolate(x0, x1, torch.tensor([0.25, 1.0]))
    assert x_t[0].unique().item() == 0.25
    assert x_t[1].unique().item() == 1.0


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.2, 8))
def test_times_fall_from_one_to_zero_with_one_interval_per_step(num_steps: int, shift: float) -> None:
    t = times(num_steps, shift)
    assert len(t) == num_steps + 1
    assert (t[0], t[-1]) == (1, 0)
    assert (t.diff() < 0).all()
    if shift > 1 and num_steps > 1:
        assert (t[1:-1] > times(num_steps)[1:-1]).all()


def test_fifty_timesteps_of_the_base_model_are_forty_nine_steps() -> None:
    reference = torch.linspace(1, 0, 50)
    torch.testing.assert_close(times(49, 3.0), 3 * reference / (1 + 2 * reference))


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_euler_is_exact_on_a_straight_path_and_calls_once_per_step(num_steps: int) -> None:
    x0, x1 = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    seen: list[float] = []

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        seen.append(t)
        return x1 - x0

    torch.testing.assert_close(euler(velocity, x1, times(num_steps, 2.0)), x0, atol=1e-5, rtol=1e-5)
    assert seen == times(num_steps, 2.0)[:-1].tolist()


def test_the_time_embedding_is_cosine_then_sine_of_unscaled_time() -> None:
    code = TimeEmbedder.sinusoid(torch.tensor([0.0, 0.5]))
    assert code[0].tolist() == [1.0] * 128 + [0.0] * 128
    torch.testing.assert_close(code[1, 128], torch.tensor(0.5).sin())
    torch.testing.assert_close(code[1, 127], torch.tensor(0.5 * 10000 ** (-127 / 128)).cos())


def velocities() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_guidance_never_lengthens_what_its_renorm_measures(renorm: str) -> None:
    v, no_text, no_images = velocities()
    sampler = SamplerConfig(text_guidance=5.0, guidance_renorm=renorm)
    guided = guide(v, no_text, no_images, sampler)
    axes = (1, 2) if renorm == "global" else (2,)
    assert (guided.norm(dim=axes) <= v.norm(dim=axes) * (1 + 1e-5)).all()
    free = guide(v, no_text, no_images, SamplerConfig(text_guidance=5.0, guidance_renorm_min=1.0))
    torch.testing.assert_close(free, no_text + 5 * (v - no_text))


def test_text_channel_renorm_comes_before_image_guidance() -> None:
    v, no_text, no_images = velocities()
    text_only = guide(v, no_text, None, SamplerConfig(text_guidance=5.0))
    both = guide(v, no_text, no_images, SamplerConfig(text_guidance=5.0, image_guidance=2.0))
    torch.testing.assert_close(both, no_images + 2 * (text_only - no_images))


def test_guidance_is_measured_per_sample() -> None:
    v, no_text, no_images = velocities()
    sampler = SamplerConfig(text_guidance=3.0, image_guidance=2.0, guidance_renorm="global")
    together = guide(v, no_text, no_images, sampler)
    alone = guide(v[1:], no_text[1:], no_images[1:], sampler)
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize(("t", "expected"), [(1.0, False), (0.8, True), (0.4, False), (0.41, True)])
def test_the_guidance_interval_is_open_below_and_closed_above(t: float, expected: bool) -> None:
    assert is_guided(SamplerConfig(text_guidance=2.0, guidance_interval=(0.4, 0.8)), t) is expected


def test_image_guidance_alone_does_nothing_as_in_the_base_model() -> None:
    assert not is_guided(SamplerConfig(image_guidance=3.0), 0.5)


def test_unguided_times_evaluate_only_the_full_context() -> None:
    v = velocities()
    calls: list[int] = []

    def field(i: int):
        return lambda x, t: (calls.append(i), v[i])[1]

    sampler = SamplerConfig(text_guidance=2.0, image_guidance=2.0, guidance_interval=(0.0, 0.5))
    guided = guided_velocity([field(0), field(1), field(2)], sampler)
    assert torch.equal(guided(v[0], 0.9), v[0])
    assert calls == [0]
    torch.testing.assert_close(guided(v[0], 0.5), guide(*v, sampler))
    assert calls == [0, 0, 1, 2]
