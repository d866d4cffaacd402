import errno
import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.config import SamplerConfig
from medq_uni.data.phantoms import phantom
from medq_uni.description import Degradation, QualityDescription
from medq_uni.errors import MedQError, UnwritableImage
from medq_uni.io.read_write import read_image
from medq_uni.result import Provenance, Restoration, RestoredFrames, RunOptions, provenance_of
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

PROVENANCE = Provenance(
    options=RunOptions(
        model="nano",
        weights_sha256="0" * 64,
        precision="float32",
        sampler=SamplerConfig(guidance_interval=(0.1, 0.9)),
        seed=0,
        force=False,
        allow_ood=True,
        instruction=None,
        description_from="model",
        stated=None,
        version="0.1.0",
    ),
    assessment="Image: MR of the brain.",
    ood_score=0.5,
    strength=1.0,
)


def restoration(slices: int = 1) -> Restoration:
    image = phantom(Modality.MR, torch.Generator().manual_seed(1), size=48)
    image = replace(image, voxels=np.repeat(image.voxels, slices, axis=0))
    restored = image.with_voxels(0.9 * image.voxels)
    residual = image.with_voxels(restored.voxels - image.voxels)
    words = QualityDescription(
        Modality.MR,
        Anatomy.BRAIN,
        (Degradation(Task.MR_NOISE, Severity.MILD),),
        "thermal noise",
        "grain",
        Verdict.USABLE,
    )
    return Restoration(image, words, restored, image, residual, PROVENANCE, 1.0, False)


def test_a_result_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ValueError, match="slice"):
        restoration(slices=2).save(tmp_path / "volume.png")
    assert list(tmp_path.iterdir()) == []


def test_names_with_dots_keep_their_maps_apart(tmp_path: Path):
    paths = [path for name in ("1.2.3.nii.gz", "1.2.4.nii.gz") for path in restoration().save(tmp_path / name)]
    assert len(set(paths)) == 8 == len(list(tmp_path.iterdir()))


def test_nothing_that_exists_is_replaced_unless_asked(tmp_path: Path):
    path, *beside = restoration().save(tmp_path / "a.nii.gz")
    path.unlink()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(UnwritableImage, match=r"a\.medq\.json: exists"):
        restoration().save(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert restoration().save(path, overwrite=True) == [path, *beside]


def test_volumes_are_written_together_and_the_worst_speaks_for_all(tmp_path: Path):
    worse = restoration()
    words = QualityDescription(Modality.MR, Anatomy.BRAIN, (), "none", "none", Verdict.GOOD)
    nothing = worse.image.with_voxels(0 * worse.image.voxels)
    good = replace(
        worse, description=words, restored=worse.image, uncertainty=None, residual=nothing, is_unchanged=True
    )
    result = RestoredFrames((good, worse, good))
    assert (result.description, result.is_unchanged, result.seconds) == (worse.description, False, 3.0)
    path = result.save(tmp_path / "a.nii.gz", skip_good=True)[0]
    for number, one in enumerate(result.frames):
        np.testing.assert_array_equal(read_image(path, frame=number).voxels, one.restored.voxels)
    spread = tmp_path / "a.uncertainty.nii.gz"
    assert not read_image(spread, frame=0).voxels.any()
    assert read_image(spread, frame=1).voxels.any()
    record = json.loads((tmp_path / "a.medq.json").read_text())
    assert [one["unchanged"] for one in record["frames"]] == [True, False, True]
    assert record["text"] == worse.description.to_text()
    all_good = RestoredFrames((good, good)).save(tmp_path / "b.nii.gz", skip_good=True)
    assert [one.name for one in all_good] == ["b.medq.json"]
    with pytest.raises(UnwritableImage, match="4-D"):
        result.save(tmp_path / "c.png")
    assert not list(tmp_path.glob("c*"))


def test_the_record_says_what_was_done_and_for_what_it_may_be_used(tmp_path: Path):
    restoration().save(tmp_path / "a.nii.gz", maps=False)
    record = json.loads((tmp_path / "a.medq.json").read_text())
    assert "Research use only" in record["notice"]
    assert QualityDescription.from_text(record["text"]) == restoration().description
    assert record["provenance"]["weights_sha256"] == "0" * 64


def test_a_provenance_survives_its_json():
    assert Provenance.from_dict(json.loads(json.dumps(PROVENANCE.to_dict()))) == PROVENANCE
    assert provenance_of(restoration().to_dict()) == PROVENANCE


def test_a_record_of_version_0_1_0_is_understood():
    old = PROVENANCE.to_dict()
    old["unfamiliar"], old["unlikeness"] = old.pop("allow_ood"), old.pop("ood_score")
    assert provenance_of({"settings": old}) == PROVENANCE


@pytest.mark.parametrize(
    "record", [{}, {"settings": []}, {"settings": {"model": "nano"}}, {"provenance": None}, {"kind": "degraded"}]
)
def test_what_is_no_provenance_is_none(record: dict):
    assert provenance_of(record) is None


@pytest.mark.parametrize("change", [{"sampler": 3}, {"new": 1}, {"sampler": {"num_steps": 0}}])
def test_a_broken_provenance_is_refused(change: dict):
    with pytest.raises(MedQError, match="not the provenance of a restoration"):
        Provenance.from_dict(PROVENANCE.to_dict() | change)


def save_all(target: Path, count: int, barrier, told) -> None:
    """Save results under the same names as other processes, each at the same moment."""
    result = restoration()
    for number in range(count):
        barrier.wait()
        try:
            result.save(target / f"{number}.nii.gz")
            told.put((number, "saved"))
        except UnwritableImage as error:
            told.put((number, str(error)))


def test_of_many_processes_the_one_that_says_saved_has_a_whole_result(tmp_path: Path):
    count, workers = int(os.environ.get("MEDQ_RACES", "8")), 4
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(workers), context.Queue()
    running = [context.Process(target=save_all, args=(tmp_path, count, barrier, told)) for _ in range(workers)]
    for process in running:
        process.start()
    said = [told.get(timeout=120) for _ in range(count * workers)]
    for process in running:
        process.join(timeout=60)
    for number in range(count):
        words = sorted(text for at, text in said if at == number)
        assert words[-1] == "saved"
        assert all("exists already" in text for text in words[:-1])
        files = sorted(path.name.partition(".")[2] for path in tmp_path.glob(f"{number}.*"))
        assert files == ["medq.json", "nii.gz", "residual.nii.gz", "uncertainty.nii.gz"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".medq-")] == []


