"""PET activity concentration -> standardized uptake value by body weight."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydicom import Dataset

from medq_uni.errors import MedQError

MAX_DELAY_S = 24 * 3600.0
"""Longest plausible time from injection to scan; beyond it, dates were altered."""


class NoSuv(MedQError):  # noqa: N818
    """SUV cannot be computed; the message names the tag that is missing or implausible."""


def suv_factor(headers: tuple[Dataset, ...]) -> float:
    """Return the factor from Bq/ml to SUV (g/ml), the same for the whole series.

        SUV = C * weight / dose_at_reference,  dose_at_reference = dose * 2 ** (-delay / half_life)

    The delay is zero where values are decay corrected to the injection (DecayCorrection ADMIN), and
    runs from the injection to the start of the series for START (DICOM PS3.3 C.8.9.1.1.4). The
    start is SeriesTime, or the earliest AcquisitionTime where SeriesTime is later, which means that
    the series was made by post-processing (QIBA FDG-PET profile, vendor-neutral SUV).

    Args:
        headers: Headers of the slices of one series whose Units are BQML.

    Raises:
        NoSuv: If a tag is missing or implausible, or the decay correction is another.
    """
    header = headers[0]
    drug = (header.get("RadiopharmaceuticalInformationSequence") or [None])[0]
    if drug is None:
        raise NoSuv("RadiopharmaceuticalInformationSequence is missing")
    weight_g = _positive(header, "PatientWeight") * 1000.0
    dose = _positive(drug, "RadionuclideTotalDose")
    correction = str(header.get("DecayCorrection", ""))
    if correction == "ADMIN":
        return weight_g / dose
    if correction != "START":
        raise NoSuv("DecayCorrection is neither START nor ADMIN")
    delay = _delay_s(drug, headers)
    left: float = 2.0 ** (-delay / _positive(drug, "RadionuclideHalfLife"))
    return weight_g / (dose * left)


def _positive(header: Dataset, keyword: str) -> float:
    try:
        value = float(header.get(keyword))
    except (TypeError, ValueError):
        raise NoSuv(f"{keyword} is missing") from None
    if not 0.0 < value < float("inf"):
        raise NoSuv(f"{keyword} is not a positive number")
    return value


def _clock(text: object) -> datetime | None:
    """Return a DICOM DT (or DA and TM joined) as a time; the zone is dropped, as TM has none."""
    digits = str(text or "").split("&")[0].split("+")[0].split("-")[0].strip()
    whole, _, fraction = digits.partition(".")
    try:
        moment = datetime.strptime(whole[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
        return moment + timedelta(seconds=float(f"0.{fraction or 0}"))
    except ValueError:
        return None


def _at(header: Dataset, date: str, time: str) -> datetime | None:
    day, clock = header.get(date), header.get(time)
    return _clock(f"{day}{clock}") if day and clock else None


def _delay_s(drug: Dataset, headers: tuple[Dataset, ...]) -> float:
    series = _at(headers[0], "SeriesDate", "SeriesTime")
    acquired = [t for t in (_at(h, "AcquisitionDate", "AcquisitionTime") for h in headers) if t is not None]
    known = [t for t in (series, min(acquired, default=None)) if t is not None]
    if not known:
        raise NoSuv("SeriesTime and AcquisitionTime are missing")
    start = min(known)
    injected = _clock(drug.get("RadiopharmaceuticalStartDateTime"))
    if injected is not None and 0.0 <= (start - injected).total_seconds() <= MAX_DELAY_S:
        return (start - injected).total_seconds()
    time = drug.get("RadiopharmaceuticalStartTime")
    # without a usable date the injection was on the day of the scan, or before midnight
    injected = _clock(f"{start:%Y%m%d}{time}") if time else None
    if injected is None:
        raise NoSuv("RadiopharmaceuticalStartTime is missing")
    delay = (start - injected).total_seconds()
    return delay if delay >= 0.0 else delay + 24 * 3600.0
