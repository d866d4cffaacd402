import pytest

from medq_uni.describers.client import ChatConfig
from medq_uni.describers.estimate import Estimate


def test_the_cost_follows_from_the_prices_and_estimates_add_up():
    config = ChatConfig(url="http://host/v1", price_in=2.0, price_out=10.0)
    one = Estimate.of(config, 5, 1_000_000, 200_000, kept=2)
    assert one.cost == pytest.approx(4.0)
    both = one + Estimate.of(config, 1, 500_000, 0)
    assert (both.questions, both.kept, both.tokens_in, both.tokens_out) == (6, 2, 1_500_000, 200_000)
    assert both.cost == pytest.approx(5.0)
