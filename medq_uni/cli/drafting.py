"""What the annotation commands show before they begin, and while something waits."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from medq_uni.annotate.drafts import Describer
    from medq_uni.annotate.external import ExternalConfig
    from medq_uni.annotate.images import ImageSource
    from medq_uni.annotate.store import Store


def external_describer(
    config: ExternalConfig,
    store: Store,
    source: ImageSource,
    round_number: int,
    count: int,
    keys: list[str],
    yes: bool,
) -> Describer:
    """Return the describer behind a URL, once the user agrees to what it costs and where the images go."""
    from medq_uni.annotate.external import ExternalDescriber
    from medq_uni.annotate.rounds import choose_examples

    @functools.cache
    def examples(modality: Any) -> Any:
        return choose_examples(store, source, round_number - 1, modality, count) if round_number > 1 else []

    describer = ExternalDescriber(config, store, examples=examples)
    if not keys:
        return describer
    estimate = describer.estimate(source.image(keys[0]), len(keys))
    where = "stay on this machine" if config.is_local else "LEAVE this machine"
    typer.echo(
        f"{estimate.images} images for {describer.model}: about {estimate.tokens_in} tokens in and at most "
        f"{estimate.tokens_out} out, cost at most about {estimate.cost:.2f}. The images {where}.",
        err=True,
    )
    if config.max_cost is not None and estimate.cost > config.max_cost:
        raise ValueError(f"the estimate is above --max-cost {config.max_cost:g}. Draft fewer (--limit) or allow more.")
    if not yes and (estimate.cost > 0 or not config.is_local):
        typer.confirm("Begin?", abort=True, err=True)
    return describer


def show_queue(store: Store, round_number: int) -> None:
    """Print the images of a round that wait for adjudication, with what is disputed and the votes."""
    from medq_uni.annotate.majority import settle

    after = ""
    while queue := store.outcomes.disputed(round_number, after=after):
        for standing in queue:
            image = next(store.outcomes.reviewed(round_number, key=standing.key))
            settled = settle([one.entry for one in image.reviews])
            parts = []
            for slot in settled.disputed:
                votes = settled.votes.get(slot, {})
                parts.append(f"{slot} " + "/".join(f"{value}:{count}" for value, count in votes.items()))
            typer.echo(f"{standing.key}\t{'; '.join(parts)}")
        after = queue[-1].key