def test_a_claim_of_a_dead_process_is_broken_and_its_rests_are_swept(tmp_path: Path):
    import medq_uni.files as files

    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    path = restoration().save(tmp_path / "a.nii.gz")[0]
    seen: list[Path] = []
    with files.claimed(path):
        seen = [entry for entry in tmp_path.iterdir() if entry.name.startswith(".medq-claim-")]
    seen[0].write_text(f"{files._HOST} {process.pid} 00")
    rest = tmp_path / f".medq-{files._HOST}-{process.pid}-00.nii.gz"
    kept = tmp_path / ".medq-aside-00"
    for entry in (rest, kept):
        entry.write_text("half")
        os.utime(entry, (0, 0))
    with files.claimed(path):
        assert not rest.exists()
    assert not seen[0].exists()
    assert kept.exists()  # the only copy of a result that was there before


def test_a_claim_that_is_held_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import medq_uni.files as files

    monkeypatch.setattr(files, "CLAIM_WAIT_S", 0.1)
    with files.claimed(tmp_path / "a.medq.json"), pytest.raises(UnwritableImage, match="another process is writing it"):
        restoration().save(tmp_path / "a.nii.gz")
    restoration().save(tmp_path / "a.nii.gz")


def broken_flock(kind: str) -> object:
    def flock(*_: object) -> None:
        if kind != "nothing":
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))

    return flock


@pytest.mark.parametrize("lost", ["nothing", "ENOLCK", "EOPNOTSUPP", "links"])
def test_no_lock_of_the_system_is_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str):
    """Network file systems lock nothing, refuse to, or know no hard links; the children inherit what is patched."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if lost == "links":
        monkeypatch.setattr(os, "link", refuse)
    else:
        monkeypatch.setattr("fcntl.flock", broken_flock(lost))
        monkeypatch.setattr("fcntl.lockf", broken_flock(lost))
    test_of_many_processes_the_one_that_says_saved_has_a_whole_result(tmp_path)


def test_a_link_whose_answer_was_lost_is_still_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def made_but_refused(*names: object) -> None:
        link(*names)
        raise FileExistsError

    monkeypatch.setattr(os, "link", made_but_refused)
    restoration().save(tmp_path / "a.nii.gz")
    assert not any(path.name.startswith(".medq-") for path in tmp_path.iterdir())


def test_a_claim_from_another_machine_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import medq_uni.files as files

    monkeypatch.setattr(files, "CLAIM_WAIT_S", 0.2)
    with files.claimed(tmp_path / "a.medq.json"):
        (lock,) = (entry for entry in tmp_path.iterdir() if entry.name.startswith(".medq-claim-"))
    lock.write_text("elsewhere 1 00")
    with pytest.raises(UnwritableImage, match="another process"):
        restoration().save(tmp_path / "a.nii.gz")
    os.utime(lock, (0, 0))
    guard = lock.with_name(f"{lock.name}-break")
    guard.write_text("elsewhere 1 00")  # one that broke claims, and was killed
    os.utime(guard, (0, 0))
    restoration().save(tmp_path / "a.nii.gz")
    assert not lock.exists()
    assert not guard.exists()


def test_many_that_break_one_stale_claim_do_not_all_get_it(tmp_path: Path):
    import medq_uni.files as files

    path = tmp_path / "a.medq.json"
    with files.claimed(path):
        (lock,) = (entry for entry in tmp_path.iterdir() if entry.name.startswith(".medq-claim-"))
    context = multiprocessing.get_context("fork")
    inside, most = context.Value("i", 0), context.Value("i", 0)

    def work() -> None:
        with files.claimed(path):
            with inside.get_lock():
                inside.value += 1
                most.value = max(most.value, inside.value)
            time.sleep(0.002)
            with inside.get_lock():
                inside.value -= 1

    for _ in range(5):
        lock.write_text(f"{files._HOST} 4194303 00")  # no such process
        running = [context.Process(target=work) for _ in range(6)]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout=60)
            assert process.exitcode == 0
    assert most.value == 1
