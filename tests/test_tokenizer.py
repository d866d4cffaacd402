import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.data.reference_text import corpus, describe, instruction
from medq_uni.description import DEFAULT_ASSESS, QualityDescription
from medq_uni.physics.degrade import draw_record
from medq_uni.pretrained.load import folder_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task
from medq_uni.tokenizer import DescriptionConstraint, Tokenizer, TokenizerError, train_tokenizer

FILE = Path(__file__).parents[1] / "medq_uni" / "pretrained" / "nano" / "tokenizer.json"
TOKENIZER = Tokenizer.from_file(FILE)


def example(number: int) -> QualityDescription:
    generator = generator_of(number)
    task = list(Task)[number % len(Task)]
    record = draw_record(task, Severity.from_level(number % 4), generator)
    return describe(task.modality, list(Anatomy)[number % len(Anatomy)], record, generator)


def write(constraint: DescriptionConstraint, choose) -> list[int]:
    ids: list[int] = []
    while True:
        if run := constraint.forced(ids):
            ids += run
            if ids[-1] == TOKENIZER.special.eos:
                return ids
        else:
            ids.append(choose(constraint.allowed(ids)))


@settings(max_examples=100)
@given(st.text())
def test_every_text_comes_back_from_its_tokens(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("number", range(40))
def test_a_description_is_spelled_by_its_tokens_and_allowed_by_the_rules(number: int):
    description = example(number)
    ids = TOKENIZER.encode_description(description)
    assert TOKENIZER.decode(ids) == description.to_text()
    constraint, prefix = DescriptionConstraint(TOKENIZER), []
    while len(prefix) < len(ids):
        run = [token for token in constraint.forced(prefix) if token != TOKENIZER.special.eos]
        if run:
            assert ids[len(prefix) : len(prefix) + len(run)] == run
            prefix += run
        else:
            assert ids[len(prefix)] in constraint.allowed(prefix)
            prefix.append(ids[len(prefix)])
    assert constraint.finished(prefix)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_network_prefers_the_text_parses(seed: int):
    chance = random.Random(seed)
    ids = write(DescriptionConstraint(TOKENIZER), chance.choice)
    QualityDescription.from_text(TOKENIZER.decode(ids))


@pytest.mark.parametrize("choose", [min, max, lambda ids: ids[len(ids) // 2]])
def test_a_stubborn_network_cannot_break_or_prolong_the_text(choose):
    ids = write(DescriptionConstraint(TOKENIZER), choose)
    QualityDescription.from_text(TOKENIZER.decode(ids))
    assert len(ids) < 160


@pytest.mark.parametrize("modality", list(Modality))
def test_a_known_modality_is_kept(modality: Modality):
    ids = write(DescriptionConstraint(TOKENIZER, modality=modality), random.Random(1).choice)
    assert QualityDescription.from_text(TOKENIZER.decode(ids)).modality is modality


def test_the_rules_start_again_for_a_shorter_prefix():
    constraint = DescriptionConstraint(TOKENIZER)
    first = constraint.forced([])
    write(constraint, min)
    assert constraint.forced([]) == first


def test_learning_is_repeatable_and_the_shipped_file_suits_the_corpus(tmp_path: Path):
    texts = list(corpus(generator_of(7), 4000))
    learned = [train_tokenizer(iter(texts), 768) for _ in range(2)]
    for number, tokenizer in enumerate(learned):
        tokenizer.save(tmp_path / f"{number}.json")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    # the file belongs to the weights and stays when the corpus grows, as long as it is nearly as short
    lengths = [sum(len(tokenizer.encode(text)) for text in texts[:600]) for tokenizer in (TOKENIZER, learned[0])]
    assert lengths[0] <= 1.05 * lengths[1]


def test_descriptions_and_instructions_are_short():
    lengths = [len(TOKENIZER.encode_description(example(number))) for number in range(200)]
    assert sum(lengths) / len(lengths) < 55
    assert len(TOKENIZER.encode(DEFAULT_ASSESS)) <= 10
    assert instruction("assess", generator_of(1)) == instruction("assess", generator_of(1))


@pytest.mark.parametrize("number", range(20))
def test_a_reference_description_agrees_with_its_record_and_itself(number: int):
    description = example(number)
    assert description.validate() == []
    assert description.worst is Severity.from_level(number % 4)


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path):
    with pytest.raises(TokenizerError, match="no such"):
        Tokenizer.from_file(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a tokenizer file"):
        Tokenizer.from_file(tmp_path / "bad.json")
    with pytest.raises(TokenizerError, match="no token <\\|other"):
        Tokenizer.from_file(FILE, ("<|bos|>", "<|eos|>", "<|other|>", "<|image_end|>"))


def test_the_slots_are_marked():
    coded = TOKENIZER.encode_slots(example(1))
    assert [token for token, _ in coded] == TOKENIZER.encode_description(example(1))
    assert 4 <= sum(is_slot for _, is_slot in coded) < len(coded) / 2
    assert torch.tensor([token for token, _ in coded]).max() < TOKENIZER.vocab_size
    assert folder_of("nano").name == "nano"
