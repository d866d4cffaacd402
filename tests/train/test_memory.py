import torch
from torch import nn

from medq_uni.train.memory import SavedBytes, held_bytes


def test_a_weight_that_learns_takes_four_more_numbers():
    model = nn.Linear(10, 10, bias=False)
    assert held_bytes(model) == 100 * (4 + 16)
    model.weight.requires_grad_(False)
    assert held_bytes(model) == 100 * 4


def test_what_the_backward_pass_needs_is_counted_once_and_without_weights():
    model = nn.Linear(10, 20)
    x = torch.randn(5, 10, requires_grad=True)
    with SavedBytes(model) as saved:
        y = model(x)
        y.square().sum()
    assert saved.total == 4 * (5 * 10 + 5 * 20)
