from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig, draw_pair, volume_of
from medq_uni.data.sources import ManifestError
from medq_uni.physics.degrade import apply_records
from medq_uni.physics.effect import effect
from medq_uni.physics.record import MEASURED
from medq_uni.physics.tasks import SPECS
from medq_uni.taxonomy import Modality, Severity, Task

CONFIG = PairsConfig(count=10, seed=5, phantom_sizes=(48, 64))


def test_a_pair_depends_on_seed_and_index_alone():
    first, again = draw_pair(CONFIG, 3), draw_pair(CONFIG, 3)
    other = draw_pair(replace(CONFIG, seed=6), 3)
    assert np.array_equal(first.degraded.voxels, again.degraded.voxels)
    assert first.degraded.shape != other.degraded.shape or not np.array_equal(
        first.degraded.voxels, other.degraded.voxels
    )


def test_a_cache_is_the_same_for_any_number_of_workers_and_is_reused(tmp_path: Path):
    one = build_pair_cache(CONFIG, tmp_path / "one")
    two = build_pair_cache(CONFIG, tmp_path / "two", workers=2)
    assert one.items == two.items
    assert np.array_equal(one.arrays, two.arrays)
    assert {item.task for item in one.items} == set(Task)
    calls = []
    build_pair_cache(CONFIG, tmp_path / "one", progress=lambda *numbers: calls.append(numbers))
    assert calls == []


def test_a_split_never_shows_subjects_of_another(data: Path):
    config = replace(CONFIG, data=(str(data),), real_fraction=1.0)
    assert {draw_pair(config, i).subject for i in range(10)} <= {"ct-train", "mr-train", "pet-train"}


