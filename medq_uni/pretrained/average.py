"""The mean of models that were trained on from the same weights: often better than each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from medq_uni.config import ConfigError
from medq_uni.files import atomic_folder
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import MANIFEST, TOKENIZER, folder_of, load_pretrained, save_pretrained, verify
from medq_uni.pretrained.released_export import check_replaceable

NOT_OF_THE_MEAN = ("uncertainty_scale", "validation")
"""What a card says about the weights themselves, which the mean has not."""


@torch.no_grad()
def average_pretrained(names: Sequence[str | Path], target: Path) -> str:
    """Write the mean of the weights of several models, whole or not at all; return the hash of all its files.

    The mean of what two trainings made of the same weights is about what a training with twice the batch makes of them
    (Wortsman et al. 2022: Model soups). Of models that have nothing in common it is noise. Its uncertainty is not
    calibrated, and what it finds familiar is not known: a training that begins with it measures both.

    Args:
        names: Folders of ours, or embedded names; two at least.
        target: Is created; a model of ours that is there is replaced, as is an empty folder.

    Raises:
        ConfigError: If there is one model only.
        UnwritableImage: If the folder holds anything else; nothing is touched then.
        WeightsMismatch: If they differ in configuration or tokenizer, or one cannot be loaded.
    """
    if len(names) < 2:
        raise ConfigError("the mean of one model is that model. Give two at least.")
    target = Path(target)
    own = set(verify(target)[0]["files"]) if (target / MANIFEST).is_file() else set()
    check_replaceable(target, {MANIFEST, *own}, "a model")
    texts = [verify(folder_of(name))[0]["files"].get(TOKENIZER) for name in names]
    first, *others = (load_pretrained(name) for name in names)
    means = {name: value.double() for name, value in first.model.state_dict().items() if value.is_floating_point()}
    for name, text, other in zip(names[1:], texts[1:], others, strict=True):
        if (other.config, text) != (first.config, texts[0]):
            what = "configuration" if other.config != first.config else "tokenizer"
            raise WeightsMismatch(
                f"{Path(name).name} has another {what} than {Path(names[0]).name}: they have no mean. "
                "Average models that were trained on from the same weights."
            )
        state = other.model.state_dict()
        for key, value in means.items():
            value += state[key]
    first.model.load_state_dict({key: value / len(names) for key, value in means.items()}, strict=False)
    card = {key: value for key, value in first.card.items() if key not in NOT_OF_THE_MEAN}
    card["mean_of"] = [one.sha256 for one in (first, *others)]
    with atomic_folder(target) as temporary:
        return save_pretrained(temporary, first.model, first.tokenizer, card=card)
