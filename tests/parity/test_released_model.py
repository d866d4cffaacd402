"""Every golden tensor of the released architecture, reproduced with both ways of sharing weights."""

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from medq_uni.config import ModelConfig, SamplerConfig
from medq_uni.model.flow import TimeEmbedder, interpolate, target_velocity, times
from medq_uni.model.generation import Context
from medq_uni.model.grid import grid_ids, patchify, sincos_table
from medq_uni.model.medq import MedQ, StreamInputs
from medq_uni.pretrained.keys import our_key
from medq_uni.pretrained.released import ReleasedFolder, load_released, read_config
from medq_uni.stream import BlockKind, ImageBlock, TextBlock, TokenKind, TokenStream, pack

FOLDER = Path(__file__).parent
CASES = ("tiny_mot", "tiny_shared_attention")
ROW = re.compile(r"^\| ([\w.]+) \| [\dx]+ \| \w+ \| .* \| (exact|-|\d+e-\d+)( of the tensor max)? \|$", re.M)


def tolerances(case: str) -> dict[str, tuple[float, bool]]:
    """Name -> (tolerance, whether it is relative to the tensor's own maximum), from the table of the case."""
    rows = ROW.findall((FOLDER / case / "README.md").read_text())
    return {name: (0.0 if x == "exact" else float(x), bool(own)) for name, x, own in rows if x != "-"}


