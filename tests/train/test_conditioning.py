import pytest

from medq_uni.data.pair_cache import PairCache, build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained.load import folder_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.recipe import LabelForm


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> PairCache:
    return build_pair_cache(PairsConfig(count=20, seed=4, phantom_sizes=(40,)), tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(folder_of("nano") / "tokenizer.json")


def test_the_label_says_what_was_done_to_the_pair(pool: PairCache, tokenizer: Tokenizer) -> None:
    words = PairTexts(pool, tokenizer)
    for index, item in enumerate(pool.items):
        label = words.label(index, generator_of(index))
        assert label.worst is item.severity
        assert tokenizer.decode(words.tokens(index, generator_of(index))) == label.to_text()


def test_a_wrong_label_stays_as_wrong_as_it_is(pool: PairCache, tokenizer: Tokenizer) -> None:
    words = PairTexts(pool, tokenizer, wrong_labels=0.5, seed=1)
    slots = [(label.anatomy, label.degradations, label.verdict) for label in _labels(words, 0)]
    assert slots == [(label.anatomy, label.degradations, label.verdict) for label in _labels(words, 99)]
    right = [(label.anatomy, label.degradations, label.verdict) for label in _labels(PairTexts(pool, tokenizer), 0)]
    assert 3 < sum(one != two for one, two in zip(slots, right, strict=True)) <= len(right)


def _labels(words: PairTexts, seed: int) -> list:
    return [words.label(index, generator_of(seed, index)) for index in range(len(words.pool))]


def test_a_class_names_the_kind_and_hides_grade_and_words(pool: PairCache, tokenizer: Tokenizer) -> None:
    words = PairTexts(pool, tokenizer, form="class")
    for index, item in enumerate(pool.items):
        text = tokenizer.decode(words.tokens(index, generator_of(index)))
        assert (text == "none") == (item.severity is Severity.NONE)
        assert not any(grade.value in text.split() for grade in Severity if grade is not Severity.NONE)


def test_a_class_is_misread_as_a_class(pool: PairCache, tokenizer: Tokenizer) -> None:
    words = PairTexts(pool, tokenizer, form="class")
    texts = [tokenizer.decode(words.misread(index, generator_of(index))) for index in range(len(pool))]
    right = [tokenizer.decode(words.tokens(index, generator_of(index))) for index in range(len(pool))]
    assert 1 < sum(one != two for one, two in zip(texts, right, strict=True)) < len(pool)
    assert max(map(len, texts)) < 60


def test_the_constant_text_is_the_same_for_all_and_as_long_as_a_description(pool: PairCache, tokenizer: Tokenizer):
    words, full = PairTexts(pool, tokenizer, form="constant"), PairTexts(pool, tokenizer)
    told = {tuple(words.tokens(index, generator_of(index))) for index in range(len(pool))}
    told |= {tuple(words.misread(index, generator_of(index))) for index in range(len(pool))}
    assert len(told) == 1
    lengths = [len(full.tokens(index, generator_of(index))) for index in range(len(pool))]
    assert min(lengths) - 5 <= len(told.pop()) <= max(lengths)
    assert words.slots(0, generator_of(0)) == full.slots(0, generator_of(0))  # the assessor learns the true one


@pytest.mark.parametrize("form", ["class", "constant"])
def test_a_stated_grade_leaves_other_forms_alone(pool: PairCache, tokenizer: Tokenizer, form: LabelForm) -> None:
    words = PairTexts(pool, tokenizer, form=form)
    for index in range(len(pool)):
        texts = [words.tokens(index, generator_of(0), grade) for grade in (None, Severity.NONE, Severity.SEVERE)]
        assert texts[0] == texts[1] == texts[2]


def test_a_stated_grade_takes_the_place_of_the_true_one(pool: PairCache, tokenizer: Tokenizer) -> None:
    words = PairTexts(pool, tokenizer)
    index = next(i for i, item in enumerate(pool.items) if item.severity is Severity.MILD)
    assert "severe" in tokenizer.decode(words.tokens(index, generator_of(0), Severity.SEVERE))
