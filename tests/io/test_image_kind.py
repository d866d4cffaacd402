from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from medq_uni.errors import ImageWarning, UnreadableImage
from medq_uni.image import Units
from medq_uni.io.discover import find_images
from medq_uni.io.read_write import read_image
from medq_uni.preprocess import CannotAssess, assessable
from medq_uni.taxonomy import Modality

STORED = np.arange(1600, dtype=np.uint16).reshape(1, 40, 40)


def written(tmp_path, phantom, modality="MR", *, rescale=None, stored=STORED, **tags):
    def edit(ds, k):
        for keyword, value in tags.items():
            setattr(ds, keyword, value)

    return phantom.series(tmp_path, stored, modality=modality, rescale=rescale, edit=edit)[0]


@pytest.mark.parametrize(
    ("modality", "image_type", "said"),
    [
        ("MR", ["ORIGINAL", "PRIMARY", "P", "ND"], "phase"),
        ("MR", ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "phase"),
        ("MR", ["ORIGINAL", "PRIMARY", "R", "ND"], "real part"),
        ("MR", ["ORIGINAL", "PRIMARY", "I"], "imaginary part"),
        ("MR", ["ORIGINAL", "PRIMARY", "VELOCITY MAP"], "velocity"),
        ("MR", ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "MOSAIC"], "mosaic"),
        ("MR", ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"], "map or difference"),
        ("MR", ["DERIVED", "PRIMARY", "DIFFUSION", "FA"], "map or difference"),
        ("MR", ["DERIVED", "PRIMARY", "PERFUSION", "RELCBF"], "map or difference"),
        ("MR", ["DERIVED", "PRIMARY", "T2_STAR MAP"], "map or difference"),
        ("MR", ["DERIVED", "SECONDARY", "SUBTRACT"], "map or difference"),
        ("CT", ["DERIVED", "SECONDARY", "PERFUSION", "RCBF"], "map or difference"),
        ("CT", ["DERIVED", "SECONDARY", "AXIAL", "MTT"], "map or difference"),
        ("CT", ["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"], "localizer"),
    ],
)
def test_what_only_looks_like_an_image_is_refused_by_name(tmp_path, phantom, modality, image_type, said):
    path = written(tmp_path, phantom, modality, ImageType=image_type)
    for stated in (None, Modality(modality.lower())):  # stating the modality does not change what it is
        with pytest.raises(UnreadableImage, match=f"{path.name}: .*{said}"):
            read_image(path, modality=stated)


@pytest.mark.parametrize("image_type", [["M", "ND", "NORM"], ["M_FFE", "M", "FFE"], ["DIFFUSION", "TRACEW"], ["OTHER"]])
def test_magnitude_images_are_read(tmp_path, phantom, image_type):
    path = written(tmp_path, phantom, ImageType=["ORIGINAL", "PRIMARY", *image_type])
    np.testing.assert_array_equal(read_image(path).voxels, STORED)


def test_the_complex_component_counts_too(tmp_path, phantom):
    path = written(tmp_path, phantom, ComplexImageComponent="IMAGINARY")
    with pytest.raises(UnreadableImage, match="ComplexImageComponent says that this is the imaginary part"):
        read_image(path)


def test_frames_of_an_enhanced_object_are_asked(tmp_path, phantom):
    import pydicom

    path = phantom.enhanced(
        tmp_path / "a.dcm", STORED.repeat(2, 0), rescales=[(1, 0)] * 2, positions=[0.0, 3.0], modality="MR"
    )
    ds = pydicom.dcmread(path)
    for group, part in zip(ds.PerFrameFunctionalGroupsSequence, ("MAGNITUDE", "PHASE"), strict=True):
        item = Dataset()
        item.ComplexImageComponent = part
        group.MRImageFrameTypeSequence = [item]
    ds.save_as(path)
    with pytest.raises(UnreadableImage, match="ComplexImageComponent says that this is the phase"):
        read_image(path)


def test_raw_data_type_of_ge_is_asked(tmp_path, phantom):
    def edit(ds, k):
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", 3)

    path = phantom.series(tmp_path, STORED, modality="MR", rescale=None, edit=edit)[0]
    with pytest.raises(UnreadableImage, match="imaginary part"):
        read_image(path)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"Modality": "US"}, r"Modality is US \(ultrasound\)"),
        ({"Modality": "MG"}, "mammography"),
        ({"Modality": "ZZ"}, "Modality is unknown"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    ],
)
def test_another_modality_is_read_only_where_the_user_states_one(tmp_path, phantom, tags, said):
    path = written(tmp_path, phantom, **tags)
    with pytest.raises(UnreadableImage, match=f"{said}.*--modality"):
        read_image(path)
    assert read_image(path, modality=Modality.MR).modality is Modality.MR


def test_a_localizer_is_set_aside_by_name(tmp_path, phantom):
    phantom.series(tmp_path, STORED.repeat(3, 0), modality="MR", rescale=None)
    scout = written(
        tmp_path / "more",
        phantom,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
    )
    scout.rename(tmp_path / "scout.dcm")
    found = find_images(tmp_path)
    assert [len(item.files) for item in found] == [3]
    assert ["localizer" in reason for _, reason in found.broken] == [True]
    with pytest.warns(ImageWarning, match="left out: scout.dcm: a localizer"):
        assert read_image(tmp_path).shape == (3, 40, 40)


@pytest.mark.parametrize(
    ("rescale", "lowest", "units"),
    [
        ((1.0, 0.0), 0, Units.ARBITRARY),
        ((1.0, 0.0), -1000, Units.HU),
        ((1.0, -1024.0), 0, Units.HU),
        (None, 0, Units.ARBITRARY),
    ],
)
def test_hounsfield_units_are_believed_where_something_speaks_for_them(tmp_path, phantom, rescale, lowest, units):
    stored = STORED.astype(np.int16) + np.int16(lowest)
    path = written(tmp_path, phantom, "CT", rescale=rescale, stored=stored)
    if units is Units.HU:
        assert read_image(path).units is units
        return
    with pytest.warns(ImageWarning, match="Hounsfield"):
        image = read_image(path)
    assert image.units is units
    with pytest.raises(CannotAssess, match="not in Hounsfield units"):
        assessable(image)
