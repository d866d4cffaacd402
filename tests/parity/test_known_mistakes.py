"""Mistakes that other ports of the base model made; each is made here on purpose and must be noticed."""

import copy
import functools
import inspect
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medq_uni.config import SamplerConfig
from medq_uni.model import attention as attention_module
from medq_uni.model.flow import times
from medq_uni.model.generation import Context
from medq_uni.model.grid import SizeError, grid_ids, patchify
from medq_uni.model.medq import MedQ
from medq_uni.preprocess import view_shape
from medq_uni.pretrained.released import ReleasedFolder, load_released
from medq_uni.stream import BlockKind, ImageBlock, TextBlock, pack

FOLDER = Path(__file__).parent / "tiny_mot"
NOISE = SamplerConfig(start="noise", num_steps=3, time_shift=3.0)


@dataclass(frozen=True)
class Golden:
    model: MedQ
    tensors: dict[str, torch.Tensor]

    def context(self, order: str = "lvi") -> Context:
        """l: clean latent, v: vision, i: instruction, q: quality text."""
        g, context = self.tensors, self.model.start()
        for part in order:
            if part == "l":
                self.model.append_latent(context, self.model.codec.encode(g["in.image"][None]))
            elif part == "v":
                self.model.append_vision(context, g["in.vit_image"][None])
            else:
                name = {"i": "in.instruction_ids", "q": "in.quality_ids"}[part]
                self.model.append_text(context, [g[name].tolist()])
        return context

    def velocity(self, context: Context) -> torch.Tensor:
        x_t = self.model.latent_image(self.tensors["flow.x_t"][None], 4, 6)
        return self.model.latent_tokens(self.model.velocity(context, x_t, 0.7))[0]

    def error(self, name: str, ours: torch.Tensor) -> float:
        golden = self.tensors[name]
        return float((ours - golden).abs().max() / golden.abs().max())


@functools.cache
def golden() -> Golden:
    folder = ReleasedFolder(FOLDER)
    return Golden(
        load_released(folder, folder.config()).requires_grad_(False), load_file(FOLDER / "goldens.safetensors")
    )


