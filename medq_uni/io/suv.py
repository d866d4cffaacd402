"""PET activity concentration -> standardized uptake value by body weight, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medq_uni.image import Units
from medq_uni.io.pet_times import NoSuv, delay_s, frame_moment, number, scan_end, scan_start

HALF_LIVES_S = {
    **{"C-10": 19.3, "C-11": 1221.8, "N-13": 597.9, "O-14": 70.6, "O-15": 122.24, "F-18": 6586.2, "Na-22": 8.211e7},
    **{"Cl-34m": 1919.0, "K-38": 458.2, "Sc-43": 14007.0, "Sc-44": 14292.0, "Ti-45": 11088.0, "Mn-51": 2772.0},
    **{"Mn-52": 483062.0, "Mn-52m": 1266.0, "Fe-52": 29790.0, "Co-55": 63108.0, "Cu-60": 1422.0, "Cu-61": 12006.0},
    **{"Cu-62": 580.2, "Cu-64": 45723.6, "Zn-62": 33094.0, "Zn-63": 2308.0, "Ga-66": 34164.0, "Ga-68": 4062.6},
    **{"Ge-68": 2.3411e7, "As-72": 93600.0, "As-74": 1.535e6, "Br-75": 5802.0, "Br-76": 58320.0, "Rb-82": 75.5},
    **{"Rb-82m": 23299.0, "Y-86": 53064.0, "Y-90": 230580.0, "Zr-89": 282240.0, "Nb-90": 52560.0, "Tc-94m": 3120.0},
    **{"In-110m": 4146.0, "I-120": 4896.0, "I-124": 360806.0, "Tb-149": 14832.0, "Tb-152": 63000.0, "Sr-83": 116676.0},
}
"""Half-lives of positron emitters, in seconds."""
HALF_LIFE_TOLERANCE = 0.03
HUMAN_WEIGHT_KG, ANIMAL_WEIGHT_KG = (1.0, 400.0), (0.01, 1000.0)
HUMAN_DOSE_BQ_PER_KG, ANIMAL_DOSE_BQ_PER_KG = (5e4, 2e8), (5e4, 5e9)
"""From a hundredth of a usual dose to that of a therapy with Y-90; mice are given far more."""
BODY_MASS_INDEX = (6.0, 120.0)
"""Plausible weight over the square of the height, in kg/m2."""
MAX_COMMON_SUV, MIN_PEAK_SUV = 200.0, 0.01
"""Most that the 99th percentile of a volume, and least that its maximum, may be."""
MIN_JUDGED_VOXELS = 1000
"""The values of smaller images say nothing about their scale."""
PHILIPS_PET = "Philips PET Private Group"
"""Creator of group 7053, which holds the factors from counts to SUV and to Bq/ml."""


class PetScale(NamedTuple):
    """What the rescaled values of a PET series are.

    Attributes:
        units: Of the values once multiplied by the factors.
        factors: One per header.
        activity: Factors to Bq/ml where ``units`` are SUV that we computed from the header; None otherwise.
        notes: What has to be said about it.
    """

    units: Units
    factors: list[float]
    activity: list[float] | None
    notes: list[str]


def pet_scale(headers: Sequence[Dataset]) -> PetScale:
    """Return units and factors of a PET series; SUV where the header allows, else Bq/ml with the reason.

    Units BQML are divided by dose per weight (see :func:`suv_factors`), GML by body weight are SUV already, and counts
    of Philips are SUV by a private factor, or Bq/ml by another.
    """
    header, ones = headers[0], [1.0] * len(headers)
    stated = str(header.get("Units", "") or "").strip()
    if stated == "GML":
        kind = str(header.get("SUVType", "") or "BW").strip()
        if kind == "BW":
            return PetScale(Units.SUV, ones, None, [])
        return PetScale(Units.ARBITRARY, ones, None, ["SUVType is not body weight (BW); values are arbitrary."])
    activity: list[float] | None = None
    if stated == "CNTS":
        factors = _philips(headers, 0x00)
        activity = _philips(headers, 0x09)
        if factors is not None:
            return PetScale(Units.SUV, factors, activity, [])
    elif stated == "BQML":
        activity = ones
    if activity is None:
        return PetScale(Units.ARBITRARY, ones, None, ["PET Units are neither BQML nor GML; values are arbitrary."])
    try:
        found = [one * own for one, own in zip(suv_factors(headers), activity, strict=True)]
    except NoSuv as reason:
        return PetScale(Units.BQML, activity, None, [f"no SUV, values stay Bq/ml: {reason}."])
    return PetScale(Units.SUV, found, activity, [])


def check_suv(values: np.ndarray) -> str | None:
    """Return why the SUV of a volume cannot be right, None where it can."""
    if values.size < MIN_JUDGED_VOXELS or float(values.max()) <= 0:
        return None
    if float(np.percentile(values, 99)) > MAX_COMMON_SUV or float(values.max()) < MIN_PEAK_SUV:
        return (
            "the SUV that results is not plausible; check RadionuclideTotalDose (in Bq), PatientWeight (in kg), "
            "RescaleSlope and Units"
        )
    return None


def suv_factors(headers: Sequence[Dataset]) -> list[float]:
    """Return the factors from Bq/ml to SUV (g/ml), one per header of a series.

        SUV = C * weight / dose_at_reference,  dose_at_reference = dose * 2 ** (-delay / half_life)

    The delay is zero where values are decay corrected to the injection (DecayCorrection ADMIN), and runs from the
    injection to the start of the series for START. It is negative where the injection came after the start, as in
    dynamic scans. Without decay correction (NONE) each image has its own delay, to the mean moment of its frame.

    Args:
        headers: Headers of the slices of one series whose values are Bq/ml.

    Raises:
        NoSuv: If a tag is missing or implausible.
    """
    header = headers[0]
    drug = (header.get("RadiopharmaceuticalInformationSequence") or [None])[0]
    if drug is None:
        raise NoSuv("RadiopharmaceuticalInformationSequence is missing")
    weight_kg, dose = _weight_kg(header), _positive(drug, "RadionuclideTotalDose")
    _check_dose(header, dose, weight_kg)
    correction = str(header.get("DecayCorrection", "") or "").strip()
    _check_corrections(header, correction)
    plain = weight_kg * 1000.0 / dose
    if correction == "ADMIN":
        return [plain] * len(headers)
    half_life = _half_life_s(drug)
    end = scan_end(headers)
    if correction == "START":
        delay = delay_s(drug, header, scan_start(headers, half_life), half_life, end)
        return [plain * 2.0 ** (delay / half_life)] * len(headers)
    delays = [delay_s(drug, one, frame_moment(one, half_life), half_life, end) for one in headers]
    return [plain * 2.0 ** (delay / half_life) for delay in delays]


def _positive(header: Dataset, keyword: str) -> float:
    value = number(header, keyword)
    if value is None:
        raise NoSuv(f"{keyword} is missing or not a number")
    if value <= 0:
        raise NoSuv(f"{keyword} is not a positive number")
    return value


def _is_animal(header: Dataset) -> bool:
    codes = header.get("PatientSpeciesCodeSequence") or []
    said = [header.get("PatientSpeciesDescription"), *(code.get("CodeMeaning") for code in codes)]
    return any(text and "sapiens" not in str(text).lower() and "human" not in str(text).lower() for text in said)


def _weight_kg(header: Dataset) -> float:
    weight = _positive(header, "PatientWeight")
    low, high = ANIMAL_WEIGHT_KG if _is_animal(header) else HUMAN_WEIGHT_KG
    if not low <= weight <= high:
        raise NoSuv("PatientWeight is not plausible; it must be in kg")
    height = number(header, "PatientSize") or 0.0
    is_stature = 0.3 <= height <= 2.6 and not _is_animal(header)
    if is_stature and not BODY_MASS_INDEX[0] <= weight / height**2 <= BODY_MASS_INDEX[1]:
        raise NoSuv("PatientWeight is not plausible for this PatientSize; they must be in kg and m")
    return weight


def _check_dose(header: Dataset, dose: float, weight_kg: float) -> None:
    low, high = ANIMAL_DOSE_BQ_PER_KG if _is_animal(header) else HUMAN_DOSE_BQ_PER_KG
    if not low <= dose / weight_kg <= high:
        raise NoSuv("RadionuclideTotalDose is not plausible for this PatientWeight; it must be in Bq, the weight in kg")


def _check_corrections(header: Dataset, correction: str) -> None:
    if correction not in ("START", "ADMIN", "NONE"):
        raise NoSuv("DecayCorrection is none of START, ADMIN and NONE")
    stated = header.get("CorrectedImage")
    done = {stated} if isinstance(stated, str) else set(stated or ())
    if not done:
        return
    if "ATTN" not in done:
        raise NoSuv("CorrectedImage does not name the correction of attenuation (ATTN)")
    if bool(done & {"DECY", "DECAY"}) == (correction == "NONE"):
        raise NoSuv("CorrectedImage and DecayCorrection contradict each other about the correction of decay")


def _half_life_s(drug: Dataset) -> float:
    """Return the half-life, if it is that of a positron emitter, and of the nuclide that the header names."""
    half_life = _positive(drug, "RadionuclideHalfLife")
    near = [name for name, known in HALF_LIVES_S.items() if abs(half_life / known - 1) <= HALF_LIFE_TOLERANCE]
    if not near:
        raise NoSuv("RadionuclideHalfLife is that of no nuclide used in PET; it must be in seconds")
    codes = drug.get("RadionuclideCodeSequence") or []
    masses = {mass for code in codes for mass in re.findall(r"\d+", str(code.get("CodeMeaning", "") or ""))}
    if masses and not any(mass in re.findall(r"\d+", name) for name in near for mass in masses):
        raise NoSuv("RadionuclideHalfLife is not that of the nuclide in RadionuclideCodeSequence")
    return half_life


def _philips(headers: Sequence[Dataset], element: int) -> list[float] | None:
    """Return a private scale factor of Philips PET per header, None where one lacks it."""
    found = []
    for header in headers:
        try:
            value = float(header.private_block(0x7053, PHILIPS_PET)[element].value)
        except (KeyError, TypeError, ValueError):
            return None
        if not 0.0 < value < float("inf"):
            return None
        found.append(value)
    return found
