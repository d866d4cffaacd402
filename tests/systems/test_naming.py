import pytest

from medq_uni.systems.naming import slug


@pytest.mark.parametrize("name", ["nano", "tv", "runs2"])
def test_a_plain_name_stays(name: str):
    assert slug(name) == name


def test_names_that_differ_have_different_files():
    names = ["nano", "Nano", "nano (no-skip)", "nano-no-skip", "nano/no-skip", "../nano"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert not any("/" in one or "." in one for one in slugs)
