import csv
import io

from medq_uni.csv_text import csv_of


def test_every_number_of_a_field_has_a_column():
    rows = [
        {"system": "a", "mean": {"psnr": 23.95, "ssim": None}, "interval": (1.5, 2.5)},
        {
            "system": "b",
            "mean": {"psnr": 20.0, "ssim": 0.5},
            "interval": (None, None),
            "error": "no, never",
        },
    ]
    first, second = csv.DictReader(io.StringIO(csv_of(rows)))
    assert first == {
        "system": "a",
        "mean_psnr": "23.95",
        "mean_ssim": "",
        "interval_low": "1.5",
        "interval_high": "2.5",
        "error": "",
    }
    assert (second["mean_ssim"], second["interval_low"], second["error"]) == ("0.5", "", "no, never")


def test_deeper_mappings_are_flattened_too():
    assert csv_of([{"interval": {"psnr": (1, 2)}}]) == "interval_psnr_low,interval_psnr_high\n1,2\n"
