import pytest

from medq_uni.config import ConfigError
from medq_uni.errors import MedQError, is_fault, where_raised
from medq_uni.physics.record import read_records


@pytest.mark.parametrize("error", [MedQError("no"), ConfigError("no"), FileNotFoundError("no"), ConnectionError("no")])
def test_users_and_the_system_can_cause_an_error(error: Exception):
    assert not is_fault(error)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), AssertionError("no"), RuntimeError("no")])
def test_anything_else_is_a_fault_of_the_package(error: Exception):
    assert is_fault(error)


def test_the_place_of_an_error_is_the_innermost_line_of_the_package_and_tells_no_value():
    with pytest.raises(MedQError) as caught:
        read_records("Jane Doe")
    assert where_raised(caught.value).startswith(f"{caught.type.__name__} at medq_uni.physics.record:")
    assert "Doe" not in where_raised(caught.value)
    assert where_raised(KeyError("Doe")) == "KeyError at ?:0"
