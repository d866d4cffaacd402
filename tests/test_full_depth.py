"""The main job with a released checkpoint: float in, float out, native sizes, grey to three channels and back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.config import SamplerConfig
from medq_uni.data.phantoms import draw_phantom
from medq_uni.image import MedicalImage, Units
from medq_uni.model.inputs import Sampled
from medq_uni.model.vae import DecodedImage
from medq_uni.preprocess import as_channels, as_views, spread_as_views, to_image, to_tensor, view_shape
from medq_uni.pretrained.load import load_pretrained
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.scaling import scaling_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality

pytestmark = pytest.mark.filterwarnings("ignore:The image is read as")  # random weights see anything
TWO_STEPS = SamplerConfig(start="noise", num_steps=2, time_shift=3.0)


@pytest.fixture(scope="module")
def restorer(released: Path) -> Restorer:
    return Restorer(load_pretrained(released))


def slice_of(modality: Modality, side: int = 128) -> MedicalImage:
    return draw_phantom(modality, generator_of(4), size=side).image


def test_the_whole_job_runs_with_a_released_checkpoint(restorer: Restorer) -> None:
    image = slice_of(Modality.MR)
    result = restorer.restore(image, settings=RestoreSettings(sampler=TWO_STEPS, force=True))
    assert result.restored.shape == image.shape
    assert result.description.modality is Modality.MR
    assert result.provenance.options.precision == "bfloat16"
    assert len(np.unique(result.restored.voxels)) > 1000  # an 8-bit path could hold 256 values


@pytest.mark.parametrize("modality", list(Modality))
def test_floats_survive_three_channels_and_back(modality: Modality) -> None:
    image = slice_of(modality)
    views, inverse = to_tensor(image, multiple=16)
    back = to_image(as_views(as_channels(views, channels=3), inverse.scaling), inverse)
    span = inverse.scaling.high - inverse.scaling.low
    assert float(np.abs(back.voxels - image.voxels).max()) < 1e-6 * span


def test_the_window_is_computed_again_from_the_one_view_that_a_network_writes() -> None:
    image = MedicalImage(np.full((1, 128, 128), 40.0), modality=Modality.CT, units=Units.HU)
    views, inverse = to_tensor(image, multiple=16)
    three = as_channels(views, channels=3) + 10 * 2 / 4095  # ten HU brighter
    assert to_image(as_views(three, inverse.scaling), inverse).voxels == pytest.approx(50.0, abs=0.01)
    spread = spread_as_views(torch.full((1, 3, 128, 128), 10 * 2 / 4095), inverse.scaling)
    sigma = inverse.scaling.spread_from_views(spread, views)
    assert sigma.mean() == pytest.approx(10.0, rel=1e-4)


@pytest.mark.parametrize("side", [256, 512])
def test_native_matrices_are_encoded_as_they_are(
    restorer: Restorer, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    codec = restorer.model.codec
    encode = codec.encode

    def spy(image: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(image.shape), image.dtype))
        return encode(image)

    monkeypatch.setattr(codec, "encode", spy)
    monkeypatch.setattr(
        restorer.model, "sample", lambda c, s, sampler, start_latent, noise: Sampled(*[start_latent[None]] * 2)
    )
    monkeypatch.setattr(codec, "decode", lambda z, fidelity, states: DecodedImage(torch.zeros(len(z), 3, side, side)))
    restorer.restore(slice_of(Modality.CT, side), settings=RestoreSettings(sampler=TWO_STEPS, force=True))
    assert shapes == [((1, 3, side, side), torch.float32)]


@pytest.mark.parametrize(
    ("size", "sides", "expected"),
    [
        ((256, 256), (378, 980), (378, 378)),
        ((512, 512), (378, 980), (518, 518)),
        ((256, 384), (378, 980), (378, 560)),  # proportions stay: never stretched to a square
        ((1024, 1024), (224, 980), (980, 980)),
        ((100, 900), (378, 980), (112, 980)),
        ((2000, 2000), (378, 980), (980, 980)),
    ],
)
def test_the_encoder_sees_the_sizes_of_the_base_model(
    size: tuple[int, int], sides: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert view_shape(*size, sides, 14) == expected


def test_samples_drawn_at_once_equal_samples_drawn_one_by_one(restorer: Restorer) -> None:
    image, sampler = slice_of(Modality.PET, 64), replace(TWO_STEPS, num_samples=3)
    settings = [RestoreSettings(sampler=sampler, force=True, batch_size=size) for size in (1, 4)]
    both = [restorer.restore(image, settings=one) for one in settings]
    span = scaling_of(image).high
    assert np.abs(both[0].restored.voxels - both[1].restored.voxels).max() < 0.02 * span  # bfloat16
    assert both[0].uncertainty is not None
    assert float(both[0].uncertainty.voxels.max()) > 0
