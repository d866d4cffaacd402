from __future__ import annotations

import errno
import gzip
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from medq_uni import batch
from medq_uni.batch import ItemResult, restore_folder
from medq_uni.data.phantoms import phantom as drawn_phantom
from medq_uni.description import Degradation, QualityDescription
from medq_uni.io.provenance import sidecar_path
from medq_uni.io.read_write import read_image, write_image
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

FORCE = RestoreSettings(force=True, allow_ood=True)
SLICE = drawn_phantom(Modality.MR, torch.Generator().manual_seed(1), size=48)
OPTIONS = {"modality": Modality.MR, "settings": FORCE}
pytestmark = pytest.mark.filterwarnings("ignore:.*is unlike all:UserWarning")  # phantoms are smaller than nano's


def said(severity: Severity | str) -> QualityDescription:
    found = (Degradation(Task.MR_NOISE, Severity.MILD),)
    description = QualityDescription(Modality.MR, Anatomy.BRAIN, found, "thermal noise", "grain", Verdict.USABLE)
    return description.with_severity(severity)


def origin(name: str) -> str:
    """Return the name of the image that a result was made of."""
    for form in ("-nifti", "-tiff", "-png"):
        name = name.replace(form, "")
    return name


def results(restorer: Restorer, source: Path, target: Path, **options: object) -> dict[str, ItemResult]:
    return {str(one.relative): one for one in restore_folder(restorer, source, target, **(OPTIONS | options))}


def test_a_folder_keeps_its_tree_goes_on_where_it_stopped_and_survives_bad_items(restorer: Restorer, tmp_path: Path):
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "a").mkdir(parents=True)
    write_image(SLICE, source / "a" / "one.nii.gz")
    (source / "bad.nii.gz").write_bytes(b"no image")
    (source / "bad.dcm").write_bytes(b"no image")
    (source / "notes.txt").write_text("no image, and not called one")
    options = {"modality": Modality.MR, "settings": FORCE}
    found = {str(r.relative): r.status for r in restore_folder(restorer, source, target, **options)}
    assert found == {"a/one.nii.gz": "restored", "bad.nii.gz": "failed", "bad.dcm": "failed"}
    assert (target / "a" / "one.nii.gz").is_file()
    assert not (target / "bad.nii.gz").exists()
    again = {str(r.relative): r.status for r in restore_folder(restorer, source, target, **options)}
    assert again["a/one.nii.gz"] == "skipped"
    other = {"modality": Modality.MR, "settings": replace(FORCE, seed=1)}
    changed = {str(r.relative): r for r in restore_folder(restorer, source, target, **other)}
    assert "exists already, made by other weights, settings or words" in changed["a/one.nii.gz"].message
    told = {str(r.relative): r for r in restore_folder(restorer, source, target, **options, description=said("mild"))}
    assert "exists already" in told["a/one.nii.gz"].message
    (target / "a" / "one.nii.gz").unlink()  # as after a kill between the record and its image
    again = {str(r.relative): r.status for r in restore_folder(restorer, source, target, **options)}
    assert again["a/one.nii.gz"] == "restored"
    with pytest.raises(ValueError, match="inside the source"):
        list(restore_folder(restorer, source, source / "out", **options))


def test_images_of_one_stem_keep_a_record_and_maps_each(restorer: Restorer, tmp_path: Path):
    source, target = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate(("t1.nii.gz", "t1.tif", "t1.png", "t1.residual.nii.gz")):
        write_image(SLICE.with_voxels(SLICE.voxels * (1 + number)), source / name)
    found = results(restorer, source, target)
    assert {one.status for one in found.values()} == {"restored"}
    assert len({one.place for one in found.values()}) == 4
    assert found["t1.residual.nii.gz"].place.name == "t1.residual-nifti.nii.gz"  # the other is a map of t1.nii.gz
    records = {path: json.loads(path.read_text()) for path in target.glob("*.medq.json")}
    assert len({record["source"]["sha256"] for record in records.values()}) == 4
    for path in records:
        stem = path.name.removesuffix(".medq.json")
        image = next(p for p in target.iterdir() if p.suffix in (".gz", ".tif", ".png") and sidecar_path(p) == path)
        residual = read_image(target / f"{stem}.residual.nii.gz").voxels
        changed = read_image(image).voxels - read_image(source / origin(image.name)).voxels
        assert np.allclose(residual, changed, atol=1e-3 * SLICE.voxels.max())
    assert {one.status for one in results(restorer, source, target).values()} == {"skipped"}


