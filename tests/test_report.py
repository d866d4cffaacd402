from pathlib import Path

from medq_uni.data.pairs import PairsConfig
from medq_uni.report import ReportItem, render, write_report
from medq_uni.restorer import Restorer
from medq_uni.systems.cases import drawn_cases
from medq_uni.taxonomy import Severity


def test_a_report_is_one_file_with_pictures_and_escapes_what_it_shows(tmp_path: Path):
    restorer = Restorer.from_pretrained("nano", device="cpu")
    case = next(drawn_cases(PairsConfig(count=1, seed=5, phantom_sizes=(192,), grades=(Severity.SEVERE,))))
    item = ReportItem.of("<script>alert(1)</script>", restorer.restore(case.degraded), reference=case.reference)
    write_report([item], tmp_path / "sub" / "report.html")
    page = (tmp_path / "sub" / "report.html").read_text()
    assert page == render([item])
    assert "<script>alert" not in page
    assert 'src="http' not in page
    assert page.count("data:image/png;base64") == 5
    for words in ("Before", "After", "Truth", "Difference", "Uncertainty", "PSNR", "Research use only"):
        assert words in page
