import pytest

from medq_uni.evaluate.page import interval, number, p_value, summary


@pytest.mark.parametrize(
    ("printed", "wanted"),
    [
        (number(1.234), "1.23"),
        (number(1.234, 1, True), "+1.2"),
        (number(None), "-"),
        (interval((-0.5, 1.0)), "-0.50 to +1.00"),
        (interval((None, None)), ""),
        (p_value(0.0004), "< 0.001"),
        (p_value(0.04), "0.040"),
        (p_value(None), ""),
    ],
)
def test_numbers_are_printed_with_a_dash_or_nothing_where_there_is_none(printed: str, wanted: str):
    assert printed == wanted


def test_the_summary_has_a_line_for_every_system_whatever_became_of_it():
    def row(system: str, psnr: float | None, failed: int = 0) -> dict:
        scores = {"psnr": psnr, "ssim": None if psnr is None else 0.9}
        spread = {"psnr": None if psnr is None else 1.0, "ssim": None}
        return {"system": system, "group": "real", "part": "ct", "mean": scores, "sd": spread, "failed": failed}

    rows = [row("good", 30.0), row("weak", 20.0, failed=2), row("broken", None, failed=5)]
    systems = [{"name": name, "not_run": ""} for name in ("good", "weak", "broken", "idle")]
    systems.append({"name": "absent", "not_run": "not installed"})
    lines = summary({"benchmarks": [{"name": "small", "by_modality": rows}], "systems": systems}).splitlines()
    assert lines[:3] == ["### small", "", "| system | CT, real: PSNR (dB) | SSIM |"]
    assert (
        lines[4:]
        == [
            "| good | 30.00 +- 1.00 | 0.9000 +- - |",
            "| weak | 20.00 +- 1.00 (2 failed) | 0.9000 +- - |",
            "| broken | failed | - |",
            "| idle | - | - |",
            "| absent | not run | - |",
            "",
        ][:5]
    )
