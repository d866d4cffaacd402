from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from medq_uni.errors import ImageWarning
from medq_uni.io.provenance import Derivation
from medq_uni.io.read_write import read_image, write_image
from medq_uni.taxonomy import Modality
from tests.io.derived import DERIVATION, digest, load, shifted


def test_a_good_image_is_called_unchanged_and_belongs_to_the_same_series(tmp_path, phantom, stored_ct):
    paths = phantom.series(tmp_path / "in", stored_ct)
    made = [replace(DERIVATION, kind="unchanged", tasks=(), description="Verdict: good."), DERIVATION]
    for path, derivation in zip(paths[:2], made, strict=True):
        write_image(read_image(path), tmp_path / f"{derivation.kind}.dcm", derivation=derivation)
    good, other = load(tmp_path / "unchanged.dcm"), load(tmp_path / "restored.dcm")
    assert good.SeriesDescription.endswith("thin [MEDQ unchanged]")
    assert "values are unchanged" in good.DerivationDescription
    assert good.DerivationCodeSequence[0].CodeValue == "MEDQ-001"
    np.testing.assert_array_equal(good.pixel_array, load(paths[0]).pixel_array)
    assert good.SeriesInstanceUID == other.SeriesInstanceUID
    assert good.SOPInstanceUID != load(paths[0]).SOPInstanceUID


