import runpy
from pathlib import Path

import pytest

from medq_uni.demo import run_demo


@pytest.mark.slow
def test_the_demo_restores_real_files_and_phantoms_and_writes_a_report(tmp_path: Path):
    lines: list[str] = []
    report = run_demo(tmp_path, say=lines.append)
    text = "\n".join(lines)
    page = report.read_text()
    assert "CT_small.dcm" in text
    assert "MR_small.dcm" in text
    assert text.count("PSNR") >= 5
    assert text.count("Verdict:") >= 7
    assert (tmp_path / "CT_small.restored.dcm").is_file()
    assert page.count("<article>") >= 7


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example = Path(__file__).parents[1] / "examples" / "01_restore_a_slice.py"
    runpy.run_path(str(example))["main"](tmp_path)
    assert (tmp_path / "report.html").is_file()
    assert "restored: PSNR" in capsys.readouterr().out
