from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from medq_uni.image import Units
from medq_uni.io.read_write import read_image, write_image
from tests.io.derived import DERIVATION, load

STORED = np.arange(1, 65, dtype=np.uint16).reshape(1, 8, 8) * 17
PHILIPS_MR = "Philips MR Imaging DD 001"


def philips_value(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    """Floating point value by the formula of Philips, both forms."""
    block = ds.private_block(0x2005, PHILIPS_MR)
    by_stored = (stored - block[0x0D].value) / block[0x0E].value
    shown = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    by_shown = shown / (float(ds.RescaleSlope) * block[0x0E].value)
    np.testing.assert_allclose(by_stored, by_shown, rtol=1e-5)
    return by_stored


@pytest.mark.parametrize("intercept", [0.0, 34.0])
def test_philips_mr_values_are_the_same_after_a_new_rescale(tmp_path, phantom, intercept):
    def edit(ds, k):
        block = ds.private_block(0x2005, PHILIPS_MR, create=True)
        block.add_new(0x0D, "FL", -intercept / 1.7)
        block.add_new(0x0E, "FL", 0.0123)

    path = phantom.series(tmp_path, STORED, modality="MR", rescale=(1.7, intercept), edit=edit)[0]
    image = read_image(path)
    write_image(image.with_voxels(image.voxels * np.float32(1.013)), tmp_path / "out.dcm", derivation=DERIVATION)
    before, after = load(path), load(tmp_path / "out.dcm")
    assert after.RescaleSlope != before.RescaleSlope
    expected = philips_value(before, before.pixel_array) * 1.013
    np.testing.assert_allclose(philips_value(after, after.pixel_array), expected, rtol=1e-3)


def test_philips_pet_counts_can_still_be_turned_into_suv(tmp_path, phantom):
    def edit(ds, k):
        phantom.pet_header(ds, k)
        ds.Units = "CNTS"
        block = ds.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", "0.000276337")
        block.add_new(0x09, "DS", "1.5")
        block.add_new(0x03, "OB", b"secret")

    image = read_image(phantom.series(tmp_path, STORED, modality="PT", rescale=(2.0, 0.0), edit=edit)[0])
    restored = image.with_voxels(image.voxels * np.float32(0.9))
    write_image(restored, tmp_path / "out.dcm", derivation=DERIVATION)
    again, ds = read_image(tmp_path / "out.dcm"), load(tmp_path / "out.dcm")
    assert again.units is Units.SUV
    np.testing.assert_allclose(again.voxels, restored.voxels, atol=1e-4)
    block = ds.private_block(0x7053, "Philips PET Private Group")
    assert (float(block[0x00].value), float(block[0x09].value)) == (0.000276337, 1.5)
    assert 0x03 not in block


def test_philips_enhanced_frames_keep_their_own_scale(tmp_path, phantom):
    path = phantom.enhanced(
        tmp_path / "e.dcm", STORED.repeat(2, 0), rescales=[(1.7, 0), (3.4, 0)], positions=[0.0, 3.0], modality="MR"
    )
    ds = pydicom.dcmread(path)
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.private_block(0x2005, PHILIPS_MR, create=True).add_new(0x0E, "FL", 0.01 * (k + 1))
        frames = group.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        frames.add_new(0x0F, "SQ", [item])
    ds.save_as(path)
    image = read_image(path)
    write_image(image.with_voxels(image.voxels * np.float32(1.013)), tmp_path / "out.dcm", derivation=DERIVATION)
    for k, group in enumerate(load(tmp_path / "out.dcm").PerFrameFunctionalGroupsSequence):
        item = group.private_block(0x2005, "Philips MR Imaging DD 005")[0x0F].value[0]
        slope = float(group.PixelValueTransformationSequence[0].RescaleSlope)
        assert slope != 1.7 * (k + 1)
        assert item.private_block(0x2005, PHILIPS_MR)[0x0E].value * slope == pytest.approx(
            0.017 * (k + 1) ** 2, rel=1e-6
        )


def test_what_other_tools_read_from_siemens_and_ge_stays(tmp_path, phantom):
    def edit(ds, k):
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"SV10\x04\x03\x02\x01")
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 1000)
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [1000, 8, 0, 0])

    image = read_image(phantom.series(tmp_path, STORED, modality="MR", rescale=None, edit=edit)[0])
    write_image(image, tmp_path / "out.dcm", derivation=DERIVATION)
    ds = load(tmp_path / "out.dcm")
    assert ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value == b"SV10\x04\x03\x02\x01"
    assert ds.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 1000
    assert list(ds.private_block(0x0043, "GEMS_PARM_01")[0x39].value) == [1000, 8, 0, 0]
    assert phantom.canary not in str([element for element in ds if element.tag.is_private])
