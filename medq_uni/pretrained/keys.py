"""Which key of a released checkpoint (BAGEL, UniMedVL) is which of ours: one table, read in both directions.

Every key of a file is used, or dropped for a stated reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from medq_uni.errors import MedQError

Shape = tuple[int, ...]


class WeightsMismatch(MedQError):  # noqa: N818 (a name users read)
    """Weights that cannot be used: missing, altered, or not those of the model."""


class KeysMismatch(WeightsMismatch):
    """Weights that are not those of the model; lists what is missing, unexpected or misshapen."""

    def __init__(self, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        self.misshapen = tuple(misshapen)
        parts = [
            f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for what, keys in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.misshapen),
            )
            if keys
        ]
        super().__init__(f"the weights do not fit the model: {'; '.join(parts)}. Are these the weights of this config?")


# Released key, our key. {n} is a number, {p} weight or bias, {e} the expert, {rest} anything.
_LAYER, _BLOCK = "language_model.model.layers.{n}.", "transformer.blocks.{n}."
_VIT, _VIT_LAYER = "vit_model.vision_model.", "vit_model.vision_model.encoder.layers.{n}."
KEY_MAP: tuple[tuple[str, str], ...] = (
    ("language_model.model.embed_tokens.weight", "text_embedding.weight"),
    ("language_model.lm_head.weight", "lm_head.weight"),
    ("language_model.model.norm{e}.weight", "transformer.norm.{e}.weight"),
    *((f"{_LAYER}self_attn.{x}_proj{{e}}.{{p}}", f"{_BLOCK}attention.{x}.{{e}}.{{p}}") for x in "qkvo"),
    *((f"{_LAYER}self_attn.{x}_norm{{e}}.weight", f"{_BLOCK}attention.{x}_norm.{{e}}.weight") for x in "qk"),
    *((f"{_LAYER}mlp{{e}}.{x}_proj.weight", f"{_BLOCK}ffn.{{e}}.{x}.weight") for x in ("gate", "up", "down")),
    (f"{_LAYER}input_layernorm{{e}}.weight", f"{_BLOCK}attention_norm.{{e}}.weight"),
    (f"{_LAYER}post_attention_layernorm{{e}}.weight", f"{_BLOCK}ffn_norm.{{e}}.weight"),
    (f"{_VIT}embeddings.patch_embedding.{{p}}", "vision.embed.{p}"),
    (f"{_VIT}embeddings.position_embedding.weight", "vision.position.weight"),
    *((f"{_VIT_LAYER}self_attn.{x}_proj.{{p}}", f"vision.blocks.{{n}}.{x}.{{p}}") for x in "qkv"),
    (f"{_VIT_LAYER}self_attn.out_proj.{{p}}", "vision.blocks.{n}.o.{p}"),
    *((f"{_VIT_LAYER}layer_norm{x}.{{p}}", f"vision.blocks.{{n}}.norm{x}.{{p}}") for x in "12"),
    *((f"{_VIT_LAYER}mlp.fc{x}.{{p}}", f"vision.blocks.{{n}}.fc{x}.{{p}}") for x in "12"),
    (f"{_VIT}post_layernorm.{{p}}", "vision.norm.{p}"),
    *((f"connector.fc{x}.{{p}}", f"connector.fc{x}.{{p}}") for x in "12"),
    *((f"time_embedder.mlp.{x}.{{p}}", f"time_embedder.mlp.{x}.{{p}}") for x in "02"),
    ("vae2llm.{p}", "vae2llm.{p}"),
    ("llm2vae.{p}", "llm2vae.{p}"),
    ("vae_model.{rest}", "codec.{rest}"),
)

DROPPED: tuple[tuple[str, str], ...] = (
    (r".*rotary_emb\.inv_freq", "computed from rope_theta"),
    (r"(latent_pos_embed|vit_pos_embed)\.pos_embed", "a fixed sine and cosine table, computed"),
    (r"vae_batch_norm\..*", "belongs to a way of training that was not released"),
)

_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_EXPERTS = {"": "iqa", "_moe_gen": "ir"}
_FIELDS = {"n": r"\d+", "p": "weight|bias", "rest": ".+"}


def _pattern(template: str, expert: str) -> re.Pattern[str]:
    fields = {**_FIELDS, "e": expert}
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(f"(?P<{x}>{fields[x]})" if i % 2 else re.escape(x) for i, x in enumerate(parts))
    return re.compile(text)


_FROM_RELEASED = [(_pattern(theirs, "|_moe_gen"), ours) for theirs, ours in KEY_MAP]
_TO_RELEASED = [(_pattern(ours, "iqa|ir"), theirs) for theirs, ours in KEY_MAP]


def our_key(released: str) -> str | None:
    """Return our name of a released key, or None if it is dropped on purpose.

    Raises:
        KeyError: If the key is not in the table.
    """
    key = _WRAPPERS.sub("", released)
    if any(re.fullmatch(pattern, key) for pattern, _ in DROPPED):
        return None
    for pattern, template in _FROM_RELEASED:
        if match := pattern.fullmatch(key):
            fields = match.groupdict()
            if "e" in fields:
                fields["e"] = _EXPERTS[fields["e"]]
            return template.format(**fields)
    raise KeyError(released)


def released_key(ours: str) -> str:
    """Return the released name of our key.

    Raises:
        KeyError: If the key is not in the table.
    """
    for pattern, template in _TO_RELEASED:
        if match := pattern.fullmatch(ours):
            fields = match.groupdict()
            if "e" in fields:
                fields["e"] = {expert: suffix for suffix, expert in _EXPERTS.items()}[fields["e"]]
            return template.format(**fields)
    raise KeyError(ours)


def under_our_names(released: Iterable[str]) -> dict[str, str]:
    """Return, for our name of every key of a file that is used, the key in the file.

    Raises:
        KeysMismatch: If a key is not in the table.
    """
    found: dict[str, str] = {}
    unknown = []
    for key in released:
        try:
            ours = our_key(key)
        except KeyError:
            unknown.append(key)
            continue
        if ours is not None:
            found[ours] = key
    if unknown:
        raise KeysMismatch((), unknown, ())
    return found


def match(wanted: Mapping[str, Shape], given: Mapping[str, Shape], *, adapt_experts: bool = False) -> dict[str, str]:
    """Return, for every weight of a model, the name under which it is given; nothing may be left over.

    Args:
        wanted: Shapes of the model's weights.
        given: Shapes of the weights at hand, under our names.
        adapt_experts: Whether weights of another sharing fit too: where the model has two experts and the file one,
            both get it; where the model has one and the file two, the iqa weight is taken.

    Raises:
        KeysMismatch: If a weight is missing, unexpected or of another shape.
    """
    found = {name: name for name in wanted if name in given}
    left = given.keys() - wanted.keys()
    if adapt_experts:
        twins = {name: re.sub(r"\.ir(?=\.|$)", ".iqa", name) for name in {*wanted, *given}}
        found |= {name: twins[name] for name in wanted if name not in found and twins[name] in given}
        left = {name for name in left if twins[name] not in found}
    misshapen = [
        f"{name} ({given[source]} instead of {wanted[name]})"
        for name, source in sorted(found.items())
        if given[source] != wanted[name]
    ]
    missing = wanted.keys() - found.keys()
    if missing or left or misshapen:
        raise KeysMismatch(sorted(missing), sorted(left), misshapen)
    return found
