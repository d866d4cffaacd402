import re
import shutil
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    shutil.copy(get_testdata_file("CT_small.dcm", download=False), tmp_path / "study.dcm")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert "Verdict:" in capsys.readouterr().out
    assert (tmp_path / "restored.dcm").is_file()
