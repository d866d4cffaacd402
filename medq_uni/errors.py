"""The root of every error that a user can cause, and what warnings and system errors say to people.

Anything else that is raised is a fault of the package, and is never shown as if the user's file were to blame.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MedQError(ValueError):
    """What came cannot be used; the message says what came, what is needed and what to do."""


class UnreadableImage(MedQError):  # noqa: N818
    """A file that cannot be read as an image; the message says why and what to do."""


class UnwritableImage(MedQError):  # noqa: N818
    """An image that cannot be written as asked; the message says why and what to do."""


class ImageWarning(UserWarning):
    """Something about an image that was assumed or could not be found out."""


def words_of(error: OSError) -> str:
    """Return what the system says, and of which file; of a path the name alone, of a file that we hide none."""
    name = Path(error.filename).name if isinstance(error.filename, str) else ""
    words = error.strerror or type(error).__name__
    return f"{name}: {words}" if name and not name.startswith(".medq-") else words


def is_fault(error: BaseException) -> bool:
    """Return whether the package is to blame for an error: it is neither a :class:`MedQError` nor the system's."""
    return not isinstance(error, MedQError | OSError)


def where_raised(error: BaseException) -> str:
    """Return type and place of an error, as ``KeyError at medq_uni.data.pairs:120``; never its message or values.

    The place is the innermost line of this package that the error came through.
    """
    frames = [(frame.f_globals.get("__name__", "?"), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [place for place in frames if str(place[0]).partition(".")[0] == __name__.partition(".")[0]]
    name, line = (ours or frames or [("?", 0)])[-1]
    return f"{type(error).__name__} at {name}:{line}"


def printable(text: str, *, breaks: str = "\n\t") -> str:
    """Return text as a terminal or a page can show it: control characters, and bytes that are no UTF-8, as escapes.

    Args:
        text: To be shown.
        breaks: Characters that may break or indent a line; a name in a table has none.
    """

    def shown(character: str) -> str:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name
            return f"\\x{code - 0xDC00:02x}"
        return character.encode("unicode_escape").decode("ascii")

    return "".join(one if one.isprintable() or one in breaks else shown(one) for one in text)


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Collect what is warned of inside, each once, in the place of printing it; the list is filled at the end."""
    warned: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield warned
    warned += dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning)
