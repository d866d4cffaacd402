from __future__ import annotations

import math

import numpy as np
import pytest
from pydicom import Dataset

from medq_uni.errors import ImageWarning
from medq_uni.image import Units
from medq_uni.io.read_write import read_image

STORED = np.array([[[0, 100], [2000, 30000]]], np.int16)
PLAIN = 80_000 / 370e6


def factor_of(tmp_path, phantom, change) -> float:
    def edit(ds, k):
        phantom.pet_header(ds, k)
        change(ds, ds.RadiopharmaceuticalInformationSequence[0])

    path = phantom.series(tmp_path, STORED, modality="PT", rescale=(2.0, 0.0), edit=edit)[0]
    image = read_image(path)
    assert image.units is Units.SUV
    return float(image.voxels.max()) / 60000.0


def test_suv_follows_the_formula_for_start(tmp_path, phantom):
    expected = PLAIN * math.pow(2, 3600 / 6586.2)
    assert factor_of(tmp_path, phantom, lambda ds, drug: None) == pytest.approx(expected, rel=1e-6)


def test_suv_for_admin_needs_no_decay(tmp_path, phantom):
    def admin(ds, drug):
        ds.DecayCorrection = "ADMIN"
        del drug.RadionuclideHalfLife

    assert factor_of(tmp_path, phantom, admin) == pytest.approx(PLAIN, rel=1e-6)


def test_series_time_after_acquisition_means_postprocessing(tmp_path, phantom):
    def late(ds, drug):
        ds.SeriesTime = "180000"

    assert factor_of(tmp_path, phantom, late) == pytest.approx(PLAIN * 2 ** (3600 / 6586.2), rel=1e-6)


def test_injection_before_midnight_counts(tmp_path, phantom):
    def night(ds, drug):
        ds.SeriesTime = ds.AcquisitionTime = "003000"
        drug.RadiopharmaceuticalStartTime = "233000.000000"

    assert factor_of(tmp_path, phantom, night) == pytest.approx(PLAIN * 2 ** (3600 / 6586.2), rel=1e-6)


def test_start_datetime_is_preferred_unless_its_date_was_altered(tmp_path, phantom):
    def good(ds, drug):
        drug.RadiopharmaceuticalStartDateTime = "20260101100000"

    def altered(ds, drug):
        drug.RadiopharmaceuticalStartDateTime = "19600101100000"

    assert factor_of(tmp_path / "a", phantom, good) == pytest.approx(PLAIN * 2 ** (7200 / 6586.2), rel=1e-6)
    assert factor_of(tmp_path / "b", phantom, altered) == pytest.approx(PLAIN * 2 ** (3600 / 6586.2), rel=1e-6)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientWeight", None),
        ("PatientWeight", 0),
        ("RadionuclideTotalDose", None),
        ("RadionuclideHalfLife", None),
        ("RadiopharmaceuticalStartTime", None),
        ("DecayCorrection", "NONE"),
    ],
)
def test_activity_stays_where_suv_cannot_be_computed(tmp_path, phantom, keyword, value):
    def edit(ds, k):
        phantom.pet_header(ds, k)
        drug = ds.RadiopharmaceuticalInformationSequence[0]
        holder = drug if keyword in drug else ds
        if value is None:
            del holder[keyword]
        else:
            setattr(holder, keyword, value)

    path = phantom.series(tmp_path, STORED, modality="PT", rescale=(2.0, 0.0), edit=edit)[0]
    with pytest.warns(ImageWarning, match=keyword):
        image = read_image(path)
    assert image.units is Units.BQML
    np.testing.assert_array_equal(image.voxels, STORED.astype(np.float32) * 2)


def test_gml_is_suv_already_and_counts_are_arbitrary(tmp_path, phantom):
    def units(word):
        return lambda ds, k: setattr(ds, "Units", word)

    gml = phantom.series(tmp_path / "a", STORED, modality="PT", rescale=(0.001, 0.0), edit=units("GML"))[0]
    counts = phantom.series(tmp_path / "b", STORED, modality="PT", rescale=(1.0, 0.0), edit=units("CNTS"))[0]
    assert read_image(gml).units is Units.SUV
    with pytest.warns(ImageWarning, match="neither BQML nor GML"):
        assert read_image(counts).units is Units.ARBITRARY


def disc(bqml: float = 5000.0) -> np.ndarray:
    """Integers (1, 40, 40) of a disc at half its maximum, with a hot spot; slope 2 gives ``bqml``."""
    y, x = np.mgrid[:40, :40]
    stored = np.where(np.hypot(x - 20, y - 20) < 14, bqml / 4, 0.0)
    stored[18:22, 18:22] = bqml / 2
    return stored[None].astype(np.uint16)


def read_pet(tmp_path, phantom, change, stored=STORED, slices=None):
    def edit(ds, k):
        phantom.pet_header(ds, k)
        ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        drug = ds.RadiopharmaceuticalInformationSequence[0]
        change(ds, drug, k) if slices else change(ds, drug)

    pixels = np.repeat(stored, slices or 1, axis=0)
    paths = phantom.series(tmp_path, pixels, modality="PT", rescale=(2.0, 0.0), edit=edit)
    return read_image(tmp_path if slices else paths[0])


