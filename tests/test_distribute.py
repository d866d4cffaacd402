import pytest

from medq_uni.distribute import WorkerError, map_items


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_items_are_mapped_in_order_and_a_failure_names_its_item(workers: int):
    assert list(map_items(fail_on_three, [2, 1, 4], workers=workers)) == [4, 1, 16]
    with pytest.raises(WorkerError, match="item 3 failed: ValueError: three"):
        list(map_items(fail_on_three, range(5), workers=workers))