@dataclass(frozen=True)
class Case:
    model: MedQ
    config: ModelConfig
    golden: dict[str, torch.Tensor]

    @property
    def instruction(self) -> list[list[int]]:
        return [self.golden["in.instruction_ids"].tolist()]

    @property
    def quality(self) -> list[list[int]]:
        return [self.golden["in.quality_ids"].tolist()]

    def latent(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.latent_image(tokens[None], 4, 6)

    def stream(self, *, label_instruction: bool = False) -> TokenStream:
        blocks = [
            ImageBlock(kind=BlockKind.CLEAN, rows=2, cols=3),
            ImageBlock(kind=BlockKind.VISION, rows=2, cols=3),
            TextBlock(ids=self.instruction, labels=label_instruction),
            TextBlock(ids=self.quality, labels=True),
            ImageBlock(kind=BlockKind.NOISED, rows=2, cols=3),
        ]
        return pack(blocks, self.config.tokens)

    def inputs(self) -> StreamInputs:
        g = self.golden
        clean, target = (self.model.codec.encode(g[k][None]).detach() for k in ("in.image", "in.target_image"))
        noised = interpolate(target, self.latent(g["in.noise"]), g["in.t"])
        return StreamInputs(clean=(clean,), images=(g["in.vit_image"][None],), noised=(noised,), t=g["in.t"])

    def context(self, *texts: list[list[int]]) -> Context:
        context = self.model.start(capacity=8)  # smaller than needed: it has to grow
        inputs = self.inputs()
        self.model.append_latent(context, inputs.clean[0])
        self.model.append_vision(context, inputs.images[0])
        for ids in texts:
            self.model.append_text(context, ids)
        return context


@functools.cache
def load(case: str) -> Case:
    config = read_config(FOLDER / case)
    return Case(
        load_released(ReleasedFolder(FOLDER / case), config), config, load_file(FOLDER / case / "goldens.safetensors")
    )


def small_parts(case: Case) -> dict[str, torch.Tensor]:
    g, model, config = case.golden, case.model, case.config
    vision_side = config.vision.max_patches_per_side
    return {
        "sincos.latent": sincos_table(config.max_latent_size, config.transformer.hidden_size),
        "sincos.vit": sincos_table(vision_side, config.transformer.hidden_size),
        "time.sinusoid": TimeEmbedder.sinusoid(g["time.t"]),
        "time.embedding": model.time_embedder(g["time.t"]),
        "vit.patches": patchify(g["in.vit_image"][None], config.vision.patch_size)[0],
        "vit.position_ids": grid_ids(2, 3, vision_side),
        "vit.features": model.vision(g["in.vit_image"][None])[0],
        "vit.connector": model.connector(model.vision(g["in.vit_image"][None]))[0],
        "vit.tokens": model.embed_image(g["in.vit_image"][None])[0],
        "latent.position_ids": grid_ids(2, 3, config.max_latent_size),
        "sampler.times": times(3, shift=3.0),
    }


def codec_parts(case: Case) -> dict[str, torch.Tensor]:
    g, model, codec = case.golden, case.model, case.config.codec
    latent, target = (model.codec.encode(g[k][None]) for k in ("in.image", "in.target_image"))
    tokens, target_tokens = model.latent_tokens(latent)[0], model.latent_tokens(target)[0]
    return {
        "vae.mean_raw": latent / codec.scale_factor + codec.shift_factor,
        "vae.latent": latent,
        "vae.latent_target": target,
        "vae.decode": model.codec.decode(latent).image,
        "vae.tokens": tokens,
        "vae.tokens_target": target_tokens,
        "flow.x_t": interpolate(target_tokens, g["in.noise"], g["in.t"]),
        "flow.v_target": target_velocity(target_tokens, g["in.noise"]),
    }


def stream_parts(case: Case) -> dict[str, torch.Tensor]:
    stream = case.stream()
    kind = stream.kind
    latent_columns = (kind == TokenKind.LATENT).nonzero()[:, 0]
    return {
        "seq.block_lengths": torch.tensor([s.stop - s.start for s in stream.spans]),
        "seq.rope_ids": stream.position[0],
        "seq.attention_mask": stream.mask[0, 0].to(torch.uint8),
        "seq.expert_id": stream.expert,
        "seq.token_kind": kind,
        "seq.token_ids": stream.token_ids[0],
        "seq.text_indexes": (kind == TokenKind.TEXT).nonzero()[:, 0],
        "seq.vit_indexes": (kind == TokenKind.VISION).nonzero()[:, 0],
        "seq.vae_indexes": latent_columns,
        "seq.mse_indexes": stream.ir_columns[stream.target_places],
        "seq.ce_indexes": stream.label_positions,
        "seq.ce_labels": stream.labels,
    }


def packed_parts(case: Case) -> dict[str, torch.Tensor]:
    model, stream, inputs = case.model, case.stream(), case.inputs()
    layer0 = []
    handle = model.transformer.blocks[0].register_forward_hook(lambda *a: layer0.append(a[-1]))
    hidden = model.hidden(stream, inputs)
    handle.remove()
    outputs = model(stream, inputs)
    v_target = target_velocity(case.golden["vae.tokens_target"], case.golden["in.noise"])
    merged = stream.merge(*hidden)[0]
    texts = [merged[s.start : s.stop] for s in stream.spans if s.kind is BlockKind.TEXT]
    mse = (outputs.velocity[0] - v_target).square()
    ce = F.cross_entropy(outputs.logits, stream.labels, reduction="none")
    model.zero_grad()
    (mse.mean() + ce.mean()).backward()
    parameters = dict(model.named_parameters())
    grads = {name: parameters[our_key(name.removeprefix("grad."))].grad for name in grad_names(case)}
    return {
        "lm.input": stream.merge(*model.embed(stream, inputs))[0],
        "lm.layer0_output": stream.merge(*layer0[0])[0],
        "lm.last_hidden": merged,
        "flow.velocity": outputs.velocity[0],
        "text.logits_instruction": model.lm_head(texts[0]),
        "text.logits_quality": model.lm_head(texts[1]),
        "loss.mse_elements": mse,
        "loss.ce_elements": ce,
        "loss.mse": mse.mean()[None],
        "loss.ce": ce.mean()[None],
        **grads,
    }


def grad_names(case: Case) -> list[str]:
    return [name for name in case.golden if name.startswith("grad.")]


def text_parts(case: Case) -> dict[str, torch.Tensor]:
    context = case.context(case.instruction)
    ids, logits = [], []
    for i in range(6):
        step = case.model.extend_text(context, [ids[-1:]], opens=i == 0, closes=False)
        logits.append(step[0])
        ids.append(int(step.argmax()))
    return {"text.greedy_ids": torch.tensor(ids), "text.greedy_logits": torch.stack(logits)}


def sampler_parts(case: Case) -> dict[str, torch.Tensor]:
    model, full = case.model, case.context(case.instruction, case.quality)
    off = SamplerConfig(start="noise", num_steps=3, time_shift=3.0)
    guided = replace(off, text_guidance=4.0, image_guidance=2.0)
    settings = {
        "sampler.latents": off,
        **{
            f"sampler.latents_cfg_{renorm}": replace(guided, guidance_renorm=renorm)
            for renorm in ("text_channel", "global", "channel")
        },
        "sampler.latents_cfg_text_only_global": replace(guided, image_guidance=1.0, guidance_renorm="global"),
    }
    noise = case.golden["in.sampler_init_noise"][None]
    latents = {k: model.sample(full, (4, 6), s, noise=noise).latent[0] for k, s in settings.items()}
    contexts = model.guidance_contexts(full, guided)
    three = (full, contexts.without_text, contexts.without_images)
    return {
        "flow.velocity_cached": model.latent_tokens(
            model.velocity(full, case.latent(case.golden["flow.x_t"]), case.golden["in.t"])
        )[0],
        **{name: model.latent_tokens(z)[0] for name, z in latents.items()},
        "sampler.image": model.codec.decode(latents["sampler.latents"]).image,
        "sampler.image_cfg_text_channel": model.codec.decode(latents["sampler.latents_cfg_text_channel"]).image,
        "ctx.kv_lengths": torch.tensor([c.past.length for c in three]),
        "ctx.next_rope_ids": torch.tensor([int(c.past.next_position[0]) for c in three]),
    }


PARTS = (small_parts, codec_parts, stream_parts, packed_parts, text_parts, sampler_parts)


@functools.cache
def reproduce(name: str) -> dict[str, torch.Tensor]:
    case = load(name)
    return {k: x.detach() for part in PARTS for k, x in part(case).items()}


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in CASES for name in tolerances(case)])
def test_golden_tensor_is_reproduced(case: str, name: str) -> None:
    tolerance, is_relative = tolerances(case)[name]
    ours, golden = reproduce(case)[name], load(case).golden[name]
    assert ours.shape == golden.shape
    if tolerance == 0:
        assert torch.equal(ours.to(golden.dtype), golden)
        return
    scale = golden.abs().max() if is_relative else golden.abs().max().clamp_min(1)
    assert (ours - golden).abs().max() <= min(tolerance, 1e-4) * scale