def factors(image) -> list[float]:
    return [frame.rescale.factor for frame in image.source.frames]


def dated(drug, moment: str, half_life: float) -> None:
    drug.RadiopharmaceuticalStartDateTime, drug.RadionuclideHalfLife = moment, half_life
    del drug.RadiopharmaceuticalStartTime


@pytest.mark.parametrize(
    ("moment", "half_life", "delay"),
    [
        ("20260101120030", 6586.2, -30),  # a dynamic scan begins before the injection
        ("20260101120020.500", 76.4, -20.5),
        ("20260101115500", 122.24, 300),
        ("20251227120000", 282240.0, 5 * 86400),  # days after the injection
        ("20251231100000", 45723.6, 26 * 3600),
        ("20251228110000", 360806.0, 97 * 3600),
        ("20251231120000", 230580.0, 86400),
        ("202601011000", 6586.2, 7200),
    ],
)
def test_start_datetime_alone_tells_the_delay_with_its_sign(tmp_path, phantom, moment, half_life, delay):
    found = factors(read_pet(tmp_path, phantom, lambda ds, drug: dated(drug, moment, half_life)))
    assert found == pytest.approx([PLAIN * 2 ** (delay / half_life)], rel=1e-9)


@pytest.mark.parametrize(
    ("moment", "zone", "clock", "delay"),
    [
        ("20260101100000+0000", "+0100", None, 3600),
        ("20260101060000.00-0500", "+0000", None, 3600),
        ("20260101110000", "+0100", None, 3600),
        ("20260101110000+0100", None, "110000", 3600),
        ("20260101023000+0000", None, "103000", 5400),
    ],
)
def test_a_time_zone_counts(tmp_path, phantom, moment, zone, clock, delay):
    def change(ds, drug):
        dated(drug, moment, 6586.2)
        if zone:
            ds.TimezoneOffsetFromUTC = zone
        if clock:
            drug.RadiopharmaceuticalStartTime = clock

    found = factors(read_pet(tmp_path, phantom, change))
    assert found == pytest.approx([PLAIN * 2 ** (delay / 6586.2)], rel=1e-9)


def test_a_scan_that_begins_just_before_midnight_and_the_injection(tmp_path, phantom):
    def change(ds, drug):
        ds.SeriesTime = ds.AcquisitionTime = "235950"
        drug.RadiopharmaceuticalStartTime = "000020"

    assert factors(read_pet(tmp_path, phantom, change)) == pytest.approx([PLAIN * 2 ** (-30 / 6586.2)], rel=1e-9)


def test_a_reprocessed_series_goes_back_to_the_start_that_its_frames_count_from(tmp_path, phantom):
    def change(ds, drug, k):
        ds.SeriesDate, ds.SeriesTime = "20260102", "090000"
        ds.AcquisitionTime = f"12{5 * k + 10:02d}00"  # beds of five minutes, the first two are not in this folder
        ds.ActualFrameDuration, ds.FrameReferenceTime = 300_000, 600_000 + 300_000 * k + 149_212.0

    decay = math.log(2) / 6586.2
    inside = math.log(300 * decay / (1 - math.exp(-300 * decay))) / decay
    delay = 3600 + inside - 149.212
    found = factors(read_pet(tmp_path, phantom, change, slices=3))
    assert found == pytest.approx([PLAIN * 2 ** (delay / 6586.2)] * 3, rel=1e-9)


def test_a_reprocessed_ge_series_has_its_scan_time_in_a_private_element(tmp_path, phantom):
    def change(ds, drug):
        ds.SeriesTime, ds.AcquisitionTime = "180000", "121500"
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20260101120000.00")

    assert factors(read_pet(tmp_path, phantom, change)) == pytest.approx([PLAIN * 2 ** (3600 / 6586.2)], rel=1e-9)


def test_without_decay_correction_every_frame_has_its_own_delay(tmp_path, phantom):
    def change(ds, drug, k):
        drug.RadionuclideHalfLife, drug.RadiopharmaceuticalStartTime = 122.24, "115930"
        ds.DecayCorrection, ds.CorrectedImage = "NONE", ["ATTN", "SCAT"]
        ds.AcquisitionTime, ds.ActualFrameDuration = f"120{k}00", 60_000

    decay = math.log(2) / 122.24
    inside = math.log(60 * decay / (1 - math.exp(-60 * decay))) / decay
    expected = [PLAIN * 2 ** ((30 + 60 * k + inside) / 122.24) for k in range(2)]
    assert factors(read_pet(tmp_path, phantom, change, slices=2)) == pytest.approx(expected, rel=1e-9)


def put(keyword, value):
    def change(ds, drug):
        holder = drug if keyword.startswith("Radio") else ds
        if value is None:
            del holder[keyword]
        else:
            setattr(holder, keyword, value)

    return change


def named_nuclide(ds, drug):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-131A3", "SRT", "^68^Gallium"
    drug.RadionuclideCodeSequence = [code]


