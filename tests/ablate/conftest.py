"""What the tests of ablations share with those of training."""

from tests.train.conftest import quick

__all__ = ["quick"]
