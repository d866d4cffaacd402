"""HTML pages, and the fixed words that their forms offer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fastapi.responses import HTMLResponse

from medq_uni.annotate.records import MAX_TEXT_CHARS
from medq_uni.description import MAX_FREE_CHARS, PHRASES
from medq_uni.notice import NOTICE
from medq_uni.review.sign_in import SignedIn
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

STATIC = Path(__file__).with_name("static")


def page(template: str, session: SignedIn | None = None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; every value is escaped where it stands.

    Args:
        template: Name of the file, without ``.html.j2``.
        session: Whose page it is.
        status: HTTP status.
        values: What the template asks for.
    """
    shared = {
        "notice": NOTICE,
        "account": None if session is None else session.account,
        "csrf": None if session is None else session.csrf,
    }
    return HTMLResponse(_templates().get_template(f"{template}.html.j2").render(shared | values), status)


def message_page(
    heading: str,
    message: str,
    session: SignedIn | None = None,
    *,
    status: int = 200,
    link: tuple[str, str] | None = None,
) -> HTMLResponse:
    """Return a page that says one thing.

    Args:
        heading: What it is about.
        message: One or two sentences.
        session: Whose page it is.
        status: HTTP status.
        link: Address and words of the way on.
    """
    address, words = link or ("", "")
    return page("message", session, status=status, heading=heading, message=message, link=address, link_words=words)


def screen(session: SignedIn, *, api: str, path: str, first: str, adjudicates: bool) -> HTMLResponse:
    """Return the screen with an image and its five aspects.

    Args:
        session: Whose page it is.
        api: Address below which the screen finds images and saves.
        path: Address below which images have pages.
        first: Image to show, as the rest of both addresses.
        adjudicates: Whether it decides between reviews instead of being one.
    """
    words = vocabulary()
    return page("review", session, vocabulary=words, api=api, path=path, first=first, adjudicates=adjudicates)


@cache
def vocabulary() -> str:
    """Return the fixed words of a description and the limits of its texts, as JSON."""
    return json.dumps(
        {
            "modalities": [one.value for one in Modality],
            "anatomies": [one.value for one in Anatomy],
            "tasks": [{"value": one.value, "modality": one.modality.value, "words": PHRASES[one]} for one in Task],
            "severities": [one.value for one in Severity],
            "verdicts": [one.value for one in Verdict],
            "text_chars": MAX_FREE_CHARS,
            "comment_chars": MAX_TEXT_CHARS,
        }
    )


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
