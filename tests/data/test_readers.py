from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from medq_uni.data import readers, sources
from medq_uni.data.readers import read_source
from medq_uni.data.sources import ManifestError
from medq_uni.taxonomy import Anatomy, Modality

SLICES = 3


def test_both_layouts_of_the_mayo_data_pair_full_and_lower_dose(mayo: Path):
    found = read_source(f"aapm-mayo:{mayo}")
    assert found.problems == []
    by_subject = {volume.subject: volume for volume in found.volumes}
    assert sorted(by_subject) == ["C002", "L067", "L096"]
    assert [by_subject[s].lower[0].reduction for s in ("C002", "L067", "L096")] == [10.0, 4.0, 4.0]
    assert by_subject["C002"].anatomy is Anatomy.CHEST
    for one in found.volumes:
        reference = sources.load_reference(one)
        lower = sources.load_lower(one, one.lower[0])
        assert reference.shape == lower.shape == (SLICES, 48, 48)
        assert 15 < float((lower.voxels - reference.voxels)[reference.voxels > -900].std()) < 35


def test_a_missing_dose_a_missing_slice_and_a_broken_slice_are_named(mayo: Path):
    for path in (mayo / "L067/quarter_1mm").iterdir():
        path.unlink()
    next((mayo / "3mm B30/quarter_3mm/L096/quarter_3mm").iterdir()).unlink()
    broken = sorted((mayo / "C002").rglob("*Full Dose*/*.dcm"))[0]
    broken.write_bytes(broken.read_bytes()[:200])
    found = read_source(f"aapm-mayo:{mayo}")
    text = "\n".join(found.problems)
    assert "L067 1: no lower-dose series" in text
    assert "L096 3B30: 3 and 2 slices" in text
    assert "1-001.dcm" in text
    assert sorted(volume.subject for volume in found.volumes) == ["L067", "L096"]
    assert all(not volume.lower for volume in found.volumes)


def test_the_wrong_dose_pair_is_named(tmp_path: Path, write, stored):
    full = stored(Modality.CT)
    write(tmp_path / "L001/full_1mm", full)
    write(tmp_path / "L001/quarter_1mm", full)
    write(tmp_path / "L002/full_1mm", full)
    write(tmp_path / "L002/quarter_1mm", full[:, :40])
    write(tmp_path / "L003/full_3mm", full)
    write(tmp_path / "L003/a/full_3mm", full)
    write(tmp_path / "somewhere", full)
    found = read_source(f"aapm-mayo:{tmp_path}")
    text = "\n".join(found.problems)
    assert "L003 3: 2 full-dose" in text
    assert "somewhere: neither patient" in text
    same, other = found.volumes
    with pytest.raises(ManifestError, match=r"L001.*equals the full dose"):
        sources.load_lower(same, same.lower[0])
    with pytest.raises(ManifestError, match=r"L002.*another place"):
        sources.load_lower(other, other.lower[0])


def test_ixi_names_give_subjects_and_other_names_are_told(tmp_path: Path, stored):
    values = stored(Modality.MR).T.astype(np.float32)
    good = ["IXI-T1/IXI002-Guys-0828-T1.nii.gz", "IXI-T2/IXI002-Guys-0828-T2.nii.gz", "IXI-PD/IXI013-HH-1212-PD.nii.gz"]
    for name in (*good, "IXI-T1/IXI014-T1.nii.gz", "MRA/IXI002-Guys-0828-MRA.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name)
    (tmp_path / "IXI-T1/IXI015-HH-1258-T1.nii.gz").write_bytes(b"")
    found = read_source(f"ixi:{tmp_path}")
    assert [volume.subject for volume in found.volumes] == ["IXI013", "IXI002", "IXI002"]
    assert len({volume.split for volume in found.volumes if volume.subject == "IXI002"}) == 1
    assert len(found.problems) == 2
    assert "IXI014-T1.nii.gz: not named like" in found.problems[0]
    assert "IXI015-HH-1258-T1.nii.gz: the file is empty" in found.problems[1]
    assert sources.load_reference(found.volumes[0]).modality is Modality.MR


@pytest.mark.parametrize(
    ("full", "low"),
    [
        ("2.886 x 600 WB NORMAL", "2.886 x 600 WB D{}"),
        ("2.886 x 600 WB normal", "2.886 x 600 WB DRF_{}"),
        ("Full_dose", "1-{} dose"),
        ("Full_dose", "drf_{}"),
    ],
)
def test_udpet_dose_levels_pair_with_the_full_dose(tmp_path: Path, write, stored, full: str, low: str):
    subject = tmp_path / "PART1/Anonymous_ANO_20230505_1758162_120417"
    write(subject / full, stored(Modality.PET), modality="PT")
    for factor in (4, 100):
        write(subject / low.format(factor), stored(Modality.PET, noise=0.01 * factor), modality="PT")
    found = read_source(f"udpet:{tmp_path}")
    assert found.problems == []
    (one,) = found.volumes
    assert [lower.reduction for lower in one.lower] == [4.0, 100.0]
    assert "Anonymous" not in one.subject
    assert sources.load_lower(one, one.lower[1]).shape == (SLICES, 48, 48)


def test_udpet_as_nifti_and_what_is_missing(tmp_path: Path, stored):
    values = stored(Modality.PET).T.astype(np.float32)
    for name in (
        "S1/Full_dose.nii.gz",
        "S1/1-10 dose.nii.gz",
        "S2/1-4 dose.nii.gz",
        "S3/Full_dose.nii.gz",
        "S3/mask.nii",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name)
    found = read_source(f"udpet:{tmp_path}")
    assert [len(one.lower) for one in found.volumes] == [1, 0]
    text = "\n".join(found.problems)
    assert "S2: no full dose" in text
    assert "S3: no reduced dose" in text
    assert "mask.nii: no dose level" in text


def test_a_plain_folder_takes_modality_and_hashed_patient_from_the_header(
    tmp_path: Path, write, stored, phantom: SimpleNamespace
):
    write(tmp_path / "patient Smith/ct", stored(Modality.CT))
    (tmp_path / "patient Smith/broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1\2\3")
    nibabel.save(nibabel.Nifti1Image(stored(Modality.MR).T.astype(np.float32), np.eye(4)), tmp_path / "brain.nii.gz")
    found = read_source(f"folder:{tmp_path}")
    (one,) = found.volumes
    assert one.modality is Modality.CT
    assert phantom.canary not in repr(one)
    assert "Smith" not in one.subject + one.name
    assert any("broken.dcm" in problem for problem in found.problems)
    assert any("brain.nii.gz: its header names no modality" in problem for problem in found.problems)
    assert {one.modality for one in read_source(f"mr:{tmp_path}").volumes} == {Modality.MR}


def test_a_folder_that_is_missing_or_holds_nothing_is_refused(tmp_path: Path):
    for source in ("ixi:/does/not/exist", "/does/not/exist"):
        with pytest.raises(ManifestError, match="no such folder"):
            read_source(source)
    for kind in readers.KINDS:
        with pytest.raises(ManifestError):
            read_source(f"{kind}:{tmp_path}")


def test_splits_are_by_subject_and_about_eighty_ten_ten():
    splits = [sources.split_of(f"subject-{number}") for number in range(4000)]
    assert splits == [sources.split_of(f"subject-{number}") for number in range(4000)]
    shares = [splits.count(name) / 4000 for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
