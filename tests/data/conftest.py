from pathlib import Path

import nibabel
import numpy as np
import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["path,modality,anatomy,subject,split,units"]
    values = np.random.default_rng(0).uniform(10, 900, (40, 36, 3)).astype(np.float32)
    for modality, units in (("ct", "HU"), ("mr", "a.u."), ("pet", "SUV")):
        for split in ("train", "test"):
            name = f"{modality}_{split}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name)
            rows.append(f"{name},{modality},brain T1w,{modality}-{split},{split},{units}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows) + "\n")
    return folder
