"""What the safety checks found, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from medq_uni.safety import hallucination
from medq_uni.safety.lesion_survival import ERASED_CRC
from medq_uni.safety.output_cache import Measurement
from medq_uni.safety.shift import DESCRIPTION_SWAP, gain_of
from medq_uni.safety.texture import half_frequency
from medq_uni.statistics import share_interval
from medq_uni.systems.build import INPUT
from medq_uni.systems.system import PRESERVED_DB

Table = tuple[str, list[str], list[list[str]], str]
"""Title, header, rows, note."""
SHARES = (
    "In brackets after a share: its 95 % interval (Wilson 1927), as if all images were independent. Several of one "
    "subject are not, so the true intervals are wider."
)
NOTHING = "-"
TOLD = ("oracle", "predicted", "shuffled", "none")


def safety_tables(results: dict[str, Any]) -> list[Table]:
    """Return the tables of the results of :func:`medq_uni.safety.checks.run_safety`, as text.

    Where a check measures the degraded input beside every output, its rows come first, whether or not it was a system.
    """
    makers = (
        _lesions,
        _sizes,
        _hallucination,
        _bias,
        _noise,
        _edges,
        _consistency,
        _good_image_preservation,
        _calibration,
        _shift,
        _description_swap,
        _failures,
    )
    return [maker(results) for maker in makers]


def rows_of(results: dict[str, Any], check: str) -> Iterator[tuple[str, list[Measurement]]]:
    """Yield every system with its rows of a check."""
    for name, checks in results["systems"].items():
        yield name, checks[check]["rows"]


def grouped(rows: Sequence[Measurement], *keys: str) -> dict[tuple[Any, ...], list[Measurement]]:
    """Return the rows by the values of some keys, in the order of their first appearance."""
    found: dict[tuple[Any, ...], list[Measurement]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def mean_edge(rows: Sequence[Measurement], name: str) -> np.ndarray:
    """Return the mean edge-spread function of several rows; bins that are empty in all are NaN."""
    curves = np.array([[np.nan if v is None else v for v in row[name]] for row in rows])
    known = np.isfinite(curves)
    sums = np.where(known, curves, 0).sum(0)
    return np.where(known.any(0), sums / np.maximum(known.sum(0), 1), np.nan)


def _with_input(
    results: dict[str, Any], check: str, keys: Sequence[str], cells: Callable[[list[Measurement], str], list[str]]
) -> list[list[str]]:
    """Return the rows of a table, the input's before those of the systems within each group.

    Args:
        results: Of the run.
        check: Its name.
        keys: What rows are grouped by.
        cells: From the rows of a group and the suffix of their fields to the cells.
    """
    systems = list(rows_of(results, check))
    order = list(dict.fromkeys(key for _, rows in systems for key in grouped(rows, *keys)))
    table = []
    for key in order:
        groups = [(name, grouped(rows, *keys).get(key, [])) for name, rows in systems]
        fullest = max((group for _, group in groups), key=len)
        groups = [(name, group) for name, group in groups if name != INPUT]
        table.append([*map(str, key), INPUT, *cells(fullest, "_of_input")])
        table += [[*map(str, key), name, *cells(group, "")] for name, group in groups if group]
    return table


def _lesions(results: dict[str, Any]) -> Table:
    def cells(rows: list[Measurement], suffix: str) -> list[str]:
        crc = np.array([row["crc" + suffix] for row in rows])
        return [
            f"{crc.mean():.3f} +- {crc.std():.3f}",
            f"{np.median(crc):.3f}",
            _percent(crc < ERASED_CRC),
            str(len(crc)),
        ]

    return (
        "Lesion insertion and recovery",
        ["set", "task", "system", "CRC, mean +- SD", "median", "erased", "lesions"],
        _with_input(results, "lesions", ["group", "task"], cells),
        "Contrast recovery coefficient: restored over true contrast of discs put into the truth before it is degraded; "
        f"1 is full recovery. Erased: below {ERASED_CRC}. Simulated discs are not lesions.",
    )


def _sizes(results: dict[str, Any]) -> Table:
    rows = []
    systems = list(rows_of(results, "lesions"))
    for modality in dict.fromkeys(row["modality"] for _, found in systems for row in found):
        for contrast in sorted({r["contrast"] for _, found in systems for r in found if r["modality"] == modality}):
            for name, found in [(INPUT, systems[0][1]), *((n, f) for n, f in systems if n != INPUT)]:
                field = "crc_of_input" if name == INPUT else "crc"
                mine = [row for row in found if row["modality"] == modality and row["contrast"] == contrast]
                by_size = {radius: [row[field] for row in g] for (radius,), g in grouped(mine, "radius_px").items()}
                listed = "; ".join(
                    f"{radius:g} px {np.mean(by_size[radius]):.2f} ({sum(v < ERASED_CRC for v in by_size[radius])}"
                    f"/{len(by_size[radius])})"
                    for radius in sorted(by_size)
                )
                rows.append([modality, f"{contrast:g}", name, listed or NOTHING])
    return (
        "Contrast recovery by size and contrast",
        ["modality", "contrast", "system", "mean CRC by radius (erased / lesions)"],
        rows,
        "Phantoms and real slices together. Contrast in HU for CT, as a fraction of the local mean for MR and PET.",
    )


def _hallucination(results: dict[str, Any]) -> Table:
    def cells(rows: list[Measurement], suffix: str) -> list[str]:
        megapixels = sum(row["body_px"] for row in rows) / 1e6
        counts = [sum(row[name + suffix] for row in rows) for name in ("hallucinated", "erased")]
        per = [f"{count / megapixels:.0f}" if megapixels else NOTHING for count in counts]
        return [per[0], per[1], f"{counts[0]} / {counts[1]}", f"{megapixels:.2f}"]

    return (
        "Hallucination",
        [
            "set",
            "input",
            "task",
            "system",
            "hallucinated per megapixel",
            "erased per megapixel",
            "blobs",
            "megapixels of body",
        ],
        _with_input(results, "hallucination", ["group", "input", "task"], cells),
        f"Connected errors of at least {hallucination.FEWEST_PX} pixels beyond {hallucination.TIMES:g} times the local "
        "error of the input and beyond the weakest inserted lesion; erased where they take away detail of the truth. "
        "Good inputs have no error, so there the weakest lesion alone decides.",
    )


def _bias(results: dict[str, Any]) -> Table:
    rows = []
    systems = list(rows_of(results, "bias"))
    keys = ["group", "modality", "region"]
    for key in sorted({key for _, found in systems for key in grouped(found, *keys)}):
        groups = [(name, grouped(found, *keys).get(key, [])) for name, found in systems]
        fullest = max((group for _, group in groups), key=len)
        others = [(name, group, "bias") for name, group in groups if group and name != INPUT]
        shown = [(INPUT, fullest, "bias_of_input"), *others]
        for name, group, field in shown:
            values, limit = np.array([row[field] for row in group]), group[0]["limit"]
            scale, unit = (1.0, "HU") if key[1] == "ct" else (100.0, "%")
            rows.append(
                [
                    *key,
                    name,
                    f"{scale * values.mean():+.2f} {unit}",
                    f"{scale * np.abs(values).max():.2f} {unit}",
                    f"{_percent(np.abs(values) <= limit)} (<= {scale * limit:g} {unit})",
                    str(len(values)),
                ]
            )
    return (
        "Bias by region",
        ["set", "modality", "region", "system", "mean bias", "largest", "within the limit", "regions"],
        rows,
        "Regions are found in the reference. CT: tissue by HU. PET: hot regions at 41 % of their peak. MR: bright over "
        "medium tissue. Good images are included.",
    )


def _noise(results: dict[str, Any]) -> Table:
    rows = []
    for name, found in rows_of(results, "texture"):
        noise = [row for row in found if row["kind"] == "noise"]
        for (task,), group in grouped(noise, "task").items():
            frequency = np.array(group[0]["frequency"])
            after, before = (np.mean([row[field] for row in group], axis=0) for field in ("nps", "nps_of_input"))
            area = [row["area_ratio"] for row in group]
            peaks = [frequency[curve.argmax()] for curve in (after, before)] if after.max() > 0 else None
            rows.append(
                [
                    task,
                    name,
                    f"{np.mean(area):.3f}",
                    f"{peaks[0] / peaks[1]:.2f}" if peaks else NOTHING,
                    f"{peaks[0]:.3f} / {peaks[1]:.3f}" if peaks else NOTHING,
                    str(len(group)),
                ]
            )
    return (
        "Texture: noise power spectrum",
        ["task", "system", "area, output / input", "peak, output / input", "peaks (cycles per pixel)", "slices"],
        rows,
        "Of the noise left between two draws of the same degradation. Area is the variance: 1 leaves the noise as it "
        "is, 0 removes it. A peak ratio below 1 is coarser, blotchy noise.",
    )


def _edges(results: dict[str, Any]) -> Table:
    rows = []
    for name, found in rows_of(results, "texture"):
        for (task,), group in grouped([row for row in found if row["kind"] == "edge"], "task").items():
            after, before, truth = (
                half_frequency(mean_edge(group, field)) for field in ("edge", "edge_of_input", "edge_of_reference")
            )
            rows.append([task, name, f"{after / truth:.2f}", f"{before / truth:.2f}", f"{truth:.3f}", str(len(group))])
    return (
        "Texture: sharpness of an edge",
        [
            "task",
            "system",
            "MTF 50 %, output / reference",
            "input / reference",
            "reference (1 / pixel)",
            "discs",
        ],
        rows,
        "From the mean edge-spread function of an inserted disc of high contrast. 1 is as sharp as the truth.",
    )


def _consistency(results: dict[str, Any]) -> Table:
    def cells(rows: list[Measurement], suffix: str) -> list[str]:
        misfit = np.array([row["misfit" + suffix] for row in rows])
        shares = [NOTHING, NOTHING]
        if not suffix:
            for place, field in enumerate(("unseen_share_of_change", "unseen_share_of_error")):
                known = [row[field] for row in rows if row.get(field) is not None]
                shares[place] = f"{np.mean(known):.2f}" if known else NOTHING
        return [f"{misfit.mean():.3f}", f"{misfit.max():.3f}", *shares, str(len(rows))]

    return (
        "Data consistency",
        ["task", "system", "misfit, mean", "largest", "unseen share of the change", "of the error", "slices"],
        _with_input(results, "consistency", ["task"], cells),
        "MR: ||M F x - y|| / ||y|| on the measured lines, 0 agrees. CT and PET: chi-square over that of the truth, "
        "minus 1: below 0 it follows the noise, at 0 it is as far from the data as the truth, above it contradicts "
        "them. Unseen: energy in lines that were not measured.",
    )


def _good_image_preservation(results: dict[str, Any]) -> Table:
    rows = []
    for name, found in rows_of(results, "good_image_preservation"):
        for key, group in grouped(found, "group", "modality").items():
            altered = [row["psnr"] for row in group if row["psnr"] is not None]
            near = [row["psnr"] is None or row["psnr"] >= PRESERVED_DB for row in group]
            verdicts = [row["verdict"] for row in group if row["verdict"] is not None]
            rows.append(
                [
                    *key,
                    name,
                    _percent([row["unchanged"] for row in group]),
                    _percent(near),
                    f"{min(altered):.1f} dB" if altered else NOTHING,
                    _percent([row["is_worse"] for row in group]),
                    _percent([verdict == "good" for verdict in verdicts]) if verdicts else NOTHING,
                    str(len(group)),
                ]
            )
    return (
        "Good-image preservation",
        [
            "set",
            "modality",
            "system",
            "unchanged",
            f">= {PRESERVED_DB:g} dB",
            "lowest",
            "worse",
            "said good",
            "images",
        ],
        rows,
        "Images that need no restoration. PSNR against the input. Worse: further from the reference than the input.",
    )


def _calibration(results: dict[str, Any]) -> Table:
    rows = []
    for name, found in rows_of(results, "calibration"):
        for row in found:
            head = [row["group"], row["modality"], name]
            counts = [str(row["slices"]), str(row["without"])]
            if row["slices"] == 0:
                rows.append([*head, *[NOTHING] * 7, *counts])
                continue
            unit = "HU" if row["modality"] == "ct" else "of the mean"
            wide = row["conformal_factor"] is not None
            conformal = [
                f"{row['conformal_factor']:.2f}" if wide else NOTHING,
                f"{100 * row['conformal_coverage']:.0f} %" if wide else NOTHING,
                f"{row['conformal_width']:.3g} {unit}" if wide else NOTHING,
            ]
            covered = [f"{100 * row[field]:.0f} %" for field in ("coverage_one_sigma", "coverage_95")]
            rows.append([*head, *covered, f"{row['ece']:.3f}", f"{row['ause']:.3f}", *conformal, *counts])
    header = ["set", "modality", "system", "within 1 sigma (68 %)", "within 1.96 (95 %)", "ECE", "AUSE"]
    return (
        "Calibration of the uncertainty map",
        [*header, "conformal factor", "its coverage", "its width", "slices", "without a map"],
        rows,
        "Over the pixels of the body, degraded images. The conformal factor covers 95 % of every second slice; "
        "coverage and full width are those of the others.",
    )


def _shift(results: dict[str, Any]) -> Table:
    rows = []
    for name, found in rows_of(results, "shift"):
        for key, group in grouped([r for r in found if r["family"] != DESCRIPTION_SWAP], "family", "task").items():
            gain = np.array([gain_of(row) for row in group])
            before = np.mean([row["psnr_of_input"] for row in group])
            rows.append([*key, name, f"{before:.2f}", f"{gain.mean():+.2f}", _percent(gain < 0), str(len(gain))])
    return (
        "Shift of the degradation",
        ["shift", "task", "system", "input (dB)", "gain (dB)", "worse", "images"],
        rows,
        "Parameters beyond those of training, two degradations at once, and an independent way of simulating each.",
    )


def _description_swap(results: dict[str, Any]) -> Table:
    rows = []
    for name, found in rows_of(results, "shift"):
        for (task,), group in grouped([r for r in found if r["family"] == DESCRIPTION_SWAP], "task").items():
            gains = {told: [gain_of(row) for row in mine] for (told,), mine in grouped(group, "told").items()}
            cells = [f"{np.mean(gains[told]):+.2f}" if told in gains else NOTHING for told in TOLD]
            rows.append([task, name, *cells, str(max(len(values) for values in gains.values()))])
    return (
        "Description swap: gain (dB) by what the system was told",
        ["task", "system", *TOLD, "images"],
        rows,
        "The description of what was done, the system's own, that of another image of the modality, and one that "
        "says that nothing is wrong. Systems that take no words are not listed.",
    )


def _failures(results: dict[str, Any]) -> Table:
    rows = []
    for name, checks in results["systems"].items():
        for check, found in checks.items():
            for label, reason in found["failed"].items():
                rows.append([name, check, label, reason])
    return (
        "Failures",
        ["system", "check", "case", "reason"],
        rows,
        f"{len(rows)} in all. What a system fails on is in no other table.",
    )


def _percent(claims: Sequence[bool] | np.ndarray) -> str:
    low, high = share_interval(int(np.sum(claims)), len(claims))
    return f"{100 * float(np.mean(claims)):.0f} % ({100 * low:.0f} to {100 * high:.0f})"
