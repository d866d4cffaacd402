import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics import mr_scanner
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.mr_scanner import Chain, Window, acquired, filled
from medq_uni.physics.operators import to_k_space
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Modality, Severity, Task, tasks_of

SIDES = st.integers(16, 49)
FACTORS = st.floats(1.0, 2.0)
MR_TASKS = tasks_of(Modality.MR)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(height: int, width: int) -> torch.Tensor:
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return torch.exp(-6 * (y**2 + x**2)) + 0.0j


@settings(max_examples=30, deadline=None)
@given(height=SIDES, width=SIDES, y=FACTORS, x=FACTORS)
def test_cutting_and_filling_is_a_projection_to_the_acquired_band(height: int, width: int, y: float, x: float):
    chain = Chain(interpolation_y=y, interpolation_x=x)
    matrix = chain.matrix(height, width)
    image = torch.randn(height, width, generator=generator(1), dtype=torch.complex64)
    once = filled(acquired(image, matrix), chain, (height, width))
    twice = filled(acquired(once, matrix), chain, (height, width))
    assert once.shape == image.shape
    assert torch.allclose(once, twice, atol=1e-4)
    outside = torch.ones(height, width, dtype=torch.bool)
    top, left = height // 2 - matrix[0] // 2, width // 2 - matrix[1] // 2
    outside[top : top + matrix[0], left : left + matrix[1]] = False
    assert (to_k_space(once)[outside].abs() < 1e-4).all()
    assert torch.allclose(to_k_space(once)[~outside], to_k_space(image)[~outside], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(height=SIDES, width=SIDES, y=FACTORS, x=FACTORS)
def test_smooth_images_keep_their_values_on_the_smaller_matrix(height: int, width: int, y: float, x: float):
    chain = Chain(interpolation_y=y, interpolation_x=x)
    image = torch.full((height, width), 3.0 + 0j)
    small = acquired(image, chain.matrix(height, width))
    assert small.shape == chain.matrix(height, width)
    assert torch.allclose(small, torch.full_like(small, 3.0), atol=1e-4)
    assert torch.allclose(filled(small, chain, (height, width)), image, atol=1e-4)


def test_cutting_rings_beside_edges():
    step = torch.zeros(64, 64, dtype=torch.complex64)
    step[:, 16:48] = 1.0
    chain = Chain(interpolation_x=2.0)
    row = filled(acquired(step, chain.matrix(64, 64)), chain, (64, 64)).real[32]
    assert float(row.max()) == pytest.approx(1.09, abs=0.03)  # Gibbs: 9 % of the step
    smooth = Chain(interpolation_x=2.0, window=Window.HAMMING)
    assert float(filled(acquired(step, smooth.matrix(64, 64)), smooth, (64, 64)).real.max()) < 1.02


@pytest.mark.parametrize("window", [Window.FERMI, Window.HAMMING, Window.TUKEY])
def test_windows_keep_the_middle_and_fall_towards_the_edge(window: Window):
    weights = mr_scanner.window_weights(Chain(window=window, window_edge=0.8), (40, 60), torch.zeros(1))
    assert float(weights[20, 30]) == pytest.approx(1, abs=1e-3)
    assert (weights <= 1).all()
    assert (weights >= 0).all()
    row = weights[20, 30:]
    assert (row.diff() <= 1e-6).all()
    assert float(row[-1]) < 0.2
    assert float(weights[20, 30 + 24]) == pytest.approx({1: 0.5, 2: 0.168, 3: 1.0}[window], abs=0.02)  # at 0.8


def test_without_a_window_nothing_is_weighted():
    assert mr_scanner.window_weights(Chain(), (40, 60), torch.zeros(1)) is None
    assert mr_scanner.partial_weights(Chain(), (40, 60), torch.zeros(1)) is None
    assert mr_scanner.noise_gain(Chain(), (40, 60), torch.zeros(1)) == 1.0


@pytest.mark.parametrize("axis", [0, 1])
def test_partial_fourier_skips_lines_of_one_side(axis: int):
    chain = Chain(partial_fourier=5 / 8, phase_axis=axis)
    image = torch.randn(40, 48, generator=generator(), dtype=torch.complex64)
    k_space = to_k_space(mr_scanner.partially_sampled(image, chain))
    lines = image.shape[axis]
    empty = (k_space.abs().amax(1 - axis) < 1e-4).sum()
    assert int(empty) == lines - lines * 5 // 8


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(64, 64), (63, 51)])
def test_conjugate_symmetry_brings_back_what_zero_filling_loses(axis: int, shape: tuple[int, int]):
    image = torch.zeros(shape, dtype=torch.complex64)
    image[20:40, 15:35] = 1.0
    phase = torch.linspace(-1, 1, shape[1])[None] + 0.5 * torch.linspace(-1, 1, shape[0])[:, None]
    image = image * torch.polar(torch.ones(shape), phase.expand(shape))
    errors = []
    for conjugate in (0, 1):
        chain = Chain(partial_fourier=0.65, phase_axis=axis, conjugate=conjugate)
        made = mr_scanner.partially_sampled(image, chain)
        errors.append(float((made.abs() - image.abs()).norm() / image.abs().norm()))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("conjugate", [0, 1])
