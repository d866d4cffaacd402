import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.physics import ct
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.physics.effect import effect
from medq_uni.physics.operators import Radon
from medq_uni.taxonomy import Modality, Severity, Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("severity", list(Severity)[1:])
def test_added_ct_noise_has_the_recorded_standard_deviation(severity: Severity):
    image = phantom(Modality.CT, generator(3), size=128)
    record = draw_record(Task.CT_LOW_DOSE, severity, generator(1))
    added = apply_records(image, record).voxels - image.voxels
    body = image.voxels > -500
    assert added[body].std() == pytest.approx(record.params["noise_sd_hu"], rel=0.1)


def test_quantum_noise_variance_falls_with_the_dose_as_one_over_d_minus_one():
    path = torch.full((4, 4), 2.0)
    half, quarter = (
        ct.noise_variances(path, {"dose_fraction": d, "electronic_counts": 5.0})[0].mean() for d in (0.5, 0.25)
    )
    assert float(quarter / half) == pytest.approx((1 / 0.25 - 1) / (1 / 0.5 - 1))


def test_the_bow_tie_takes_photons_from_thin_rays_only():
    path = torch.linspace(0, 6, 25).expand(3, -1)
    params = {"dose_fraction": 0.25, "electronic_counts": 5.0}
    plain, shaped = (ct.noise_variances(path, params | {"bowtie": strength})[0] for strength in (0.0, 1.0))
    assert torch.equal(plain[:, -1], shaped[:, -1])
    assert (shaped[:, :-1] > plain[:, :-1]).all()
    assert torch.allclose(shaped, shaped[:, -1:].expand_as(shaped))


def test_noise_grows_where_rays_are_long():
    place = torch.arange(96) - 47.5
    inside = torch.hypot(place[:, None] / 26, place[None] / 44) < 1
    image = torch.where(inside, 0.0, -1000.0)
    params = {"dose_fraction": 0.2, "noise_sd_hu": 40.0, "electronic_counts": 5.0}
    added = ct.low_dose(image, params=params, spacing_mm=(4.0, 4.0), generator=generator()) - image
    across, along = added[44:52].diff(dim=1), added[44:52].diff(dim=0)
    assert float(along[:, 30:66].std()) > 1.1 * float(
        across[:, 30:66].std()
    )  # rays along x are longer: streaks run along x


def test_the_noise_of_the_rays_is_what_the_image_gets_and_has_the_variance_it_states():
    image = torch.from_numpy(phantom(Modality.CT, generator(3), size=96).voxels[0])
    params = ct.draw_low_dose(Severity.MODERATE, generator(1))
    options = {"params": params, "spacing_mm": (3.0, 3.0)}
    noise, variance = ct.ray_noise(image, **options, generator=generator(2))
    assert float((noise.square() / variance).mean()) == pytest.approx(1, abs=0.05)
    low = ct.low_dose(image, **options, generator=generator(2))
    to_hu = 1000 / ct.MU_WATER_PER_MM / 3.0
    added = Radon(96, 96, ct.VIEWS).filtered_backprojection(noise[None])[0] * to_hu
    body = image > ct.BODY_HU
    assert torch.allclose((low - image)[body], added[body], atol=0.05)


def test_counted_photons_give_the_recorded_noise_where_there_are_many():
    image = phantom(Modality.CT, generator(3), size=96)
    record = draw_record(Task.CT_LOW_DOSE, Severity.MILD, generator(1), method="counts")
    made = apply_records(image, record)
    assert effect(made, image, Task.CT_LOW_DOSE) == pytest.approx(record.params["noise_sd_hu"], rel=0.2)
