import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medq_uni.cli.main import app
from medq_uni.config import ConfigError
from medq_uni.errors import UnwritableImage
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.average import average_pretrained
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import load_pretrained, save_pretrained


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two models that are nano with its weights moved apart by twice their size."""
    nano, home = load_pretrained("nano"), tmp_path_factory.mktemp("models")
    state, paths = {name: value.clone() for name, value in nano.model.state_dict().items()}, []
    for name, factor in (("one", 0.5), ("two", 1.5)):
        nano.model.load_state_dict({k: v * factor if v.is_floating_point() else v for k, v in state.items()})
        paths.append(home / name)
        save_pretrained(paths[-1], nano.model, nano.tokenizer, card=nano.card, dtype=torch.float32)
    return paths


def test_the_mean_lies_in_the_middle_and_claims_no_calibration(folders: list[Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["weights", "average", *map(str, folders), "-o", str(tmp_path / "mean")])
    assert result.exit_code == 0, result.output
    mean, nano = load_pretrained(tmp_path / "mean"), load_pretrained("nano")
    for name, value in nano.model.state_dict().items():
        torch.testing.assert_close(mean.model.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert mean.card["mean_of"] == [load_pretrained(folder).sha256 for folder in folders]
    assert (mean.uncertainty_scale, mean.ood_detector, mean.preprocessor.tile_size) == (
        {},
        None,
        nano.preprocessor.tile_size,
    )
    assert mean.sha256[:12] in result.output


def test_nothing_is_written_over_or_onto_a_source(folders: list[Path]) -> None:
    before = (folders[1] / "manifest.json").read_bytes()
    again = CliRunner().invoke(app, ["weights", "average", *map(str, folders), "-o", str(folders[1])])
    onto = CliRunner().invoke(app, ["weights", "average", *map(str, folders), "-o", str(folders[1]), "--overwrite"])
    assert again.exit_code == onto.exit_code == 1
    assert "--overwrite" in again.output
    assert "never written to" in onto.output
    assert (folders[1] / "manifest.json").read_bytes() == before


def test_models_that_differ_have_no_mean(folders: list[Path], tmp_path: Path) -> None:
    nano = load_pretrained("nano")
    wide = MedQ(replace(nano.config, max_latent_size=32))
    save_pretrained(tmp_path / "wide", wide, nano.tokenizer, card={})
    with pytest.raises(WeightsMismatch, match="wide has another configuration than one"):
        average_pretrained([folders[0], tmp_path / "wide"], tmp_path / "mean")
    with pytest.raises(ConfigError, match="two at least"):
        average_pretrained(folders[:1], tmp_path / "mean")
    save_pretrained(tmp_path / "other", nano.model, nano.tokenizer, card={})
    text = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(text, indent=3))
    with pytest.raises(WeightsMismatch, match="altered"):
        average_pretrained([folders[0], tmp_path / "other"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_a_folder_that_holds_anything_else_is_not_replaced(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mean").mkdir()
    kept = tmp_path / "mean" / "results.safetensors"
    kept.write_bytes(b"hours of work")
    with pytest.raises(UnwritableImage, match=r"something else than a model \(results.safetensors\)"):
        average_pretrained(folders, tmp_path / "mean")
    assert kept.read_bytes() == b"hours of work"
    kept.unlink()
    assert average_pretrained(folders, tmp_path / "mean") == average_pretrained(folders, tmp_path / "mean")
