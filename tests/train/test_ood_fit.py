from pathlib import Path

import pytest
import torch

from medq_uni.data.pair_cache import PairCache, build_pair_cache
from medq_uni.pretrained import ood_detector
from medq_uni.pretrained.load import Pretrained, load_pretrained, save_pretrained
from medq_uni.taxonomy import Modality
from medq_uni.train.ood_fit import CROPS_AT_ONCE, features_of, ood_detector_of
from medq_uni.train.validate import inference_of
from tests.train.tiny import VAL_PAIRS, baseline_recipe


def test_every_slice_is_seen_whole_and_as_many_are_seen_in_crops(nano: Pretrained, pair_cache: PairCache):
    inference = inference_of(nano.model, nano.tokenizer)
    found = features_of(inference, pair_cache)
    whole = {m: sum(item.task.modality is m for item in pair_cache.items) for m in Modality}
    assert all(len(found[m]) >= whole[m] for m in Modality)
    batches = -(-len(pair_cache) // CROPS_AT_ONCE)
    assert sum(map(len, found.values())) == len(pair_cache) + CROPS_AT_ONCE * batches
    assert all(x.shape[1] == 2 * nano.config.vision.hidden_size for x in found.values())
    again = features_of(inference, pair_cache)
    assert all(torch.equal(found[m], again[m]) for m in found)


def test_what_was_seen_goes_with_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: Pretrained, pair_cache: PairCache, pairs_of
):
    monkeypatch.setattr(ood_detector, "MIN_IMAGES", 2)
    inference = inference_of(nano.model, nano.tokenizer)
    val_pairs = build_pair_cache(VAL_PAIRS, pairs_of(baseline_recipe()) / "val_pairs")
    seen = ood_detector_of(inference, pair_cache, val_pairs)
    assert seen is not None
    save_pretrained(tmp_path / "model", nano.model, nano.tokenizer, card={}, ood_detector=seen)
    again = load_pretrained(tmp_path / "model").ood_detector
    assert again is not None
    features = features_of(inference, val_pairs)[Modality.MR]
    assert torch.equal(seen.ood_score(features, Modality.MR), again.ood_score(features, Modality.MR))
