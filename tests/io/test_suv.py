from __future__ import annotations

import math

import numpy as np
import pytest

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