def test_what_was_made_of_other_files_or_as_another_modality_is_not_done(restorer: Restorer, tmp_path: Path):
    source, target = tmp_path / "in", tmp_path / "out"
    write_image(SLICE, source / "one.nii.gz")
    assert results(restorer, source, target)["one.nii.gz"].status == "restored"
    as_pet = results(restorer, source, target, modality=Modality.PET)["one.nii.gz"]
    assert as_pet.status == "failed"
    assert "exists already, made of other files or modality. Pass overwrite" in as_pet.message
    (target / "one.residual.nii.gz").rename(tmp_path / "aside.nii.gz")
    lost = results(restorer, source, target)["one.nii.gz"]
    assert lost.status == "failed"
    assert "exists already, and one.residual.nii.gz is missing." in lost.message
    assert results(restorer, source, target, maps=False)["one.nii.gz"].status == "skipped"
    (tmp_path / "aside.nii.gz").rename(target / "one.residual.nii.gz")
    assert results(restorer, source, target)["one.nii.gz"].status == "skipped"
    write_image(SLICE.with_voxels(SLICE.voxels[:, ::-1]), source / "one.nii.gz", overwrite=True)
    assert results(restorer, source, target)["one.nii.gz"].status == "failed"
    assert results(restorer, source, target, overwrite=True)["one.nii.gz"].status == "restored"


@pytest.mark.filterwarnings("ignore:.*looks like:UserWarning")  # a gradient is no CT
def test_series_and_files_whose_names_say_nothing_of_the_format_are_written(
    restorer: Restorer, tmp_path: Path, phantom, stored_ct
):
    source, target = tmp_path / "in", tmp_path / "out"
    stored = np.repeat(np.repeat(stored_ct, 6, axis=1), 6, axis=2)
    phantom.series(source / "1.2.840.1", stored[:2])
    alone = pydicom.dcmread(phantom.series(tmp_path / "single", stored[:1])[0])
    alone.SeriesInstanceUID = "1.2.840.2"
    alone.save_as(source / "b.IMA")
    found = results(restorer, source, target, modality=None, maps=False)
    assert {one.status for one in found.values()} <= {"restored", "unchanged"}, found
    series = target / found["1.2.840.1"].place
    assert series.name.startswith("1_2_840_1-")
    assert len(list(series.glob("*.dcm"))) == 2
    assert found["b.IMA"].place == Path("b.IMA.dcm")