def test_identity_of_the_derived_series(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    before = digest(tmp_path / "in")
    image = read_image(tmp_path / "in")
    write_image(shifted(image, 5), tmp_path / "out", derivation=DERIVATION)
    source, derived = load(tmp_path / "in/001.dcm"), load(tmp_path / "out/0002.dcm")

    assert derived.StudyInstanceUID == source.StudyInstanceUID
    assert derived.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert derived.PatientID == source.PatientID
    assert derived.Manufacturer == source.Manufacturer
    assert derived.ImagePositionPatient == source.ImagePositionPatient
    assert (derived.WindowCenter, derived.WindowWidth) == (source.WindowCenter, source.WindowWidth)
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert re.fullmatch(r"2\.25\.\d{1,39}", str(derived[keyword].value))
    assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID
    assert derived.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert list(derived.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert derived.SeriesNumber == 301
    assert derived.SeriesDescription.endswith("thin [MEDQ restored]")
    assert "not for diagnostic use" in derived.DerivationDescription.lower()
    assert len(derived.DerivationDescription) <= 1024
    assert derived.DerivationCodeSequence[0].CodingSchemeDesignator == "99MEDQ"
    reference = derived.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    equipment = derived.ContributingEquipmentSequence[-1]
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert "ab" * 32 in equipment.ContributionDescription
    assert not any(element.tag.is_private for element in derived)
    assert derived.LargestImagePixelValue == derived.pixel_array.max()
    assert derived.SmallestImagePixelValue == derived.pixel_array.min()
    uids = {str(load(p).SOPInstanceUID) for p in (tmp_path / "out").iterdir()}
    assert len(uids) == 4
    assert len({str(load(p).SeriesInstanceUID) for p in (tmp_path / "out").iterdir()}) == 1
    assert digest(tmp_path / "in") == before


def test_same_inputs_give_the_same_bytes_and_another_seed_gives_another_series(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    image = shifted(read_image(tmp_path / "in"), 5)
    other = Derivation(**{**vars(DERIVATION), "seed": 8})
    write_image(image, tmp_path / "a", derivation=DERIVATION)
    write_image(image, tmp_path / "b", derivation=DERIVATION)
    write_image(image, tmp_path / "c", derivation=other)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    a, c = load(tmp_path / "a/0001.dcm"), load(tmp_path / "c/0001.dcm")
    assert a.SOPInstanceUID != c.SOPInstanceUID
    assert a.SeriesInstanceUID != c.SeriesInstanceUID


@pytest.mark.parametrize(
    ("derivation", "label", "code"),
    [
        (DERIVATION, "[MEDQ restored]", "MEDQ-001"),
        (replace(DERIVATION, kind="degraded"), "[MEDQ degraded]", "MEDQ-101"),
        (replace(DERIVATION, kind="degraded", tasks=()), "[MEDQ degraded]", "MEDQ-100"),
        (None, "[MEDQ processed]", "MEDQ-200"),
    ],
)
def test_label_and_code_say_what_became_of_the_image(tmp_path, phantom, stored_ct, derivation, label, code):
    phantom.series(tmp_path / "in", stored_ct[:1])
    write_image(shifted(read_image(tmp_path / "in"), 5), tmp_path / "out.dcm", derivation=derivation)
    derived = load(tmp_path / "out.dcm")
    assert derived.SeriesDescription.endswith(label)
    assert derived.DerivationCodeSequence[0].CodeValue == code


def test_slices_of_one_series_that_are_written_alone_share_the_series(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    image = read_image(tmp_path / "in")
    write_image(image, tmp_path / "all", derivation=DERIVATION)
    write_image(image.slice_at(2), tmp_path / "one.dcm", derivation=DERIVATION)
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "all/0003.dcm").read_bytes()


def test_without_a_derivation_other_pixels_are_another_object(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path / "in", stored_ct[:1])[0])
    write_image(image, tmp_path / "a.dcm")
    write_image(shifted(image, 1), tmp_path / "b.dcm")
    assert load(tmp_path / "a.dcm").SOPInstanceUID != load(tmp_path / "b.dcm").SOPInstanceUID


def test_enhanced_multiframe_is_written_as_the_same_class(tmp_path, phantom, stored_ct):
    path = phantom.enhanced(
        tmp_path / "e.dcm",
        stored_ct[:3],
        rescales=[(1, -1024), (2, -1000), (0.5, 3)],
        positions=[6.0, 0.0, 3.0],
    )
    image = read_image(path)
    write_image(shifted(image, 10.5), tmp_path / "out.dcm", derivation=DERIVATION)
    ds, again = load(tmp_path / "out.dcm"), read_image(tmp_path / "out.dcm")
    assert np.abs(again.voxels - image.voxels - 10.5).max() <= 0.5
    np.testing.assert_array_equal(again.affine, image.affine)
    assert ds.SOPClassUID == load(path).SOPClassUID
    assert ds.ContentQualification == "RESEARCH"
    assert ds.NumberOfFrames == 3
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedFrameNumber == k + 1
        assert list(group.CTImageFrameTypeSequence[0].FrameType[:2]) == ["DERIVED", "SECONDARY"]
    assert [g.PlanePositionSequence[0].ImagePositionPatient[2] for g in ds.PerFrameFunctionalGroupsSequence] == [
        6,
        0,
        3,
    ]


def test_part_of_an_enhanced_object_keeps_only_its_frames(tmp_path, phantom, stored_ct):
    path = phantom.enhanced(
        tmp_path / "e.dcm",
        stored_ct[:3],
        rescales=[(1, -1024), (2, -1000), (0.5, 3)],
        positions=[6.0, 0.0, 3.0],
    )
    part = read_image(path).slice_at(1)
    write_image(part, tmp_path / "out.dcm", derivation=DERIVATION)
    ds = load(tmp_path / "out.dcm")
    assert ds.NumberOfFrames == 1
    group = ds.PerFrameFunctionalGroupsSequence[0]
    assert group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 3
    np.testing.assert_array_equal(read_image(tmp_path / "out.dcm").voxels, part.voxels)


def test_loss_of_an_ancestor_is_never_forgotten(tmp_path, phantom, stored_ct, bundled):
    def lossy(ds, k):
        ds.LossyImageCompression = "01"

    image = read_image(phantom.series(tmp_path, stored_ct[:1], edit=lossy)[0])
    write_image(image, tmp_path / "a.dcm", derivation=DERIVATION)
    assert load(tmp_path / "a.dcm").LossyImageCompression == "01"
    with pytest.warns(ImageWarning, match="missing"):
        near = read_image(bundled("JPEGLSNearLossless_08.dcm"), modality=Modality.MR)
    write_image(near, tmp_path / "b.dcm", derivation=DERIVATION)
    assert load(tmp_path / "b.dcm").LossyImageCompression == "01"


def test_stale_elements_of_the_old_pixels_are_dropped(tmp_path, phantom, stored_ct):
    def stale(ds, k):
        ds.IconImageSequence = [pydicom.Dataset()]
        ds.add_new("SmallestImagePixelValue", "US", 0)
        ds.add_new("LargestImagePixelValue", "US", 9)
        ds.add_new("SOPInstanceUID", "UI", "../../etc/x")
        ds.SeriesNumber = 2**31 - 1
        ds.add_new("SeriesDescription", "LO", "x" * 64)

    image = read_image(phantom.series(tmp_path, stored_ct[:1], edit=stale)[0])
    write_image(image, tmp_path / "out.dcm", derivation=DERIVATION)
    ds = load(tmp_path / "out.dcm")
    assert "IconImageSequence" not in ds
    assert "SourceImageSequence" not in ds  # there is no valid UID to refer to
    assert ds.LargestImagePixelValue == stored_ct[0].max()
    assert ds.SeriesNumber == 1
    assert len(ds.SeriesDescription) == 64