@pytest.mark.parametrize("window", list(Window))
def test_the_gain_of_noise_is_what_the_steps_do_to_it(conjugate: int, window: Window):
    chain = Chain(1.4, 1.7, partial_fourier=0.7, conjugate=conjugate, window=window, window_edge=0.75)
    matrix = chain.matrix(120, 130)
    real, imaginary = torch.randn(2, 6, *matrix, generator=generator(2))
    noise = torch.complex(real, imaginary)
    made = [filled(mr_scanner.partially_sampled(1000 + one, chain), chain, (120, 130)) for one in noise]
    clean = filled(mr_scanner.partially_sampled(torch.full(matrix, 1000.0 + 0j), chain), chain, (120, 130))
    spread = torch.stack([one.abs() - clean.abs() for one in made]).std()
    assert float(spread) == pytest.approx(mr_scanner.noise_gain(chain, matrix, torch.zeros(1)), rel=0.05)


def test_spikes_are_single_samples_and_a_zipper_is_a_single_line():
    small = blob(32, 40)
    spiked = mr_scanner.with_extras(small, Chain(spikes=2, spike_amplitude=0.1), 1.0, generator())
    change = to_k_space(spiked - small).abs()
    assert int((change > 1e-3).sum()) == 2
    assert float((spiked - small).abs().max()) <= 0.2 + 1e-4
    for axis in (0, 1):
        zipped = mr_scanner.with_extras(small, Chain(zipper_amplitude=0.1, phase_axis=axis), 1.0, generator())
        lines = ((zipped - small).abs() > 0).any(axis)
        assert int(lines.sum()) == 1  # one column where rows are encoded by phase, else one row
    assert mr_scanner.with_extras(small, Chain(), 1.0, generator()) is small


def test_a_chain_is_what_its_parameters_say():
    for seed in range(50):
        chain = mr_scanner.draw_chain(generator(seed))
        assert Chain.of(chain.params()) == chain
        assert chain.params().keys() == mr_scanner.CHAIN_LIMITS.keys()
        for name, (low, high) in mr_scanner.CHAIN_LIMITS.items():
            assert low <= chain.params()[name] <= high
    assert Chain.of({}) == Chain()


def test_drawn_chains_reach_the_ends_of_their_ranges():
    chains = [mr_scanner.draw_chain(generator(seed)) for seed in range(400)]
    for name in ("interpolation_y", "interpolation_x"):
        values = [getattr(chain, name) for chain in chains]
        assert min(values) == 1.0
        assert max(values) > 1.9
    partial = [chain.partial_fourier for chain in chains]
    assert min(partial) < 0.65
    assert max(partial) == 1.0
    assert {chain.window for chain in chains} == set(Window)
    assert {chain.conjugate for chain in chains if chain.partial_fourier < 1} == {0, 1}
    rare = sum(chain.spikes > 0 for chain in chains) + sum(chain.zipper_amplitude > 0 for chain in chains)
    assert 0 < rare < 0.2 * len(chains)


