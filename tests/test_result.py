import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.config import SamplerConfig
from medq_uni.data.phantoms import phantom
from medq_uni.description import Degradation, QualityDescription
from medq_uni.errors import MedQError, UnwritableImage
from medq_uni.result import Provenance, Restoration, RunOptions, provenance_of
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

PROVENANCE = Provenance(
    options=RunOptions(
        model="nano",
        weights_sha256="0" * 64,
        precision="float32",
        sampler=SamplerConfig(guidance_interval=(0.1, 0.9)),
        seed=0,
        force=False,
        allow_ood=True,
        instruction=None,
        description_from="model",
        stated=None,
        version="0.1.0",
    ),
    assessment="Image: MR of the brain.",
    ood_score=0.5,
    strength=1.0,
)


def restoration(slices: int = 1) -> Restoration:
    image = phantom(Modality.MR, torch.Generator().manual_seed(1), size=48)
    image = replace(image, voxels=np.repeat(image.voxels, slices, axis=0))
    restored = image.with_voxels(0.9 * image.voxels)
    residual = image.with_voxels(restored.voxels - image.voxels)
    words = QualityDescription(
        Modality.MR,
        Anatomy.BRAIN,
        (Degradation(Task.MR_NOISE, Severity.MILD),),
        "thermal noise",
        "grain",
        Verdict.USABLE,
    )
    return Restoration(image, words, restored, image, residual, PROVENANCE, 1.0, False)


def test_a_result_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ValueError, match="slice"):
        restoration(slices=2).save(tmp_path / "volume.png")
    assert list(tmp_path.iterdir()) == []


def test_names_with_dots_keep_their_maps_apart(tmp_path: Path):
    paths = [path for name in ("1.2.3.nii.gz", "1.2.4.nii.gz") for path in restoration().save(tmp_path / name)]
    assert len(set(paths)) == 8 == len(list(tmp_path.iterdir()))


def test_nothing_that_exists_is_replaced_unless_asked(tmp_path: Path):
    path, *beside = restoration().save(tmp_path / "a.nii.gz")
    path.unlink()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(UnwritableImage, match=r"a\.medq\.json: exists"):
        restoration().save(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert restoration().save(path, overwrite=True) == [path, *beside]


def test_the_record_says_what_was_done_and_for_what_it_may_be_used(tmp_path: Path):
    restoration().save(tmp_path / "a.nii.gz", maps=False)
    record = json.loads((tmp_path / "a.medq.json").read_text())
    assert "Research use only" in record["notice"]
    assert QualityDescription.from_text(record["text"]) == restoration().description
    assert record["provenance"]["weights_sha256"] == "0" * 64


def test_a_provenance_survives_its_json():
    assert Provenance.from_dict(json.loads(json.dumps(PROVENANCE.to_dict()))) == PROVENANCE
    assert provenance_of(restoration().to_dict()) == PROVENANCE


def test_a_record_of_version_0_1_0_is_understood():
    old = PROVENANCE.to_dict()
    old["unfamiliar"], old["unlikeness"] = old.pop("allow_ood"), old.pop("ood_score")
    assert provenance_of({"settings": old}) == PROVENANCE


@pytest.mark.parametrize(
    "record", [{}, {"settings": []}, {"settings": {"model": "nano"}}, {"provenance": None}, {"kind": "degraded"}]
)
def test_what_is_no_provenance_is_none(record: dict):
    assert provenance_of(record) is None


@pytest.mark.parametrize("change", [{"sampler": 3}, {"new": 1}, {"sampler": {"num_steps": 0}}])
def test_a_broken_provenance_is_refused(change: dict):
    with pytest.raises(MedQError, match="not the provenance of a restoration"):
        Provenance.from_dict(PROVENANCE.to_dict() | change)
