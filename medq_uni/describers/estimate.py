"""What asking a server takes, said before it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from medq_uni.describers.client import ChatConfig


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What questions to a server take, were every one answered at the first attempt."""

    questions: int
    """All of them."""
    kept: int = 0
    """Those whose answers are kept from before, which cost nothing."""
    tokens_in: int
    """Of the others, about."""
    tokens_out: int
    """Of their answers."""
    cost: float
    """In the currency of the prices."""

    @classmethod
    def of(cls, config: ChatConfig, questions: int, tokens_in: int, tokens_out: int, *, kept: int = 0) -> Estimate:
        """Return the estimate with the cost by the prices of a server."""
        cost = config.cost(tokens_in, tokens_out)
        return cls(questions=questions, kept=kept, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)

    def __add__(self, other: Estimate) -> Estimate:
        """Return what both take together."""
        return Estimate(
            questions=self.questions + other.questions,
            kept=self.kept + other.kept,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            cost=self.cost + other.cost,
        )
