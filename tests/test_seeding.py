"""The values here may never change: records, datasets, training runs and noise are drawn again from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.seeding import generator_of, randint, seed_of


@pytest.mark.parametrize(
    ("text", "seed", "short"),
    [
        ("", 64089176690719772, 3820012610),
        ("0", 27000618577021039, 1609362278),
        ("medq", 21736566064390267, 1295600298),
        ("phantom-1-0", 38058441763360320, 2268459902),
    ],
)
def test_the_seed_of_a_text_is_the_golden_one(text: str, seed: int, short: int):
    assert seed_of(text) == seed_of(text.encode()) == seed
    assert seed_of(text, num_bytes=4) == short


@pytest.mark.parametrize(
    ("numbers", "seed", "drawn"),
    [
        ((0,), 27000618577021039, [702264206, 1149165520, 1590996763]),
        ((1,), 30265923516445948, [5339442, 1261345733, 904656188]),
        ((0, 0), 32427355610392981, [296370070, 2057226668, 1515416803]),
        ((1, 2, 3), 38961062747439122, [555755335, 160650879, 1606273098]),
        ((3, -1), 23227231598643165, [2032561889, 1299033821, 1755988141]),
        ((2**40, 7), 11853233083565723, [434102839, 859610485, 223528661]),
    ],
)
def test_the_generator_of_numbers_is_the_golden_one(numbers: tuple[int, ...], seed: int, drawn: list[int]):
    assert generator_of(*numbers).initial_seed() == seed
    assert torch.randint(2**31 - 1, (3,), generator=generator_of(*numbers)).tolist() == drawn
    generator = generator_of(*numbers)
    assert [randint(2**31 - 1, generator) for _ in drawn] == drawn


def test_normal_noise_is_the_golden_one():
    noise = torch.randn(2, generator=generator_of(1, 2, 3))
    torch.testing.assert_close(noise, torch.tensor([-0.788981556892395, 0.050067465752363205]))


@given(st.lists(st.integers(-(2**63), 2**63), max_size=4), st.lists(st.integers(-(2**63), 2**63), max_size=4))
def test_other_numbers_give_another_stream(one: list[int], other: list[int]):
    same = generator_of(*one).initial_seed() == generator_of(*other).initial_seed()
    assert same is (one == other)


@given(st.text(max_size=20), st.integers(1, 8))
def test_a_seed_fits_into_its_bytes(text: str, num_bytes: int):
    assert 0 <= seed_of(text, num_bytes=num_bytes) < 256**num_bytes


def test_a_seed_fits_into_what_torch_takes():
    torch.Generator().manual_seed(256**7 - 1)


def test_making_a_generator_leaves_the_global_one_alone():
    before = torch.random.get_rng_state()
    randint(10, generator_of(4))
    assert torch.equal(torch.random.get_rng_state(), before)


@given(st.integers(1, 50), st.integers(0, 1000))
def test_an_integer_lies_below_its_bound(high: int, seed: int):
    assert 0 <= randint(high, generator_of(seed)) < high


def test_every_integer_is_drawn():
    generator = generator_of(0)
    assert {randint(5, generator) for _ in range(200)} == set(range(5))
