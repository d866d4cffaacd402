import torch
from torch.nn import functional as F

from medq_uni.systems.cost import gflops


def test_convolutions_and_products_are_counted_twice_per_multiplication() -> None:
    x, kernel = torch.rand(1, 2, 10, 12), torch.rand(3, 2, 3, 3)
    assert gflops(lambda: F.conv2d(x, kernel, padding=1)) * 1e9 == 2 * 10 * 12 * 3 * 2 * 9
    assert gflops(lambda: torch.rand(5, 7) @ torch.rand(7, 11)) * 1e9 == 2 * 5 * 7 * 11


def test_attention_is_counted_on_the_cpu_too() -> None:
    q = torch.rand(1, 2, 16, 8)
    assert gflops(lambda: F.scaled_dot_product_attention(q, q, q)) * 1e9 == 2 * 2 * 2 * 16 * 16 * 8
    with torch.inference_mode():
        assert gflops(lambda: F.scaled_dot_product_attention(q, q, q)) * 1e9 == 2 * 2 * 2 * 16 * 16 * 8
