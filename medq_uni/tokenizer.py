"""Text <-> token ids, and the rules that keep a generated description in its form.

Descriptions are tokenized segment by segment (fixed words, choices, free text), in training and in use alike, so
that the rules can be told token by token.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as BPE

from medq_uni.config import SpecialTokens
from medq_uni.description import LABELS, MAX_FREE_CHARS, QualityDescription, degradation_options, degradation_words
from medq_uni.errors import MedQError
from medq_uni.json_text import load_json
from medq_uni.taxonomy import Anatomy, Modality, Severity, Verdict, verdict_of

SPECIAL_NAMES = ("<|bos|>", "<|eos|>", "<|image_start|>", "<|image_end|>")
"""Names of begin of text, end of text, start and end of an image in our own tokenizer files."""
QWEN_NAMES = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
"""The same in the files of the released base model."""
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Contractions, words, single digits, punctuation, line ends, spaces (Qwen2.5 technical report, 2024)."""
_FREE_TOKEN = re.compile(r" ?[A-Za-z0-9,;%()/+'<>=\-]+")


class TokenizerError(MedQError):
    """A tokenizer file that cannot be used."""


class Tokenizer:
    """Byte-level BPE: every text has tokens, and they spell it again without loss.

    Args:
        bpe: The loaded tokenizer.
        names: The four special tokens, see :data:`SPECIAL_NAMES`.

    Raises:
        TokenizerError: If a special token is missing.
    """

    def __init__(self, bpe: BPE, names: tuple[str, str, str, str] = SPECIAL_NAMES) -> None:
        self._bpe = bpe
        ids = [bpe.token_to_id(name) for name in names]
        missing = [name for name, number in zip(names, ids, strict=True) if number is None]
        if missing:
            raise TokenizerError(
                f"the tokenizer has no token {', '.join(missing)}. It belongs to another model, or its special "
                "tokens have other names."
            )
        bos, eos, start, end = (int(number) for number in ids if number is not None)
        self.special = SpecialTokens(bos=bos, eos=eos, start_of_image=start, end_of_image=end)

    @classmethod
    def from_file(cls, path: str | Path, names: tuple[str, str, str, str] = SPECIAL_NAMES) -> Tokenizer:
        """Return the tokenizer of a ``tokenizer.json``.

        Raises:
            TokenizerError: If the file is missing or is no tokenizer.
        """
        if not Path(path).is_file():
            raise TokenizerError(f"{Path(path).name}: no such tokenizer file.")
        try:
            return cls(BPE.from_file(str(path)), names)
        except TokenizerError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{Path(path).name} is not a tokenizer file: {error}.") from error

    @classmethod
    def from_qwen_files(cls, folder: str | Path) -> Tokenizer:
        """Return the tokenizer of ``vocab.json`` and ``merges.txt``, split into words as Qwen2.5 does.

        Special tokens come from ``tokenizer_config.json`` (``added_tokens_decoder``).

        Raises:
            TokenizerError: If a file is missing or wrong, or a special token is not where the file says.
        """
        folder = Path(folder)
        try:
            bpe = BPE(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
            settings = load_json(folder / "tokenizer_config.json")
            added = {int(number): token["content"] for number, token in settings["added_tokens_decoder"].items()}
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{folder.name}: vocab.json, merges.txt and tokenizer_config.json are not those of a tokenizer "
                f"({type(error).__name__}). Download them again."
            ) from error
        bpe.normalizer = normalizers.NFC()
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        bpe.add_special_tokens([AddedToken(added[number], special=True, normalized=False) for number in sorted(added)])
        wrong = next((text for number, text in added.items() if bpe.token_to_id(text) != number), None)
        if wrong is not None:
            raise TokenizerError(f"{folder.name}: {wrong} is not the token that tokenizer_config.json says.")
        return cls(bpe, QWEN_NAMES)

    def save_qwen_files(self, folder: str | Path) -> list[str]:
        """Write the tokenizer as the released checkpoints hold it, and return the names of the files."""
        folder = Path(folder)
        self.save(folder / "tokenizer.json")
        self._bpe.model.save(str(folder))
        added = {
            str(number): {"content": token.content, "special": token.special, "lstrip": False, "rstrip": False}
            | {"normalized": False, "single_word": False}
            for number, token in sorted(self._bpe.get_added_tokens_decoder().items())
        }
        settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "model_max_length": 131072}
        settings |= {"eos_token": QWEN_NAMES[1], "pad_token": None, "bos_token": None, "unk_token": None}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"]

    def save(self, path: str | Path) -> None:
        """Write the tokenizer file."""
        self._bpe.save(str(path), pretty=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._bpe.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        return self._bpe.decode(list(ids), skip_special_tokens=True)

    def encode_description(self, description: QualityDescription) -> list[int]:
        """Return the ids of a description, segment by segment."""
        return [token for token, _ in self.encode_slots(description)]

    def encode_slots(self, description: QualityDescription) -> list[tuple[int, bool]]:
        """Return the ids of a description, each with whether it belongs to a slot of fixed words.

        Those slots are modality, anatomy, degradation and verdict.
        """
        values = (
            description.modality.value.upper(),
            description.anatomy.value,
            degradation_words(description.degradations),
            description.cause,
            description.impact,
            description.verdict.value,
        )
        coded = []
        for literal, slot, value in zip(_LITERALS, (*_SLOTS, ""), (*values, ""), strict=True):
            coded += [(token, False) for token in self.encode(literal)]
            coded += [(token, slot not in _FREE_SLOTS) for token in self.encode(value)]
        return coded

    @cached_property
    def free_tokens(self) -> tuple[list[int], list[int]]:
        """Ids that may stand in free text: at its beginning and after a space, and elsewhere."""
        spelled = {number: self.decode([number]) for number in range(self.vocab_size)}
        words = {number for number, text in spelled.items() if _FREE_TOKEN.fullmatch(text)}
        first = [number for number in sorted(words) if not spelled[number].startswith(" ")]
        return first, sorted(words | set(self.encode(" ")))


_LITERALS = ("Image: ", " of the ", ". Degradation: ", ". Cause: ", ". Impact: ", ". Verdict: ", ".")
"""Fixed words before each slot and after the last; they spell what ``QualityDescription.to_text`` writes."""
assert all(any(label in literal for literal in _LITERALS) for label in LABELS)
_SLOTS = ("modality", "anatomy", "degradation", "cause", "impact", "verdict")
_FREE_SLOTS = ("cause", "impact")
MAX_FREE_TOKENS = 40


@dataclass
class _State:
    """How far a description has been written."""

    literal: int = 0
    """Number of literals begun; slot ``literal - 1`` is open."""
    written: int = 0
    """Tokens of the open slot or literal that are written."""
    in_slot: bool = False
    options: list[list[int]] | None = None
    chars: int = 0
    after_space: bool = False
    modality: Modality | None = None
    degradations: str = ""
    is_done: bool = False


class DescriptionConstraint:
    """Which tokens may come next in a description.

    The network chooses modality, anatomy, degradations and verdict among their words, and writes cause and impact
    freely within one sentence; whatever it prefers, the text parses strictly.

    Args:
        tokenizer: Whose ids are written.
        modality: Fixes the modality where it is known.
        cut: Log-odds of a degradation from which on one is written, and below which none is; the verdict follows from
            the grades then. None leaves both to the network.

    Attributes:
        log_odds: What the network makes of some degradation against none, once it has come to that slot.
    """

    def __init__(self, tokenizer: Tokenizer, *, modality: Modality | None = None, cut: float | None = None) -> None:
        self.tokenizer = tokenizer
        self.modality = modality
        self.cut = cut
        self.log_odds: float | None = None
        self.literals = [tokenizer.encode(literal) for literal in _LITERALS]
        self._state, self._seen = _State(), 0

    def forced(self, prefix: list[int]) -> list[int]:
        """Return the ids that must follow, as one run; the last run ends the text. Empty where there is a choice."""
        state = self._advance(prefix)
        if state.is_done:
            return [self.tokenizer.special.eos]
        if state.in_slot:
            only = self.allowed(prefix) if state.options is not None else []
            return only if len(only) == 1 else []
        run = self.literals[state.literal][state.written :]
        return [*run, self.tokenizer.special.eos] if state.literal == len(_SLOTS) else run

    def allowed(self, prefix: list[int]) -> list[int]:
        """Return every id that may come next."""
        state = self._advance(prefix)
        if not state.in_slot:
            return self.forced(prefix)[:1]
        end = self.literals[state.literal][0]
        if _SLOTS[state.literal - 1] in _FREE_SLOTS:
            first, following = self.tokenizer.free_tokens
            if state.written == 0 or state.after_space:
                return first
            is_full = state.written >= MAX_FREE_TOKENS or state.chars > MAX_FREE_CHARS - 20
            return [end] if is_full else [*following, end]
        assert state.options is not None
        following_ids = {option[state.written] for option in state.options if len(option) > state.written}
        if any(len(option) == state.written for option in state.options):
            following_ids.add(end)
        return sorted(following_ids)

    def narrowed(self, prefix: list[int], allowed: list[int], logits: list[float]) -> list[int]:
        """Return the ids that may be chosen; at the first word of the degradations this is where they are told apart.

        Args:
            prefix: Ids written so far.
            allowed: Those that may come next.
            logits: What the network makes of each.
        """
        state = self._advance(prefix)
        if not (state.in_slot and state.written == 0 and _SLOTS[state.literal - 1] == "degradation"):
            return allowed
        none = allowed.index(self.tokenizer.encode("none")[0])
        others = [logit for place, logit in enumerate(logits) if place != none]
        most = max(others)
        self.log_odds = most + math.log(sum(math.exp(logit - most) for logit in others)) - logits[none]
        if self.cut is None:
            return allowed
        return [number for number in allowed if (number != allowed[none]) == (self.log_odds >= self.cut)]

    def chosen_modality(self, prefix: list[int]) -> Modality | None:
        """Return the modality that was written, None as long as it is open."""
        return self._advance(prefix).modality

    def finished(self, prefix: list[int]) -> bool:
        """Return whether the description is complete."""
        return self._advance(prefix).is_done

    def _advance(self, prefix: list[int]) -> _State:
        if self._seen > len(prefix):
            self._state, self._seen = _State(), 0
        for token in prefix[self._seen :]:
            self._push(token)
        self._seen = len(prefix)
        return self._state

    def _push(self, token: int) -> None:
        state = self._state
        if state.in_slot and self._ends_slot(token):
            if _SLOTS[state.literal - 1] == "degradation" and state.options is not None:
                chosen = next(option for option in state.options if len(option) == state.written)
                state.degradations = self.tokenizer.decode(chosen)
            state.in_slot, state.written = False, 0
        if state.in_slot:
            if state.options is not None:
                state.options = [o for o in state.options if o[state.written : state.written + 1] == [token]]
                if _SLOTS[state.literal - 1] == "modality" and len(state.options) == 1:
                    state.modality = Modality(self.tokenizer.decode(state.options[0]).lower())
            state.written += 1
            spelled = self.tokenizer.decode([token])
            state.chars += len(spelled)
            state.after_space = spelled == " "
            return
        state.written += 1
        if state.written == len(self.literals[state.literal]):
            self._open_slot()

    def _ends_slot(self, token: int) -> bool:
        state = self._state
        if token != self.literals[state.literal][0] or state.written == 0:
            return False
        return state.options is None or any(len(option) == state.written for option in state.options)

    def _open_slot(self) -> None:
        state = self._state
        state.literal += 1
        if state.literal > len(_SLOTS):
            state.is_done = True
            return
        state.in_slot, state.written, state.chars, state.after_space = True, 0, 0, False
        words = self._words(_SLOTS[state.literal - 1])
        state.options = None if words is None else [self.tokenizer.encode(word) for word in words]

    def _words(self, slot: str) -> list[str] | None:
        if slot == "modality":
            known = list(Modality) if self.modality is None else [self.modality]
            return [modality.value.upper() for modality in known]
        if slot == "anatomy":
            return [anatomy.value for anatomy in Anatomy]
        if slot == "degradation":
            assert self._state.modality is not None
            return degradation_options(self._state.modality)
        if slot != "verdict":
            return None
        return [verdict.value for verdict in Verdict] if self.cut is None else [self._implied()]

    def _implied(self) -> str:
        """Return the verdict that follows from the grades that were written."""
        grades = [part.split(" ")[0] for part in self._state.degradations.split(" and ")]
        return verdict_of(Severity(grade) for grade in grades).value


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, names: tuple[str, str, str, str] = SPECIAL_NAMES
) -> Tokenizer:
    """Return a byte-level BPE learned from texts; the same texts give the same tokenizer.

    Args:
        texts: Training texts.
        vocab_size: Number of tokens, of which 256 are bytes and four are special.
        names: The special tokens.
    """
    bpe = BPE(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(names),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return Tokenizer(bpe, names)
