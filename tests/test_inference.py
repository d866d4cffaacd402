"""The one way through the network, on nano and on a small model with the FLUX codec."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from medq_uni.config import SamplerConfig
from medq_uni.description import DEFAULT_RESTORE, QualityDescription
from medq_uni.inference import CODEC_ONLY, EXPERTS_BYPASSED, NO_SKIP, WHOLE, Condition, Inference, Parts
from medq_uni.pretrained.load import load_pretrained
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.systems.build import build, read_specs
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Modality, Severity

FORMS = {"whole": WHOLE, "expert-bypassed": EXPERTS_BYPASSED, "no-skip": NO_SKIP, "codec-only": CODEC_ONLY}
ONE_STEP = SamplerConfig()


@pytest.fixture(scope="module", params=["nano", "flux"])
def engine(request: pytest.FixtureRequest, released: Path) -> Inference:
    return Inference.of(load_pretrained("nano" if request.param == "nano" else released))


@pytest.fixture(scope="module")
def views() -> Tensor:
    return torch.rand(2, 2, 128, 128, generator=torch.Generator().manual_seed(3)) * 2 - 1


def restored(engine: Inference, views: Tensor, parts: Parts = WHOLE, **options: object) -> Tensor:
    words = [[engine.tokenizer.encode(DEFAULT_RESTORE)] * len(views)]
    told = {"texts": words, "seen": views} | {name: options.pop(name) for name in ("texts", "seen") if name in options}
    return engine.restore(views, Condition(**told), parts=parts, **{"sampler": ONE_STEP} | options).image


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_an_image_of_the_codec(engine: Inference, views: Tensor, form: str) -> None:
    image = restored(engine, views, FORMS[form])
    assert image.shape == (2, engine.model.config.codec.in_channels, 128, 128)
    assert image.isfinite().all()


def test_without_experts_no_word_counts(engine: Inference, views: Tensor) -> None:
    spoken, silent = (restored(engine, views, EXPERTS_BYPASSED, texts=texts) for texts in ([[[5, 6]] * 2], ()))
    assert torch.equal(spoken, silent)
    assert not torch.equal(restored(engine, views), spoken)


def test_the_codec_alone_is_what_encode_and_decode_are(engine: Inference, views: Tensor) -> None:
    codec, given = engine.model.codec, engine.preprocessor.codec_input(views)
    assert torch.equal(restored(engine, views, CODEC_ONLY), codec.decode(codec.encode(given)).image.float())


def test_words_and_what_is_seen_change_the_restoration(engine: Inference, views: Tensor) -> None:
    plain = restored(engine, views)
    assert not torch.equal(plain, restored(engine, views, texts=()))
    assert not torch.equal(plain, restored(engine, views, seen=None))


def test_a_batch_is_its_slices(engine: Inference, views: Tensor) -> None:
    both = restored(engine, views)
    each = torch.cat([restored(engine, one) for one in views.split(1)])
    assert torch.allclose(both, each, atol=5e-3 * float(both.abs().max()))  # float32 through random weights


def test_samples_are_averaged_and_their_spread_counts(engine: Inference, views: Tensor) -> None:
    sampler = SamplerConfig(start="noise", num_samples=3)
    size = engine.noise_shape(128, 128)
    drawn = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))

    def noise(numbers: range) -> Tensor:
        return drawn[list(numbers)]

    first = views[:1]
    together, apart = (
        engine.restore(first, Condition(), sampler=sampler, noise=noise, samples_at_once=count) for count in (3, 1)
    )
    assert torch.allclose(together.image, apart.image, atol=2e-4)
    assert together.deviation is not None
    assert (together.deviation > 0).any()


@pytest.mark.parametrize("modality", [Modality.CT, None])
def test_it_describes_each_slice_and_keeps_to_what_it_was_told(views: Tensor, modality: Modality | None) -> None:
    engine = Inference.of(load_pretrained("nano"))
    written = engine.describe(views, [modality, Modality.MR], looks=True)
    assert [one.description for one in written] == [
        QualityDescription.from_text(engine.tokenizer.decode(one.ids)) for one in written
    ]
    assert written[1].description.modality is Modality.MR
    assert modality is None or written[0].description.modality is modality
    assert all(isinstance(one.looks_like, Modality) for one in written)
    assert engine.describe(views[:1], [Modality.CT])[0].looks_like is None


@pytest.mark.parametrize("form", ["expert-bypassed", "no-skip", "codec-only", "forced"])
def test_every_ablated_form_restores_a_slice_of_any_model(form: str, released: Path, cases: list[Case]) -> None:
    case = next(one for one in cases if one.severity is Severity.SEVERE and one.task.modality is Modality.MR)
    for model in ("nano", str(released)):
        (spec,) = read_specs([f"{model}:{form}"], "cpu")
        found = build(spec).restore(case).image
        assert found.shape == case.degraded.shape
        assert found.units is case.degraded.units


def test_a_sampler_of_many_samples_restores_alike_in_any_batch(cases: list[Case], restorer: Restorer) -> None:
    case = next(one for one in cases if one.task.modality is Modality.PET)
    sampler = SamplerConfig(start="noise", num_samples=2)
    one, four = (
        restorer.restore(
            case.degraded, settings=RestoreSettings(force=True, sampler=sampler, batch_size=size)
        ).restored.voxels
        for size in (1, 4)
    )
    assert one == pytest.approx(four, abs=1e-3 * float(abs(four).max()))
