import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.config import ConfigError
from medq_uni.data.dataset import Dataset, DatasetRecipe, build_dataset
from medq_uni.data.dataset_pairs import DatasetPairs
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.data.shards import DatasetError
from medq_uni.pretrained.load import folder_of
from medq_uni.scaling import scaling_of
from medq_uni.seeding import generator_of
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.checkpoint import CheckpointError
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.trainer import TrainOptions, train
from tests.train.tiny import stage, tiny_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = PairsConfig(count=12, seed=1, phantom_sizes=(48, 300))
    recipe = DatasetRecipe(name="tiny", splits={"train": pairs}, pairs_per_shard=5, wrong_labels=0.3)
    return build_dataset(recipe, tmp_path_factory.mktemp("dataset") / "tiny").folder


def test_a_pair_is_the_one_of_its_shard(folder: Path) -> None:
    pairs, stored = DatasetPairs(folder, "train"), list(Dataset(folder).pairs("train"))
    assert len(pairs) == len(stored) == 12
    for index, pair in enumerate(stored):
        scaling = scaling_of(pair.image(pair.degraded))
        assert pairs.scaling(index) == scaling
        item = pairs.items[index]
        degraded, reference = (view[:, : item.height, : item.width] for view in pairs.views(index))
        if max(pair.reference.shape) <= 256:  # larger ones are a window
            ours = scaling.to_views(torch.from_numpy(pair.reference)[None])[0]
            torch.testing.assert_close(reference, ours)
        assert degraded.shape == reference.shape
        assert torch.equal(pairs.views(index)[0], DatasetPairs(folder, "train").views(index)[0])


def test_another_process_opens_the_pairs_and_does_not_get_its_pixels(folder: Path, tmp_path: Path) -> None:
    drawn = build_pair_cache(PairsConfig(count=4, seed=1, phantom_sizes=(48,)), tmp_path)
    for pairs in (DatasetPairs(folder, "train"), drawn):
        sent = pickle.dumps(pairs)
        assert len(sent) < 1000
        other = pickle.loads(sent)
        assert other.items == pairs.items
        assert torch.equal(other.views(3)[0], pairs.views(3)[0])


def test_the_words_are_those_of_the_dataset_wrong_ones_too(folder: Path) -> None:
    pairs = DatasetPairs(folder, "train")
    words = PairTexts(pairs, Tokenizer.from_file(folder_of("nano") / "tokenizer.json"))
    for index, meta in enumerate(Dataset(folder).index()):
        assert words.label(index, generator_of(0)).to_text() == meta["description"]


def test_a_run_does_not_go_on_with_a_dataset_that_was_built_anew(folder: Path, tmp_path: Path) -> None:
    place, run = tmp_path / "pairs", tmp_path / "run"
    shutil.copytree(folder, place)
    config = replace(tiny_recipe(stage("codec", steps=2)), pairs=None, dataset=str(place))
    train(config, run, TrainOptions(max_minutes=0))
    shutil.rmtree(place)
    pairs = PairsConfig(count=12, seed=2, phantom_sizes=(48,))
    build_dataset(DatasetRecipe(name="tiny", splits={"train": pairs}), place)
    with pytest.raises(CheckpointError, match="is another dataset than the run in"):
        train(config, run, TrainOptions(resume=True))
    shutil.rmtree(place)
    shutil.copytree(folder, place)
    assert train(config, run, TrainOptions(resume=True)).is_finished


def test_a_run_on_a_dataset_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    config = replace(tiny_recipe(stage("codec", steps=12)), pairs=None, dataset=str(folder))
    whole = train(config, tmp_path / "whole")
    pieces = train(config, tmp_path / "pieces", TrainOptions(max_minutes=0))
    while not pieces.is_finished:
        pieces = train(config, tmp_path / "pieces", TrainOptions(resume=True, max_minutes=0.004))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(pieces.model.state_dict()[name], value), name


def test_a_damaged_pair_a_missing_split_and_another_format_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with pytest.raises(DatasetError, match="has no split 'val', only train"):
        DatasetPairs(copy, "val")
    shard = copy / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    pairs = DatasetPairs(copy, "train")
    with pytest.raises(DatasetError):
        [pairs.views(index) for index in range(5)]
    manifest = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        DatasetPairs(copy, "train")


def test_a_recipe_has_pairs_or_a_dataset_and_not_both(folder: Path) -> None:
    with pytest.raises(ConfigError, match="either pairs"):
        replace(tiny_recipe(stage("codec")), dataset=str(folder))
