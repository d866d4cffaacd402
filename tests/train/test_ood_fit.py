from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained import ood_detector
from medq_uni.pretrained.load import load_pretrained, save_pretrained
from medq_uni.taxonomy import Modality
from medq_uni.train.ood_fit import features_of, ood_detector_of

PAIRS = PairsConfig(count=20, seed=5, phantom_sizes=(64,))


def test_every_slice_is_seen_whole_and_as_many_are_seen_in_crops(tmp_path: Path):
    pool = build_pair_cache(PAIRS, tmp_path / "pool")
    model = load_pretrained("nano").model
    found = features_of(model, pool)
    whole = {m: sum(item.task.modality is m for item in pool.items) for m in Modality}
    assert all(len(found[m]) >= whole[m] for m in Modality)
    assert sum(map(len, found.values())) == len(pool) + 24  # three batches of eight crops
    assert all(x.shape[1] == 2 * model.config.vision.hidden_size for x in found.values())
    again = features_of(model, pool)
    assert all(torch.equal(found[m], again[m]) for m in found)


def test_what_was_seen_goes_with_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ood_detector, "MIN_IMAGES", 5)
    pools = [build_pair_cache(replace(PAIRS, seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    nano = load_pretrained("nano")
    seen = ood_detector_of(nano.model, *pools)
    assert seen is not None
    save_pretrained(tmp_path / "model", nano.model, nano.tokenizer, card={}, ood_detector=seen)
    again = load_pretrained(tmp_path / "model").ood_detector
    assert again is not None
    features = features_of(nano.model, pools[1])[Modality.MR]
    assert torch.equal(seen.ood_score(features, Modality.MR), again.ood_score(features, Modality.MR))
