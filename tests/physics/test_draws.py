import math

import pytest
import torch

from medq_uni.physics.draws import Draws


def draws(count: int = 3000) -> Draws:
    return Draws(count, torch.Generator().manual_seed(4))


def test_numbers_are_those_of_the_generator_in_order():
    numbers = torch.rand(3, generator=torch.Generator().manual_seed(4)).tolist()
    taken = draws(3)
    assert taken.between(2.0, 6.0) == pytest.approx(2 + 4 * numbers[0])
    assert taken.evenly(1.0, 8.0) == pytest.approx(8 ** numbers[1])
    assert taken.has(numbers[2] + 1e-6)
    with pytest.raises(StopIteration):
        taken.between(0.0, 1.0)


def test_they_fill_their_ranges_and_shares():
    taken = draws()
    even = [taken.evenly(1.0, 100.0) for _ in range(1000)]
    assert min(even) >= 1.0
    assert max(even) <= 100.0
    assert sum(map(math.log, even)) / 1000 == pytest.approx(math.log(10.0), abs=0.15)
    assert sum(taken.has(0.3) for _ in range(1000)) == pytest.approx(300, abs=60)
