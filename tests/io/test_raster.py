from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medq_uni.errors import UnreadableImage, UnwritableImage
from medq_uni.image import Units
from medq_uni.io.provenance import Derivation
from medq_uni.io.read_write import read_image, write_image
from medq_uni.taxonomy import Modality


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=st.sampled_from(
        [
            ("a.png", "uint8"),
            ("a.png", "uint16"),
            *[("a.tif", t) for t in ("uint8", "uint16", "int16", "float32")],
        ]
    ),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**32 - 1),
)
def test_unchanged_raster_comes_back_with_its_depth(tmp_path_factory, case, shape, seed):
    name, dtype = case
    root = tmp_path_factory.mktemp("raster")
    limits = (0, 1e6) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pixels = np.random.default_rng(seed).uniform(*limits, shape).astype(dtype)
    if name.endswith("png"):
        Image.fromarray(pixels).save(root / name)
    else:
        tifffile.imwrite(root / name, pixels, photometric="minisblack")
    image = read_image(root / name)
    assert image.shape == (1, *shape)
    np.testing.assert_array_equal(image.voxels[0], pixels.astype(np.float32))
    write_image(image, root / f"out-{name}")
    again = (
        np.asarray(Image.open(root / f"out-{name}")) if name.endswith("png") else tifffile.imread(root / f"out-{name}")
    )
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.reshape(shape), pixels)


def test_restored_values_are_rounded_and_clipped_to_the_depth(tmp_path):
    Image.fromarray(np.array([[0, 100, 250]], np.uint8)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    write_image(image.with_voxels(np.array([[[-3.0, 100.6, 999.0]]])), tmp_path / "b.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), [[0, 101, 255]])


def test_pages_of_a_tiff_are_slices(tmp_path):
    pixels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.voxels, pixels)
    write_image(image, tmp_path / "b.tiff")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tiff"), pixels)


def test_white_is_zero_tiff_reads_bright_as_high(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 255]], np.uint8), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").voxels, [[[255, 0]]])


def test_color_with_equal_channels_is_gray(tmp_path):
    gray = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(gray).convert("P").save(tmp_path / "b.png")
    Image.fromarray(gray).convert("LA").save(tmp_path / "c.png")
    tifffile.imwrite(tmp_path / "d.tif", np.stack([gray] * 3, axis=-1), photometric="rgb")
    for name in ("a.png", "b.png", "c.png", "d.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name).voxels, gray[None])


def test_camera_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (1, 4, 9)


def test_tiff_of_other_types_colors_or_sizes_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "a.tif", rng.random((4, 4)))
    tifffile.imwrite(tmp_path / "b.tif", rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        file.write(np.zeros((4, 4), np.uint8))
        file.write(np.zeros((4, 5), np.uint8))
    tifffile.imwrite(tmp_path / "d.tif", np.full((4, 4), np.nan, np.float32))
    for name, match in (
        ("a", "needs|must be"),
        ("b", "colors differ"),
        ("c", "pages differ"),
        ("d", "16 voxels are NaN"),
    ):
        with pytest.raises(UnreadableImage, match=match):
            read_image(tmp_path / f"{name}.tif")


def test_ct_goes_through_png_exactly_at_whole_hounsfield_units(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path / "in", stored_ct[:1])[0])
    write_image(image, tmp_path / "a.png", derivation=Derivation())
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).dtype == np.uint16
        assert "not for diagnostic use" in picture.info["Description"].lower()
    again = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(again.voxels, image.voxels)
    assert (again.units, again.modality) == (Units.HU, Modality.CT)


def test_other_values_go_through_png_at_sixteen_bits(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path / "in", stored_ct[:1], modality="MR", rescale=(0.37, -5))[0])
    write_image(image, tmp_path / "a.png")
    again = read_image(tmp_path / "a.png")
    span = float(np.ptp(image.voxels))
    np.testing.assert_allclose(again.voxels, image.voxels, atol=0.51 * span / 65535)
    write_image(again, tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").voxels, again.voxels)


def test_constant_image_goes_through_png(tmp_path, phantom):
    stored = np.full((1, 3, 3), 7, np.uint16)
    image = read_image(phantom.series(tmp_path / "in", stored, modality="MR", rescale=None)[0])
    write_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").voxels, image.voxels)


def test_volume_goes_through_tiff_as_float32(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct, rescale=(0.37, -1000.5))
    image = read_image(tmp_path / "in")
    write_image(image, tmp_path / "a.tif")
    again = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.voxels, image.voxels)
    assert (again.units, again.modality) == (Units.HU, Modality.CT)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"medq": {"slope": 0, "intercept": 0}}', '{"medq": {"slope": "nan"}}', "[" * 9999]
)
def test_foreign_notes_in_a_png_change_nothing(tmp_path, text):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("medq", text)
    Image.fromarray(np.array([[1, 2]], np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.voxels, [[[1, 2]]])
    assert image.units is Units.ARBITRARY


def test_several_slices_do_not_fit_a_png(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    with pytest.raises(UnwritableImage, match="one slice, this image has 4"):
        write_image(read_image(tmp_path / "in"), tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["imagej", "ome", "plain", "contiguous"])
def test_every_slice_of_a_stack_is_read(tmp_path, kind):
    import tifffile

    stack = np.arange(6 * 20 * 24, dtype=np.uint16).reshape(6, 20, 24)
    path = tmp_path / "a.tif"
    options = {
        "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
        "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
        "plain": {},
        "contiguous": {"truncate": True},
    }
    tifffile.imwrite(path, stack, photometric="minisblack", **options[kind])
    if kind == "imagej":  # as ImageJ writes large stacks: one directory, the other slices follow its pixels
        with tifffile.TiffWriter(path, imagej=True) as writer:
            writer.write(stack, truncate=True, metadata={"axes": "ZYX"})
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 1
    np.testing.assert_array_equal(read_image(path).voxels, stack)


def test_a_stack_that_says_more_slices_than_it_holds_is_refused(tmp_path):
    import tifffile

    path = tmp_path / "a.tif"
    said = "ImageJ=1.11a\nimages=6\nslices=6\nhyperstack=true\nmode=grayscale"
    pixels = np.arange(480, dtype=np.uint16).reshape(20, 24)
    tifffile.imwrite(path, pixels, description=said, metadata=None)
    with pytest.raises(UnreadableImage, match="says that it holds 6 slices, but 1 are there"):
        read_image(path)
