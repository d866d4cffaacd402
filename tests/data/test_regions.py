import math

import numpy as np
import pytest
import torch

from medq_uni.data.regions import FEWEST_PLACES, apart, distance_from, draw_place, tissue, uniform_places
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality


def test_tissue_is_soft_tissue_in_ct_and_the_foreground_elsewhere():
    values = np.full((40, 40), -1000.0)
    values[10:30, 5:20], values[10:30, 20:35] = 50, 700  # soft tissue, bone
    inside = tissue(MedicalImage(values, modality=Modality.CT))
    assert inside[20, 10]
    assert not inside[20, 28]
    assert not inside[2, 2]
    inside = tissue(MedicalImage(np.maximum(values, 0), modality=Modality.MR))
    assert inside[20, 10]
    assert inside[20, 28]


@pytest.mark.parametrize("modality", [Modality.CT, Modality.MR])
def test_squares_lie_wholly_inside_and_the_most_uniform_come_first(modality: Modality):
    values = np.full((32, 32), 100.0)
    values[:, 16:] += np.random.default_rng(0).normal(0, 20, (32, 16))
    inside = np.zeros((32, 32), bool)
    inside[4:28, 4:28] = True
    places = uniform_places(MedicalImage(values, modality=modality), inside, 5)
    assert len(places) == 20 * 20
    assert all(6 <= place <= 25 for pair in places for place in pair)
    assert all(column <= 13 for _, column in places[:100])
    assert uniform_places(MedicalImage(values, modality=modality), inside & False, 5) == []


def test_places_that_are_yielded_are_apart():
    places = [(0, 0), (0, 3), (0, 4), (5, 0), (9, 9)]
    assert list(apart(places, 4.0)) == [(0, 0), (0, 4), (5, 0), (9, 9)]


def test_a_place_is_drawn_among_the_most_uniform():
    generator = torch.Generator().manual_seed(0)
    places = [(number, 0) for number in range(400)]
    drawn = {draw_place(places, generator) for _ in range(200)}
    assert max(row for row, _ in drawn) < 100
    few = {draw_place(places[:40], generator) for _ in range(200)}
    assert max(row for row, _ in few) < FEWEST_PLACES
    assert draw_place([], generator) is None


def test_distance_is_euclidean():
    distance = distance_from((8, 9), (2, 3))
    assert distance.shape == (8, 9)
    assert distance[2, 3] == 0
    assert distance[5, 7] == pytest.approx(math.hypot(3, 4))