def test_a_record_of_an_earlier_run_is_never_given_to_another_image(restorer: Restorer, tmp_path: Path):
    target = tmp_path / "out"
    write_image(SLICE, tmp_path / "a" / "t1.nii.gz")
    write_image(SLICE.with_voxels(2 * SLICE.voxels), tmp_path / "b" / "t1.tif")
    results(restorer, tmp_path / "a", target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    found = results(restorer, tmp_path / "b", target)["t1.tif"]
    assert (found.status, found.place) == ("restored", Path("t1-tiff.tif"))
    assert before.items() <= {path.name: path.read_bytes() for path in target.iterdir()}.items()
    write_image(SLICE, tmp_path / "b" / "t1.nii.gz")
    again = results(restorer, tmp_path / "b", target)
    assert {name: (one.status, str(one.place)) for name, one in again.items()} == {
        "t1.nii.gz": ("skipped", "t1.nii.gz"),
        "t1.tif": ("skipped", "t1-tiff.tif"),
    }


def test_a_source_that_changes_while_it_is_restored_is_not_done(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, target = tmp_path / "in", tmp_path / "out"
    write_image(SLICE, source / "one.nii.gz")
    restore = Restorer.restore

    def while_it_is_copied(self, image, **options):
        write_image(SLICE.with_voxels(2 * SLICE.voxels), source / "one.nii.gz", overwrite=True)
        return restore(self, image, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Restorer, "restore", while_it_is_copied)
        assert results(restorer, source, target)["one.nii.gz"].status == "restored"
    assert results(restorer, source, target)["one.nii.gz"].status == "failed"


def test_a_source_that_cannot_be_read_again_does_not_stop_the_others(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, target = tmp_path / "in", tmp_path / "out"
    for name in ("one.nii.gz", "two.nii.gz"):
        write_image(SLICE, source / name)
    results(restorer, source, target)
    (target / "two.medq.json").write_text(json.dumps({"provenance": [], "maps": 1, "source": None}))

    def gone(files: object) -> str:
        raise OSError(errno.EIO, "Input/output error", str(source / "one.nii.gz"))

    monkeypatch.setattr("medq_uni.pipeline.files_digest", gone)
    found = results(restorer, source, target)
    assert (found["one.nii.gz"].status, found["one.nii.gz"].message) == ("failed", "one.nii.gz: Input/output error")
    assert found["two.nii.gz"].status == "failed"
    assert "exists already, without a record of how it was made" in found["two.nii.gz"].message


def test_a_failed_replacement_leaves_the_result_that_was_there(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, target = tmp_path / "in", tmp_path / "out"
    write_image(SLICE, source / "one.nii.gz")
    results(restorer, source, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    other = replace(FORCE, seed=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target / ".medq-1.nii.gz"))

    with monkeypatch.context() as patched:
        patched.setattr("medq_uni.result.write_image", full)
        failed = results(restorer, source, target, settings=other, overwrite=True)["one.nii.gz"]
    assert (failed.status, failed.message) == ("failed", "No space left on device")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert (
        results(restorer, source, target, settings=other, overwrite=True, maps=False)["one.nii.gz"].status != "failed"
    )
    assert sorted(path.name for path in target.iterdir()) == ["one.medq.json", "one.nii.gz"]
    assert results(restorer, source, target, settings=other)["one.nii.gz"].status == "failed"


def test_every_file_that_is_passed_over_is_named(restorer: Restorer, tmp_path: Path):
    source, target = tmp_path / "in", tmp_path / "out"
    write_image(SLICE, source / "one.nii.gz")
    (source / "two.nii.gz").symlink_to("../.git/annex/objects/two.nii.gz")
    (source / "notes.txt").write_text("no image")
    named: list[str] = []
    found = results(restorer, source, target, on_passed_over=lambda path, reason: named.append(str(path)))
    assert {name: one.status for name, one in found.items()} == {"one.nii.gz": "restored", "two.nii.gz": "failed"}
    assert "target is not there" in found["two.nii.gz"].message
    assert named == ["notes.txt"]


def test_what_another_process_wrote_meanwhile_is_not_a_failure(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, target = tmp_path / "in", tmp_path / "out"
    write_image(SLICE, source / "one.nii.gz")
    real = batch.restore_file

    def twice(*args: object, **options: object) -> object:
        real(*args, **options)  # the other process
        return real(*args, **options)

    monkeypatch.setattr(batch, "restore_file", twice)
    found = results(restorer, source, target)["one.nii.gz"]
    assert (found.status, found.message) == ("skipped", "done meanwhile by another process")


def test_a_mosaic_and_the_stacks_of_one_object_have_results_of_their_own(
    restorer: Restorer, tmp_path: Path, phantom: object
):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    data = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
    with gzip.open(data / "siemens_dwi_0.dcm.gz") as file:
        mosaic = pydicom.dcmread(file)
    numbers = np.random.default_rng(1)
    mosaic.PixelData = numbers.integers(0, 4096, (896, 896)).astype(np.uint16).tobytes()
    mosaic.save_as(source / "m.dcm")
    stored = numbers.integers(0, 4096, (8, 64, 64)).astype(np.uint16)
    places = [0.0, 1.0, 2.0, 3.0] * 2
    phantom.enhanced(source / "e.dcm", stored, rescales=[(1.0, 0.0)] * 8, positions=places, modality="MR")
    nothing = QualityDescription(Modality.MR, Anatomy.BRAIN, (), "none", "none", Verdict.GOOD)
    options = {"settings": RestoreSettings(allow_ood=True), "description": nothing}
    found = results(restorer, source, target, **options)
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(
        ("e-stack0.dcm", "e-stack1.dcm", "m.dcm"), "unchanged"
    )
    assert len(list((target / "m").glob("*.dcm"))) == 48
    read = [pydicom.dcmread(target / f"e-stack{k}.dcm") for k in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([one.pixel_array for one in read]), stored)
    assert {one.status for one in results(restorer, source, target, **options).values()} == {"skipped"}
