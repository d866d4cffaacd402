"""What every output says about its use, in one place."""

from __future__ import annotations

SHORT_NOTICE = "Research use only. Not for diagnostic use."
"""For headers of files, where there is room for a line."""
NOTICE = f"{SHORT_NOTICE} Always view the original."
"""For people: reports, pages, sidecars, the command line."""
