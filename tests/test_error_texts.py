import ast
import errno
import warnings
from pathlib import Path

import pytest

from medq_uni.errors import ImageWarning, MedQError, UnreadableImage, UnwritableImage, capture_warnings, words_of

PACKAGE = Path(__file__).parents[1] / "medq_uni"


def test_what_a_user_can_cause_is_one_kind_of_error():
    assert issubclass(MedQError, ValueError)
    assert issubclass(UnreadableImage, MedQError)
    assert issubclass(UnwritableImage, MedQError)
    assert issubclass(ImageWarning, UserWarning)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_class_of_the_package_is_a_value_error_of_its_own(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name != "MedQError":
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            assert "ValueError" not in bases, f"{node.name} must derive from MedQError"


def test_an_error_of_the_system_is_told_without_its_folder():
    error = OSError(errno.ENOSPC, "No space left on device", "/home/ann/patients/0001.dcm")
    assert words_of(error) == "0001.dcm: No space left on device"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EACCES, "Permission denied", "/home/ann/.medq-0123456789abcdef"), "Permission denied"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.EACCES, "Permission denied", b"/bytes/0001.dcm"), "Permission denied"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "Bad file descriptor"),
        (OSError("a stray word about /home/ann"), "OSError"),
        (FileNotFoundError(), "FileNotFoundError"),
    ],
)
def test_an_error_without_a_file_of_the_user_names_none(error: OSError, words: str):
    assert words_of(error) == words


def test_a_real_error_of_the_system_has_words(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "absent.json").read_text()
    assert words_of(caught.value) == "absent.json: No such file or directory"


def test_each_warning_is_collected_once_and_in_order():
    with capture_warnings() as warned:
        for words in ("second", "first", "second"):
            warnings.warn(words, stacklevel=1)
        assert warned == []
    assert warned == ["second", "first"]


def test_what_libraries_warn_of_is_not_collected(recwarn: pytest.WarningsRecorder):
    with capture_warnings() as warned:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("odd", RuntimeWarning, stacklevel=1)
        warnings.warn("ours", stacklevel=1)
    assert warned == ["ours"]
    assert not recwarn.list


def test_an_error_passes_through_and_filters_are_as_they_were():
    before = warnings.filters[:]

    def fail() -> None:
        with capture_warnings():
            warnings.warn("lost with the error", stacklevel=1)
            raise MedQError("stop")

    with pytest.raises(MedQError, match="stop"):
        fail()
    assert warnings.filters == before
