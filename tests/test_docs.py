"""What the documents point at is there."""

import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_and_headings_resolve(page: Path):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue  # somebody else's page
        place, _, anchor = unquote(link).partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_every_path_in_backticks_exists():
    for page in PAGES:
        if page.name in ("log.md", "CHANGELOG.md") or page.parent.name == "decisions":
            continue  # they tell of what was
        for path in re.findall(
            r"`((?:docs|recipes|benchmark|experiments|tests|medq_uni|examples)/[\w./-]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.relative_to(ROOT)}: {path}"


def test_long_subjects_are_refused(tmp_path: Path):
    def git(*words: str) -> None:
        names = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)

    def refused(between: str) -> int:
        return subprocess.run(
            [ROOT / ".ci" / "subjects", between], cwd=tmp_path, check=False, capture_output=True
        ).returncode

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "s" * 72)
    git("commit", "-q", "--allow-empty", "-m", "s" * 72 + "\n\n" + "b" * 100)
    assert refused("HEAD~1..HEAD") == 0
    git("commit", "-q", "--allow-empty", "-m", "s" * 73)
    assert refused("HEAD~1..HEAD") == 1
    assert refused("0" * 40 + "..HEAD") == 1


def test_the_lock_holds_every_requirement_at_a_version_that_is_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements-dev.lock").read_text(), re.M))
    extras = project["optional-dependencies"]
    installed = ("dev", "ray", "annotate", "serve", "postgres")
    wanted = [*project["dependencies"], *(one for name in installed for one in extras[name])]
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), str(requirement)
