import re

import pytest

from benchmarks import results


def test_the_results_page_is_the_one_that_the_kept_results_give():
    assert results.PAGE.read_text(encoding="utf-8") == results.page()


def test_so_is_the_page_of_the_safety_checks():
    assert results.SAFETY.read_text(encoding="utf-8") == results.safety_page()


@pytest.mark.parametrize(
    ("path", "table"),
    [(results.README, results.readme_table), (results.ABLATIONS, lambda: results.ablation_table("ablations"))],
)
def test_so_are_the_tables_of_the_readme_and_of_the_ablations(path, table):
    text = path.read_text(encoding="utf-8")
    assert results.BLOCK.search(text)
    assert text == results.with_table(text, table())


def test_kept_results_name_no_place_of_a_machine():
    for path in results.KEPT.iterdir():
        assert not re.search(r'["\s](?:/[\w.-]+){2,}', path.read_text(encoding="utf-8")), path.name
