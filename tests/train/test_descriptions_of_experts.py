import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medq_uni.config import ConfigError
from medq_uni.data.descriptions import description_line
from medq_uni.data.pairs import draw_pair
from medq_uni.description import QualityDescription
from medq_uni.taxonomy import Modality, Verdict
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.recipe import LabelsConfig, TrainConfig
from medq_uni.train.trainer import Trained
from tests.train.tiny import stage, tiny_recipe


def write_descriptions(path: Path, config: TrainConfig, **changes: object) -> dict[str, QualityDescription]:
    """Write what experts say about every pair of a recipe, in words that no record gives."""
    agreed = {}
    for index in range(config.pairs.count):
        pair = draw_pair(config.pairs, index)
        values = {"modality": pair.task.modality, "anatomy": pair.anatomy, "degradations": (), "verdict": Verdict.GOOD}
        values |= {"cause": f"experts looked at pair {index}", "impact": "none"}
        agreed[f"train-{index:08d}"] = QualityDescription(**(values | changes))
    lines = [json.dumps(description_line(key, one, 1, "majority")) for key, one in agreed.items()]
    path.write_text("\n".join(lines) + "\n")
    return agreed


def test_what_experts_agreed_on_is_learned_in_place_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
):
    config = tiny_recipe(stage("assess", steps=3))
    agreed = write_descriptions(tmp_path / "agreed.jsonl", config)
    learned: list[str] = []
    encode = Tokenizer.encode_slots

    def watch(tokenizer: Tokenizer, description: QualityDescription) -> list[tuple[int, bool]]:
        learned.append(description.to_text())
        return encode(tokenizer, description)

    monkeypatch.setattr(Tokenizer, "encode_slots", watch)
    config = replace(config, labels=LabelsConfig(file=str(tmp_path / "agreed.jsonl")))
    assert train(config, tmp_path / "run").is_finished
    told = [text for text in learned if "experts looked" in text]
    assert len(told) >= 12  # 3 steps of 4 samples
    assert set(told) <= {one.to_text() for one in agreed.values()}


def test_descriptions_of_another_dataset_are_refused(tmp_path: Path, train: Callable[..., Trained]):
    config = tiny_recipe(stage("assess", steps=1))
    write_descriptions(tmp_path / "wrong.jsonl", config, modality=Modality.PET)
    config = replace(config, labels=LabelsConfig(file=str(tmp_path / "wrong.jsonl")))
    with pytest.raises(ConfigError, match="speaks of pet"):
        train(config, tmp_path / "run")