def tall(ds, drug):
    ds.PatientWeight, ds.PatientSize = 7.0, 1.75


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("RadionuclideTotalDose", 370), "RadionuclideTotalDose"),  # MBq
        (put("RadionuclideTotalDose", 370_000), "RadionuclideTotalDose"),  # kBq
        (put("RadionuclideTotalDose", 10), "RadionuclideTotalDose"),  # mCi
        (put("PatientWeight", 80_000), "PatientWeight"),  # grams
        (put("PatientWeight", 0), "PatientWeight"),
        (tall, "PatientWeight"),
        (put("RadionuclideHalfLife", 109.77), "RadionuclideHalfLife"),  # minutes
        (put("RadionuclideHalfLife", 1.83), "RadionuclideHalfLife"),  # hours
        (named_nuclide, "RadionuclideHalfLife"),
        (put("RadionuclideHalfLife", 282240.0), "RadiopharmaceuticalStartDateTime"),  # Zr-89 of which day?
        (lambda ds, drug: dated(drug, "20260101140000", 6586.2), "RadiopharmaceuticalStartDateTime"),
        (lambda ds, drug: dated(drug, "20251225110000", 6586.2), "RadiopharmaceuticalStartDateTime"),
        (lambda ds, drug: dated(drug, "20260101080000+0000", 6586.2), "TimezoneOffsetFromUTC"),
        (lambda ds, drug: dated(drug, "20260101", 6586.2), "RadiopharmaceuticalStartTime"),
        (put("CorrectedImage", ["DECY", "SCAT"]), "CorrectedImage"),
        (put("CorrectedImage", ["ATTN", "SCAT"]), "CorrectedImage"),
        (put("DecayCorrection", "NONE"), "CorrectedImage"),
    ],
)
def test_activity_stays_where_the_header_is_not_plausible(tmp_path, phantom, change, named):
    with pytest.warns(ImageWarning, match=f"values stay Bq/ml: .*{named}"):
        image = read_pet(tmp_path, phantom, change)
    assert image.units is Units.BQML
    np.testing.assert_array_equal(image.voxels, STORED.astype(np.float32) * 2)


def test_no_injection_lies_after_the_last_frame(tmp_path, phantom):
    def change(ds, drug):
        dated(drug, "20260101123000", 6586.2)
        ds.ActualFrameDuration = 600_000

    with pytest.warns(ImageWarning, match="RadiopharmaceuticalStartDateTime"):
        assert read_pet(tmp_path, phantom, change).units is Units.BQML


@pytest.mark.parametrize("bqml", [20.0, 60_000.0])
def test_an_suv_that_nobody_has_is_not_believed(tmp_path, phantom, bqml):
    def change(ds, drug):
        ds.RescaleSlope = 2.0 if bqml < 100 else 200.0

    with pytest.warns(ImageWarning, match="SUV that results"):
        image = read_pet(tmp_path, phantom, change, disc(bqml))
    assert image.units is Units.BQML
    assert image.voxels.max() == pytest.approx(bqml if bqml < 100 else 100 * bqml)


def test_a_mouse_is_not_a_man(tmp_path, phantom):
    def change(ds, drug):
        ds.PatientWeight, drug.RadionuclideTotalDose = 0.025, 8e6
        ds.PatientSpeciesDescription = "Mus musculus"

    found = factors(read_pet(tmp_path, phantom, change))
    assert found == pytest.approx([25 / 8e6 * 2 ** (3600 / 6586.2)], rel=1e-9)


def philips(ds, *, suv=None, activity=None):
    ds.Units = "CNTS"
    block = ds.private_block(0x7053, "Philips PET Private Group", create=True)
    for element, value in ((0x00, suv), (0x09, activity)):
        if value is not None:
            block.add_new(element, "DS", value)


def test_counts_of_philips_have_private_factors(tmp_path, phantom):
    by_suv = read_pet(tmp_path / "a", phantom, lambda ds, drug: philips(ds, suv=0.000412, activity=2.5))
    assert by_suv.units is Units.SUV
    np.testing.assert_allclose(by_suv.voxels, STORED * 0.000824, rtol=1e-6)
    by_activity = read_pet(tmp_path / "b", phantom, lambda ds, drug: philips(ds, suv=0, activity=0.5))
    assert by_activity.units is Units.SUV
    assert factors(by_activity) == pytest.approx([0.5 * PLAIN * 2 ** (3600 / 6586.2)], rel=1e-9)


def test_counts_of_philips_stay_activity_without_a_dose(tmp_path, phantom):
    def change(ds, drug):
        philips(ds, activity=0.5)
        del drug.RadionuclideTotalDose

    with pytest.warns(ImageWarning, match="RadionuclideTotalDose"):
        image = read_pet(tmp_path, phantom, change)
    assert image.units is Units.BQML
    np.testing.assert_array_equal(image.voxels, STORED.astype(np.float32))


def test_gml_of_lean_body_mass_is_no_suv_by_weight(tmp_path, phantom):
    def change(ds, drug):
        ds.Units, ds.SUVType = "GML", "LBM"

    with pytest.warns(ImageWarning, match="SUVType"):
        assert read_pet(tmp_path, phantom, change).units is Units.ARBITRARY
