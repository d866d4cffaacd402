"""When the tracer of a PET scan was injected, and to which moment the values of an image belong.

Times are those of the scanner's clock. A DICOM DT may carry a time zone of its own; TimezoneOffsetFromUTC is that of
all other dates and times of the object (PS3.3 C.12.1.1.8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydicom import Dataset

from medq_uni.errors import MedQError

MAX_HALF_LIVES = 10.0
"""Longest plausible time from injection to scan: a thousandth of the dose is left."""
MAX_EARLY_S, MAX_EARLY_HALF_LIVES = 3600.0, 3.0
"""How long before the injection a scan may begin (a dynamic scan, clocks apart); the smaller counts."""
MAX_UNDATED_HALF_LIFE_S = 6 * 3600.0
"""Longest half-life at which a time of day alone tells when the injection was: a day more would leave too little."""
MAX_SPREAD_S = 60.0
"""By how much the scan starts that follow from the images of one series may differ."""
DAY = timedelta(days=1)
FORM = re.compile(r"(\d{8})(\d{4}|\d{6})(\.\d{1,6})?\s*([+-]\d{4})?")


class NoSuv(MedQError):  # noqa: N818
    """SUV cannot be computed; the message names the tag that is missing or implausible."""


def number(header: Dataset, keyword: str) -> float | None:
    """Return a finite number, None where there is none."""
    try:
        value = float(header.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def scan_start(headers: Sequence[Dataset], half_life_s: float) -> datetime:
    """Return the moment to which the values of a series are decay corrected where DecayCorrection is START.

    It is DecayCorrectionDateTime where stated; else the start of the series (PS3.3 C.8.9.1.1.4). A SeriesTime after the
    AcquisitionTime of an image means that the series was made by post-processing. Then the start is the scan time
    that GE keeps in a private element, or follows from the FrameReferenceTime of the images, else it is the
    earliest AcquisitionTime (QIBA FDG-PET profile, vendor-neutral SUV).

    Raises:
        NoSuv: If no time is known.
    """
    stated = _local(headers[0].get("DecayCorrectionDateTime"), headers[0])
    if stated is not None:
        return stated
    series = _at(headers[0], "Series")
    acquired = [moment for header in headers if (moment := _acquired(header)) is not None]
    first = min(acquired, default=None)
    if series is None and first is None:
        raise NoSuv("SeriesTime and AcquisitionTime are missing")
    if series is not None and (first is None or series <= first):
        return series
    assert first is not None
    return _ge_start(headers[0]) or _start_by_frames(headers, half_life_s) or first


def frame_moment(header: Dataset, half_life_s: float) -> datetime:
    """Return the moment at which the activity was what it is on average over the frame of an image.

    Raises:
        NoSuv: If the start of the frame or its length is not known.
    """
    begun, duration = _acquired(header), number(header, "ActualFrameDuration")
    if begun is None:
        raise NoSuv("DecayCorrection is NONE, and AcquisitionTime is missing")
    if duration is None or duration <= 0:
        raise NoSuv("DecayCorrection is NONE, and ActualFrameDuration is missing")
    return begun + timedelta(seconds=_mean_time_s(duration / 1000.0, half_life_s))


def scan_end(headers: Sequence[Dataset]) -> datetime | None:
    """Return when the last frame ended, None where an image does not say."""
    ends = []
    for header in headers:
        begun, duration = _acquired(header), number(header, "ActualFrameDuration")
        if begun is None or duration is None or duration <= 0:
            return None
        ends.append(begun + timedelta(milliseconds=duration))
    return max(ends)


def delay_s(drug: Dataset, header: Dataset, moment: datetime, half_life_s: float, end: datetime | None) -> float:
    """Return the time from the injection to a moment of the scan; negative where the scan began first.

    RadiopharmaceuticalStartDateTime counts where it is plausible. Without it the injection was at
    RadiopharmaceuticalStartTime, within the day before the scan; for nuclides that are imaged for days that is unknown.

    Args:
        drug: Item of the RadiopharmaceuticalInformationSequence.
        header: Of the image.
        moment: To which the values belong, on the clock of the scanner.
        half_life_s: Of the nuclide.
        end: When the last frame ended, if that is known; no injection is later.

    Raises:
        NoSuv: If the injection time is missing, or not plausible.
    """
    early_s = min(MAX_EARLY_S, MAX_EARLY_HALF_LIVES * half_life_s)
    late_s = MAX_HALF_LIVES * half_life_s

    def is_plausible(delay: float) -> bool:
        is_over = end is not None and moment - timedelta(seconds=delay) > end
        return -early_s <= delay <= late_s and not is_over

    dated, clock = _injected(drug, header), drug.get("RadiopharmaceuticalStartTime")
    if dated is not None and is_plausible((moment - dated).total_seconds()):
        return (moment - dated).total_seconds()
    undated = _parse(f"{moment:%Y%m%d}{clock}") if clock else None
    if undated is None:
        if dated is None:
            raise NoSuv("RadiopharmaceuticalStartTime and RadiopharmaceuticalStartDateTime are missing")
        raise NoSuv(_implausible("RadiopharmaceuticalStartDateTime"))
    if half_life_s > MAX_UNDATED_HALF_LIFE_S:
        raise NoSuv(
            "RadiopharmaceuticalStartDateTime is missing or implausible, and with this RadionuclideHalfLife the "
            "injection may have been on another day"
        )
    since = (moment - undated[0]).total_seconds()
    delay = (since + early_s) % DAY.total_seconds() - early_s
    if not is_plausible(delay):
        raise NoSuv(_implausible("RadiopharmaceuticalStartTime"))
    return delay


def _implausible(keyword: str) -> str:
    return (
        f"{keyword} is not plausible: the injection lies after the scan, or more than {MAX_HALF_LIVES:.0f} times "
        "RadionuclideHalfLife before it"
    )


def _mean_time_s(duration_s: float, half_life_s: float) -> float:
    """Return when, after the start of a frame, the activity equals its mean over the frame."""
    decay = math.log(2.0) / half_life_s
    exponent = decay * duration_s
    return duration_s / 2 if exponent < 1e-6 else math.log(exponent / -math.expm1(-exponent)) / decay


def _start_by_frames(headers: Sequence[Dataset], half_life_s: float) -> datetime | None:
    """Return the start from which FrameReferenceTime counts, None where the images do not agree on one."""
    starts = []
    for header in headers:
        begun, duration = _acquired(header), number(header, "ActualFrameDuration")
        offset = number(header, "FrameReferenceTime")
        if begun is None or not duration or not offset or duration <= 0 or offset <= 0:
            return None
        inside = timedelta(seconds=_mean_time_s(duration / 1000.0, half_life_s))
        starts.append(begun + inside - timedelta(milliseconds=offset))
        if starts[-1] > begun + timedelta(seconds=MAX_SPREAD_S):  # it counts from somewhere within the frame
            return None
    return min(starts) if (max(starts) - min(starts)).total_seconds() <= MAX_SPREAD_S else None


def _ge_start(header: Dataset) -> datetime | None:
    try:
        return _local(header.private_block(0x0009, "GEMS_PETD_01")[0x0D].value, header)
    except KeyError:
        return None


def _injected(drug: Dataset, header: Dataset) -> datetime | None:
    """Return RadiopharmaceuticalStartDateTime on the clock of the scanner, None where there is none."""
    found = _parse(drug.get("RadiopharmaceuticalStartDateTime"))
    if found is None:
        return None
    if found[1] is None or _zone(header) is not None:
        return _local(drug.get("RadiopharmaceuticalStartDateTime"), header)
    # a zone, but not that of the other times; the time of day without one is on the clock of the scanner
    clock = drug.get("RadiopharmaceuticalStartTime")
    undated = _parse(f"{found[0]:%Y%m%d}{clock}") if clock else None
    if undated is None:
        raise NoSuv(
            "RadiopharmaceuticalStartDateTime has a time zone, but TimezoneOffsetFromUTC, the zone of the other times, "
            "is missing"
        )
    return min((undated[0] + k * DAY for k in (-1, 0, 1)), key=lambda moment: abs(moment - found[0]))


def _acquired(header: Dataset) -> datetime | None:
    return _at(header, "Acquisition") or _local(header.get("AcquisitionDateTime"), header)


def _at(header: Dataset, what: str) -> datetime | None:
    """Return the moment of SeriesDate and SeriesTime, or of AcquisitionDate and AcquisitionTime."""
    clock = header.get(f"{what}Time")
    days = (header.get(keyword) for keyword in (f"{what}Date", "SeriesDate", "AcquisitionDate", "StudyDate"))
    day = next((day for day in days if day), None)
    return _local(f"{day}{clock}", header) if day and clock else None


def _local(text: object, header: Dataset) -> datetime | None:
    """Return a DICOM DT on the clock of the scanner."""
    found, zone = _parse(text), _zone(header)
    if found is None:
        return None
    moment, own = found
    return moment if own is None or zone is None else moment + zone - own


def _zone(header: Dataset) -> timedelta | None:
    return _offset(str(header.get("TimezoneOffsetFromUTC", "") or "").strip())


def _offset(text: str) -> timedelta | None:
    if re.fullmatch(r"[+-]\d{4}", text) is None:
        return None
    span = timedelta(hours=int(text[1:3]), minutes=int(text[3:]))
    return -span if text[0] == "-" else span


def _parse(text: object) -> tuple[datetime, timedelta | None] | None:
    """Return a DICOM DT (or DA and TM joined) with the zone that it states; None unless it says the minute."""
    # ACR-NEMA wrote 2026.01.10 and 11:00:00
    plain = re.sub(r"^(\d{4})\.(\d\d)\.(\d\d)", r"\1\2\3", str(text or "").strip()).replace(":", "")
    found = FORM.fullmatch(plain)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.strptime(day + clock.ljust(6, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + timedelta(seconds=float(fraction or 0)), _offset(zone or "")
