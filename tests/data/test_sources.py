from pathlib import Path

import pytest

from medq_uni.data.sources import ManifestError, anatomy_of, read_manifest
from medq_uni.taxonomy import Anatomy


def test_a_manifest_names_what_is_wrong(data: Path, tmp_path: Path):
    assert sum(volume.split == "train" for volume in read_manifest(data)) == 3
    with pytest.raises(ManifestError, match="no manifest"):
        read_manifest(tmp_path)
    text = (data / "MANIFEST.csv").read_text()
    for old, new, message in (
        (",mr,", ",us,", "line 4: modality"),
        ("mr_train.nii.gz", "gone.nii.gz", "gone.nii.gz does not exist"),
        ("mr-train", "", "no value for subject"),
    ):
        (data / "MANIFEST.csv").write_text(text.replace(old, new))
        with pytest.raises(ManifestError, match=message):
            read_manifest(data)


def test_anatomy_is_read_from_words():
    assert anatomy_of("brain T1w") is Anatomy.BRAIN
    assert anatomy_of("chest+upper abdomen") is Anatomy.CHEST
    assert anatomy_of("knee") is Anatomy.BODY
