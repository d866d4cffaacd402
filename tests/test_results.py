import re

from benchmarks import results


def test_the_results_page_is_the_one_that_the_kept_results_give():
    assert results.PAGE.read_text(encoding="utf-8") == results.page()


def test_so_is_the_page_of_the_safety_checks():
    assert results.SAFETY.read_text(encoding="utf-8") == results.safety_page()


def test_so_is_the_table_of_the_readme():
    text = results.README.read_text(encoding="utf-8")
    assert results.BLOCK.search(text)
    assert text == results.readme(text)


def test_kept_results_name_no_place_of_a_machine():
    for path in results.KEPT.iterdir():
        assert not re.search(r'["\s](?:/[\w.-]+){2,}', path.read_text(encoding="utf-8")), path.name
