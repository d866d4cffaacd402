import pytest

from medq_uni.data.pair_cache import PairCache
from medq_uni.pretrained.load import folder_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.recipe import LabelForm


@pytest.fixture(scope="module")
def pairs(pair_cache: PairCache) -> PairCache:
    return pair_cache


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(folder_of("nano") / "tokenizer.json")


def test_the_label_says_what_was_done_to_the_pair(pairs: PairCache, tokenizer: Tokenizer) -> None:
    texts = PairTexts(pairs, tokenizer)
    for index, item in enumerate(pairs.items):
        label = texts.label(index, generator_of(index))
        assert label.worst is item.severity
        assert tokenizer.decode(texts.tokens(index, generator_of(index))) == label.to_text()


def test_a_wrong_label_stays_as_wrong_as_it_is(pairs: PairCache, tokenizer: Tokenizer) -> None:
    texts = PairTexts(pairs, tokenizer, wrong_share=0.5, seed=1)
    slots = [(label.anatomy, label.degradations, label.verdict) for label in _labels(texts, 0)]
    assert slots == [(label.anatomy, label.degradations, label.verdict) for label in _labels(texts, 99)]
    right = [(label.anatomy, label.degradations, label.verdict) for label in _labels(PairTexts(pairs, tokenizer), 0)]
    assert 3 < sum(one != two for one, two in zip(slots, right, strict=True)) <= len(right)


def _labels(texts: PairTexts, seed: int) -> list:
    return [texts.label(index, generator_of(seed, index)) for index in range(len(texts.pairs))]


def test_a_class_names_the_kind_and_hides_grade_and_texts(pairs: PairCache, tokenizer: Tokenizer) -> None:
    texts = PairTexts(pairs, tokenizer, form="class")
    for index, item in enumerate(pairs.items):
        text = tokenizer.decode(texts.tokens(index, generator_of(index)))
        assert (text == "none") == (item.severity is Severity.NONE)
        assert not any(grade.value in text.split() for grade in Severity if grade is not Severity.NONE)


def test_a_class_is_corrupted_as_a_class(pairs: PairCache, tokenizer: Tokenizer) -> None:
    texts = PairTexts(pairs, tokenizer, form="class")
    wrong = [tokenizer.decode(texts.corrupted(index, generator_of(index))) for index in range(len(pairs))]
    right = [tokenizer.decode(texts.tokens(index, generator_of(index))) for index in range(len(pairs))]
    assert 1 < sum(one != two for one, two in zip(wrong, right, strict=True)) < len(pairs)
    assert max(map(len, wrong)) < 60


def test_the_constant_text_is_the_same_for_all_and_as_long_as_a_description(pairs: PairCache, tokenizer: Tokenizer):
    texts, full = PairTexts(pairs, tokenizer, form="constant"), PairTexts(pairs, tokenizer)
    told = {tuple(texts.tokens(index, generator_of(index))) for index in range(len(pairs))}
    told |= {tuple(texts.corrupted(index, generator_of(index))) for index in range(len(pairs))}
    assert len(told) == 1
    lengths = [len(full.tokens(index, generator_of(index))) for index in range(len(pairs))]
    assert min(lengths) - 5 <= len(told.pop()) <= max(lengths)
    assert texts.slots(0, generator_of(0)) == full.slots(0, generator_of(0))  # the assessor learns the true one


@pytest.mark.parametrize("form", ["class", "constant"])
def test_a_stated_grade_leaves_other_forms_alone(pairs: PairCache, tokenizer: Tokenizer, form: LabelForm) -> None:
    texts = PairTexts(pairs, tokenizer, form=form)
    for index in range(len(pairs)):
        told = [texts.tokens(index, generator_of(0), grade) for grade in (None, Severity.NONE, Severity.SEVERE)]
        assert told[0] == told[1] == told[2]


def test_a_stated_grade_takes_the_place_of_the_true_one(pairs: PairCache, tokenizer: Tokenizer) -> None:
    texts = PairTexts(pairs, tokenizer)
    index = next(i for i, item in enumerate(pairs.items) if item.severity is Severity.MILD)
    assert "severe" in tokenizer.decode(texts.tokens(index, generator_of(0), Severity.SEVERE))
