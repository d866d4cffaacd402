from dataclasses import fields
from pathlib import Path

import pytest
import torch

from medq_uni.pretrained.ood_detector import Gaussian, fit_ood_detector, load_ood_detector
from medq_uni.taxonomy import Modality

SIZE = 60
SCALES = torch.cat([torch.linspace(5, 1, 40), torch.full((20,), 0.5)])


def drawn(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(99)))
    return (SCALES * torch.randn(count, SIZE, generator=generator) + shift) @ turned.T + 3


def fitted() -> Gaussian:
    found = fit_ood_detector({Modality.CT: drawn(4000, 1)}, {Modality.CT: drawn(1000, 2)})
    assert found is not None
    return found.by_modality[Modality.CT]


def test_the_squared_distance_of_a_gaussian_has_the_mean_of_a_chi_squared_one():
    assert float(fitted().distance(drawn(2000, 3)).square().mean()) == pytest.approx(SIZE, rel=0.05)


def test_one_held_out_image_in_a_hundred_lies_above_the_limit():
    known = fitted()
    above = (known.distance(drawn(4000, 4)) > known.limit).double().mean()
    assert 0.003 < float(above) < 0.025


def test_every_direction_counts_the_small_ones_too():
    known = fitted()
    step = torch.eye(SIZE)[:1] @ torch.linalg.svd(drawn(4000, 1) - known.mean).Vh  # the largest direction
    small = torch.linalg.svd(drawn(4000, 1) - known.mean).Vh[-1:]
    far, farther = (known.distance(known.mean + 10 * way) for way in (step, small))
    assert farther > 5 * far > 0


def test_what_is_unlike_says_so_and_an_unknown_modality_says_nothing():
    found = fit_ood_detector({Modality.CT: drawn(4000, 1)}, {Modality.CT: drawn(1000, 2)})
    assert found is not None
    unlike = found.ood_score(drawn(50, 5, shift=3.0), Modality.CT)
    assert unlike is not None
    assert (unlike > 1.5).all()
    assert found.ood_score(drawn(2, 5), Modality.MR) is None


def test_too_few_images_say_nothing():
    assert fit_ood_detector({Modality.CT: drawn(50, 1)}, {Modality.CT: drawn(50, 2)}) is None
    assert fit_ood_detector({Modality.CT: drawn(4000, 1)}, {}) is None


def test_the_file_gives_back_the_same_numbers(tmp_path: Path):
    found = fit_ood_detector({Modality.PET: drawn(400, 1)}, {Modality.PET: drawn(100, 2)})
    assert found is not None
    again = load_ood_detector(tmp_path / found.save(tmp_path))
    assert set(again.by_modality) == {Modality.PET}
    for field in fields(Gaussian):
        one, other = (getattr(x.by_modality[Modality.PET], field.name) for x in (found, again))
        assert one.shape == other.shape
        assert torch.equal(one, other)


def test_images_that_are_all_alike_do_not_divide_by_zero():
    alike = torch.ones(300, SIZE)
    found = fit_ood_detector({Modality.MR: alike}, {Modality.MR: alike[:50] + 1e-3 * drawn(50, 1)})
    assert found is not None
    unlike = found.ood_score(alike[:1], Modality.MR)
    assert unlike is not None
    assert unlike.isfinite().all()