def test_fifty_time_points_are_forty_nine_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(times(49)) == 50
    g = golden()
    calls = []
    forward = g.model.transformer.forward
    context = g.context()
    monkeypatch.setattr(g.model.transformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    g.model.sample(context, (4, 6), NOISE, noise=g.tensors["in.sampler_init_noise"][None])
    assert len(calls) == 3  # one forward for each evaluation: guidance is off by default
    assert g.error("sampler.times", times(4, shift=3.0)[: len(g.tensors["sampler.times"])]) > 0.05


def test_patches_are_flattened_with_the_channel_fastest() -> None:
    g = golden()
    image = g.tensors["in.vit_image"][None]
    assert torch.equal(patchify(image, 14)[0], g.tensors["vit.patches"])
    channel_first = torch.nn.functional.unfold(image, 14, stride=14).transpose(1, 2)[0]
    assert g.error("vit.patches", channel_first) > 0.1


def test_patches_do_not_overlap() -> None:
    g = golden()
    height, width = g.tensors["in.vit_image"].shape[-2:]
    assert g.model.embed_image(g.tensors["in.vit_image"][None]).shape[1] == (height // 14) * (width // 14)


def test_the_norm_after_the_last_vision_block_is_applied() -> None:
    g = golden()
    image = g.tensors["in.vit_image"][None]
    vision = copy.deepcopy(g.model.vision)
    assert g.error("vit.features", vision(image)[0]) < 1e-5
    vision.norm = torch.nn.Identity()
    assert g.error("vit.features", vision(image)[0]) > 0.1


def test_images_keep_their_proportions_for_the_encoder() -> None:
    height, width = view_shape(200, 400, (378, 980), 14)
    assert width / height == pytest.approx(2, rel=0.05)


def test_positions_stand_still_inside_an_image_and_step_once_after_it() -> None:
    tokens = golden().model.config.tokens
    blocks = [ImageBlock(kind=BlockKind.CLEAN, rows=2, cols=2), ImageBlock(kind=BlockKind.VISION, rows=1, cols=3)]
    stream = pack([*blocks, TextBlock(ids=[[7]])], tokens)
    assert stream.position[0].tolist() == [0] * 6 + [1] * 5 + [2, 3, 4]


@pytest.mark.parametrize("kind", [BlockKind.VISION, BlockKind.CLEAN, BlockKind.NOISED])
def test_every_image_stands_between_its_framing_tokens(kind: BlockKind) -> None:
    tokens = golden().model.config.tokens
    ids = pack([ImageBlock(kind=kind, rows=1, cols=2)], tokens, batch_size=1).token_ids[0].tolist()
    assert ids == [tokens.start_of_image, -1, -1, tokens.end_of_image]


@pytest.mark.parametrize("order", ["vliq", "ilvq", "lviq"])
def test_the_order_is_latent_vision_instruction_quality(order: str) -> None:
    g = golden()
    error = g.error("flow.velocity", g.velocity(g.context(order)))
    assert (error < 1e-4) == (order == "lviq")


@pytest.mark.parametrize("missing", ["l", "v", "i", "q"])
def test_no_part_of_the_context_is_silently_absent(missing: str) -> None:
    g = golden()
    assert g.error("flow.velocity", g.velocity(g.context("lviq".replace(missing, "")))) > 1e-3


@pytest.mark.parametrize("scales", [(4.0, 1.0), (4.0, 2.0)])
def test_guidance_has_its_contexts(scales: tuple[float, float]) -> None:
    g = golden()
    noise = g.tensors["in.sampler_init_noise"][None]
    guided = replace(NOISE, text_guidance=scales[0], image_guidance=scales[1])
    plain, led = (g.model.sample(g.context("lviq"), (4, 6), s, noise=noise).latent for s in (NOISE, guided))
    assert (plain - led).abs().max() > 0.05 * plain.abs().max()
    with pytest.raises(ValueError, match="needs a context with text"):
        g.model.sample(g.context("lv"), (4, 6), guided, noise=noise)


def test_text_sees_all_of_its_past_when_it_is_written_in_pieces() -> None:
    """A causal mask that is aligned at the top left hides the past from a continued text."""
    g = golden()
    ids = g.tensors["in.instruction_ids"].tolist()
    whole, pieces = g.context("lv"), g.context("lv")
    expected = g.model.extend_text(whole, [ids], closes=False)
    g.model.extend_text(pieces, [ids[:3]], closes=False)
    found = g.model.extend_text(pieces, [ids[3:]], opens=False, closes=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert "is_causal" not in inspect.getsource(attention_module)


def test_encoding_twice_gives_the_same_latent() -> None:
    g = golden()
    once, twice = (g.model.codec.encode(g.tensors["in.image"][None]) for _ in range(2))
    assert torch.equal(once, twice)


def test_decoding_keeps_floats_beyond_eight_bits() -> None:
    g = golden()
    image = g.model.codec.decode(g.tensors["vae.latent"]).image
    levels = (image * 0.5 + 0.5) * 255
    assert (levels - levels.round()).abs().mean() > 0.1
    assert float(image.abs().max()) > 1  # not clamped


def test_every_sample_of_a_batch_may_end_its_text_by_itself() -> None:
    """The original stops when the first sample of a batch has ended."""
    g = golden()
    alone = g.model.generate(g.context("lvi"), max_tokens=6)[0]
    batch = g.context("lvi").fork(2)
    eos = g.model.config.tokens.eos

    class Ends:
        def allowed(self, prefix: list[int]) -> list[int] | None:
            return [eos] if prefix else None

        def narrowed(self, prefix: list[int], allowed: list[int], logits: list[float]) -> list[int]:
            return allowed

        def forced(self, prefix: list[int]) -> list[int]:
            return []

    texts = g.model.generate(batch, max_tokens=6, constraint=[Ends(), None])
    assert texts == [alone[:1], alone]


def test_a_grid_outside_the_position_table_is_an_error() -> None:
    with pytest.raises(SizeError, match="outside the position table"):
        grid_ids(33, 2, 32)


def test_time_is_not_multiplied_by_a_thousand() -> None:
    g = golden()
    t = g.tensors["time.t"]
    assert g.error("time.embedding", g.model.time_embedder(t)) < 1e-5
    assert g.error("time.embedding", g.model.time_embedder(1000 * t)) > 0.1