def test_pairs_measured_at_two_doses_are_taken_where_the_source_has_them(mayo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medq_uni.data.readers.split_of", lambda subject: "train")
    config = replace(CONFIG, count=40, data=(f"aapm-mayo:{mayo}",), real_fraction=1.0, none_fraction=0.3)
    pairs = [draw_pair(config, index) for index in range(0, 40, len(Task))]  # every fifth is CT
    assert {pair.task for pair in pairs} == {Task.CT_LOW_DOSE}
    assert {pair.subject for pair in pairs} <= {"L067", "L096", "C002"}
    for pair in pairs:
        (record,) = pair.records
        if pair.severity is Severity.NONE:
            assert np.array_equal(pair.degraded.voxels, pair.reference.voxels)
            continue
        assert record.method == MEASURED
        assert record.params["dose_fraction"] in (0.25, 0.1)
        plain, hides = (effect(pair.degraded, pair.reference, pair.task, method=m) for m in ("default", MEASURED))
        assert plain == pytest.approx(25, abs=8)
        assert pair.effects[0] == hides
        assert record.severity in (Severity.MILD, Severity.MODERATE)
    assert len({pair.severity for pair in pairs}) >= 2


def test_grades_take_turns_and_mixed_pairs_have_two_records():
    config = PairsConfig(count=40, seed=3, phantom_sizes=(64,), grades=tuple(Severity), mixed_fraction=1.0)
    pairs = [draw_pair(config, index) for index in range(40)]
    for index, pair in enumerate(pairs):
        is_good = (index // 5) % 4 == 0
        assert (pair.severity is Severity.NONE) == is_good
        is_mr = pair.task.modality is Modality.MR
        assert len(pair.records) == (2 if is_mr and not is_good else 1)
        assert len({record.task for record in pair.records}) == len(pair.records)


def test_an_alternative_is_another_simulation():
    config = PairsConfig(count=20, seed=3, phantom_sizes=(64,), grades=(Severity.MODERATE,), alternative=True)
    assert all(draw_pair(config, index).records[0].method != "default" for index in range(5))


def test_a_share_of_the_pairs_is_made_by_the_whole_chain_and_the_others_stay_as_they_are():
    plain = PairsConfig(count=30, seed=3, phantom_sizes=(48,), none_fraction=0.0)
    some = replace(plain, scanner_fraction=0.5)
    found = set()
    for index in range(30):
        before, after = draw_pair(plain, index), draw_pair(some, index)
        assert np.array_equal(before.reference.voxels, after.reference.voxels)
        methods = {record.method for record in after.records}
        if SPECS[after.task].scanner is not None:
            found |= methods
        if methods == {"default"}:
            assert after.records == before.records
            assert np.array_equal(before.degraded.voxels, after.degraded.voxels)
        else:
            assert not np.array_equal(before.degraded.voxels, after.degraded.voxels)
            assert np.array_equal(apply_records(after.reference, after.records).voxels, after.degraded.voxels)
    assert found == {"default", "scanner"}


def test_a_whole_share_is_made_by_the_chain_wherever_a_task_has_one():
    config = PairsConfig(count=10, seed=3, phantom_sizes=(48,), grades=(Severity.MODERATE,), scanner_fraction=1.0)
    for pair in (draw_pair(config, index) for index in range(10)):
        has_scanner = SPECS[pair.task].scanner is not None
        assert pair.records[0].method == ("scanner" if has_scanner else "default")
    with pytest.raises(ConfigError, match="one simulation"):
        replace(config, alternative=True)


def test_a_noisy_reference_never_stands_for_a_good_image(data: Path):
    config = replace(CONFIG, data=(str(data),), real_fraction=1.0, none_fraction=1.0)
    pairs = [draw_pair(config, index) for index in range(10)]  # the fixture's volumes are noise
    assert all(pair.severity is Severity.NONE for pair in pairs)
    assert all(pair.source == "phantom" for pair in pairs if pair.task.modality is Modality.MR)


def test_a_slice_knows_the_range_of_its_volume(data: Path):
    config = replace(CONFIG, data=(str(data),), real_fraction=1.0, grades=(Severity.MILD,))
    for pair in (draw_pair(config, index) for index in range(5)):
        if pair.task.modality is Modality.CT:
            assert pair.volume_peak is None
        else:
            volume = np.asanyarray(nibabel.load(data / pair.volume).dataobj)
            assert pair.volume_peak == pytest.approx(np.percentile(volume, 99.9))
    assert draw_pair(replace(config, vary_real=True), 1).volume_peak is None
    assert draw_pair(replace(config, data=()), 1).volume_peak is None


def test_the_volume_is_known_before_it_is_read(data: Path):
    config = replace(CONFIG, count=40, data=(str(data),), real_fraction=0.5, none_fraction=0.0)
    names = [(volume_of(config, index), draw_pair(config, index).volume) for index in range(20)]
    assert all(first == drawn for first, drawn in names)
    assert len({first for first, _ in names}) > 2


@pytest.mark.parametrize("wrong", [{"data": "/data"}, {"count": 0}, {"real_fraction": 1.5}, {"phantom_sizes": ()}])
def test_wrong_configurations_are_refused(wrong: dict):
    with pytest.raises(ConfigError):
        replace(CONFIG, **wrong)


@pytest.fixture
def ct_only(data: Path) -> PairsConfig:
    manifest = data / "MANIFEST.csv"
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([rows[0], *(row for row in rows if ",ct," in row)]) + "\n")
    return PairsConfig(count=10, seed=3, data=(str(data),), real_fraction=1.0, grades=(Severity.MILD,))


def test_phantoms_stand_in_where_the_sources_lack_a_modality(ct_only: PairsConfig):
    found = {pair.task.modality: pair.source for pair in (draw_pair(ct_only, i) for i in range(5))}
    assert found == {Modality.CT: "real", Modality.MR: "phantom", Modality.PET: "phantom"}
    assert volume_of(ct_only, 1) == "phantom"


def test_sources_without_any_volume_in_a_split_are_a_clear_error(ct_only: PairsConfig):
    with pytest.raises(ManifestError, match=r"no volume in split 'val' \(2 subjects in all"):
        draw_pair(replace(ct_only, split="val"), 0)