@pytest.mark.parametrize("case", CASES)
def test_no_golden_tensor_is_left_out(case: str) -> None:
    expected = {name for name in load(case).golden if not name.startswith("in.") and name != "time.t"}
    assert expected == set(tolerances(case))
    assert expected == set(reproduce(case))


@pytest.mark.parametrize("case", CASES)
def test_cached_velocity_equals_packed_velocity(case: str) -> None:
    ours = reproduce(case)
    torch.testing.assert_close(ours["flow.velocity_cached"], ours["flow.velocity"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_generated_text_is_the_greedy_text_of_the_reference(case: str) -> None:
    c = load(case)
    written = c.model.generate(c.context(c.instruction), max_tokens=6)
    assert written == [c.golden["text.greedy_ids"].tolist()]


@pytest.mark.parametrize("case", CASES)
def test_writing_a_text_leaves_the_same_context_as_reading_it(case: str) -> None:
    c = load(case)
    written_context = c.context(c.instruction)
    ids = c.model.generate(written_context, max_tokens=6)
    read_context = c.context(c.instruction, ids)
    x_t = c.latent(c.golden["flow.x_t"])
    assert written_context.past.length == read_context.past.length
    a, b = (c.model.velocity(context, x_t, 0.7) for context in (written_context, read_context))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