def test_shading_that_is_left_is_in_the_image_and_corrected_shading_is_not():
    image = torch.rand(32, 40, generator=generator())
    left = mr_scanner.scene_of(image, Chain(bias_strength=0.3, bias_left=1), generator(1))
    corrected = mr_scanner.scene_of(image, Chain(bias_strength=0.3), generator(1))
    assert torch.allclose(corrected.base.abs(), image, atol=1e-6)
    ratio = left.base.abs() / image
    assert float(ratio.max()) <= math.exp(0.3) + 1e-5
    assert float(ratio.min()) >= math.exp(-0.3) - 1e-5
    assert float(ratio.max() / ratio.min()) > 1.1
    assert torch.allclose(corrected.correction, 1 / ratio, rtol=1e-3)


def volume_of(shape: tuple[int, int], spacing_mm: tuple[float, float]) -> MedicalImage:
    values = phantom(Modality.MR, generator(11), size=80).voxels[0, : shape[0], : shape[1]]
    return MedicalImage(np.stack([values, values]), (3.0, *spacing_mm), modality=Modality.MR)


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(MR_TASKS),
    severity=st.sampled_from(list(Severity)[1:]),
    shape=st.tuples(st.integers(33, 80), st.integers(33, 80)),
    spacing=st.tuples(st.floats(0.4, 3), st.floats(0.4, 3)),
    seed=st.integers(0, 10**6),
)
def test_every_record_of_a_scanner_survives_json_and_replays_bit_for_bit(
    task: Task, severity: Severity, shape: tuple[int, int], spacing: tuple[float, float], seed: int
):
    volume = volume_of(shape, spacing)
    record = draw_record(task, severity, generator(seed), method="scanner")
    made = apply_records(volume, record)
    again = DegradationRecord.from_json(record.to_json())
    assert again == record
    assert np.array_equal(apply_records(volume, again).voxels, made.voxels)
    assert np.array_equal(apply_records(volume.slice_at(0), record).voxels[0], made.voxels[0])
    assert made.voxels.dtype == np.float32
    assert np.isfinite(made.voxels).all()
    assert (made.voxels >= 0).all()
    assert not np.array_equal(made.voxels[0], made.voxels[1])


@pytest.mark.parametrize("task", MR_TASKS)
def test_a_scanner_of_severity_none_changes_nothing(task: Task):
    image = volume_of((60, 71), (1.0, 0.8))
    record = draw_record(task, Severity.NONE, generator(), method="scanner")
    assert record.params == {}
    assert np.array_equal(apply_records(image, record).voxels, image.voxels)


@pytest.mark.parametrize("task", MR_TASKS)
def test_a_worse_grade_of_a_scanner_makes_a_larger_error_and_grades_are_met(task: Task):
    image = phantom(Modality.MR, generator(12), size=128)
    errors, hits = [], 0
    for severity in list(Severity)[1:]:
        runs = [apply_records(image, draw_record(task, severity, generator(s), method="scanner")) for s in range(15)]
        errors.append(np.median([np.linalg.norm(run.voxels - image.voxels) for run in runs]))
        made = [degrade(image, [(task, severity)], generator(s), method="scanner") for s in range(4)]
        hits += sum(one.records[0].severity is severity for one in made)
    assert errors[0] < errors[1] < errors[2]
    assert hits >= 10


def test_several_degradations_of_one_scan_are_applied_in_physical_order():
    image = phantom(Modality.MR, generator(12), size=96)
    for seed in range(4):
        records = [draw_record(task, Severity.MODERATE, generator(seed), method="scanner") for task in MR_TASKS]
        made = apply_records(image, records)
        assert np.array_equal(apply_records(image, records[::-1]).voxels, made.voxels)
        assert np.isfinite(made.voxels).all()
        for record in records:
            assert not np.array_equal(apply_records(image, record).voxels, made.voxels)


def test_scanners_and_defaults_mix():
    image = phantom(Modality.MR, generator(12), size=96)
    moved = draw_record(Task.MR_MOTION, Severity.MODERATE, generator(1))
    noisy = draw_record(Task.MR_NOISE, Severity.MODERATE, generator(1), method="scanner")
    both = apply_records(image, [moved, noisy]).voxels
    error = np.linalg.norm(both - image.voxels)
    assert error > np.linalg.norm(apply_records(image, moved).voxels - image.voxels)
    assert error > np.linalg.norm(apply_records(image, noisy).voxels - image.voxels)
