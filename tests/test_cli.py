import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medq_uni import __version__
from medq_uni.cli.main import app
from medq_uni.data.phantoms import phantom
from medq_uni.distribute import map_items
from medq_uni.image import MedicalImage
from medq_uni.io.read_write import read_image, write_image
from medq_uni.taxonomy import Modality

README = Path(__file__).parents[1] / "README.md"
RUNNER = CliRunner()


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    path = tmp_path / "slice.nii.gz"
    write_image(phantom(Modality.MR, torch.Generator().manual_seed(1), size=64), path)
    return path


def medq(*words: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in words])
    assert "fault of medq" not in result.output, result.exception.__cause__
    return result.exit_code, result.output


def test_version_and_help_answer():
    assert medq("--version") == (0, f"medq-uni {__version__}\n")
    for verb in ("annotate", "assess", "restore", "degrade", "dataset", "train", "judge", "doctor", "demo"):
        code, text = medq(verb, "--help")
        assert code == 0
        assert "Usage" in text


def test_help_loads_no_torch():
    code = "import sys; sys.argv=['medq','--help']; from medq_uni.cli.main import app\n"
    code += "try: app()\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_assess_speaks_words_and_json(slice_file: Path):
    code, words = medq("assess", slice_file, "--modality", "mr")
    assert code == 0
    assert "Image: MR of the" in words
    assert "Research use only" in words
    code, text = medq("assess", slice_file, "--modality", "mr", "--json")
    assert code == 0
    assert json.loads(text[: text.rindex("}") + 1])["modality"] == "mr"


@pytest.mark.filterwarnings("always::UserWarning")
def test_an_image_unlike_all_is_refused_unless_asked_for(tmp_path: Path):
    path = tmp_path / "noise.nii.gz"
    write_image(MedicalImage(np.random.default_rng(0).uniform(0, 10, (64, 64)), modality=Modality.PET), path)
    code, text = medq("assess", path, "--modality", "pet")
    assert code == 1
    assert "As PET the image is unlike all" in text
    code, text = medq("restore", path, "-o", tmp_path / "out.nii.gz", "--modality", "pet")
    assert code == 1
    assert not (tmp_path / "out.nii.gz").exists()
    code, text = medq("assess", path, "--modality", "pet", "--allow-ood")
    assert code == 0
    assert "Image: PET" in text
    assert "with doubt" in text


def test_degrade_then_restore_with_a_report(slice_file: Path, tmp_path: Path):
    degraded, restored = tmp_path / "degraded.nii.gz", tmp_path / "restored.nii.gz"
    code, text = medq("degrade", slice_file, "--task", "mr-noise", "--severity", "severe", "--seed", 3, "-o", degraded)
    assert code == 0, text
    assert json.loads((tmp_path / "degraded.medq.json").read_text())["degradation"][0]["task"] == "mr-noise"
    report = tmp_path / "report.html"
    code, text = medq("restore", degraded, "-o", restored, "--modality", "mr", "--force", "--report", report)
    assert code == 0, text
    assert restored.is_file()
    page = report.read_text()
    assert "Research use only" in page
    assert "http" not in page
    code, text = medq("restore", degraded, "-o", restored, "--modality", "mr", "--force")
    assert code == 1
    assert "exists" in text


def test_a_report_never_replaces_an_image(slice_file: Path, tmp_path: Path):
    before = slice_file.read_bytes()
    code, text = medq("restore", slice_file, "-o", tmp_path / "r.nii.gz", "--modality", "mr", "--report", slice_file)
    assert code == 1
    assert "ends in .html" in text
    assert slice_file.read_bytes() == before
    assert not (tmp_path / "r.nii.gz").exists()


def test_a_place_that_cannot_be_written_to_is_one_line(slice_file: Path, tmp_path: Path):
    below = slice_file / "sub" / "out.nii.gz"
    for words in (("degrade", "--task", "mr-noise"), ("restore", "--modality", "mr")):
        code, text = medq(words[0], slice_file, *words[1:], "-o", below)
        assert code == 1
        assert "out.nii.gz: cannot lie below slice.nii.gz, which is a file" in text
    report = slice_file / "report.html"
    code, text = medq("restore", slice_file, "-o", tmp_path / "out.nii.gz", "--report", report, "--modality", "mr")
    assert code == 1
    assert "report.html: cannot lie below" in text
    assert [path.name for path in tmp_path.iterdir()] == ["slice.nii.gz"]


def test_a_device_that_is_not_there_is_one_line(slice_file: Path):
    code, text = medq("assess", slice_file, "--modality", "mr", "--device", "bogus")
    assert code == 1
    assert "--device bogus: torch cannot compute there" in text


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_an_image_is_assessed_in_lower_precision(slice_file: Path, precision: str):
    code, text = medq("assess", slice_file, "--modality", "mr", "--precision", precision)
    assert code == 0, text
    assert "Image: MR" in text


def test_a_record_replays_what_it_says(slice_file: Path, tmp_path: Path):
    first, again, mixed = (tmp_path / f"{name}.nii.gz" for name in ("first", "again", "mixed"))
    assert medq("degrade", slice_file, "--task", "mr-motion", "--seed", 4, "-o", first)[0] == 0
    sidecar = tmp_path / "first.medq.json"
    code, text = medq("degrade", slice_file, "--record", sidecar, "-o", again)
    assert code == 0, text
    assert np.array_equal(read_image(first).voxels, read_image(again).voxels)
    assert json.loads(sidecar.read_text()) == json.loads((tmp_path / "again.medq.json").read_text())
    code, text = medq("degrade", slice_file, "--task", "mr-noise", "--task", "mr-motion", "-o", mixed)
    assert code == 0, text
    assert [record["task"] for record in json.loads((tmp_path / "mixed.medq.json").read_text())["degradation"]] == [
        "mr-motion",
        "mr-noise",
    ]
    record = json.loads(sidecar.read_text())["degradation"][0]
    sidecar.write_text(json.dumps(record | {"version": 99}))
    code, text = medq("degrade", slice_file, "--record", sidecar, "-o", tmp_path / "no.nii.gz")
    assert code == 1
    assert "version 99" in text
    assert not (tmp_path / "no.nii.gz").exists()
    assert medq("degrade", slice_file, "-o", tmp_path / "no.nii.gz")[0] == 2
    assert medq("degrade", slice_file, "--record", sidecar, "--task", "mr-noise", "-o", tmp_path / "no.nii.gz")[0] == 2


def test_an_alternative_simulation_by_name_and_a_wrong_modality(slice_file: Path, tmp_path: Path):
    target = tmp_path / "out.nii.gz"
    code, text = medq("degrade", slice_file, "--task", "mr-motion", "--method", "torchio-ghosting", "-o", target)
    assert code == 0, text
    code, text = medq("degrade", slice_file, "--task", "mr-motion", "--method", "magic", "-o", tmp_path / "x.nii.gz")
    assert code == 1
    assert "torchio-ghosting" in text
    code, text = medq("degrade", slice_file, "--task", "ct-low-dose", "--modality", "mr", "-o", tmp_path / "x.nii.gz")
    assert code == 1
    assert "this one is mr" in text


def test_a_dataset_is_built_verified_and_shown(tmp_path: Path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        '{"name": "tiny", "splits": {"test": {"count": 5, "seed": 1, "split": "test", "phantom_sizes": [40]}}}'
    )
    folder = tmp_path / "set"
    code, text = medq("dataset", "build", recipe, "-o", folder)
    assert code == 0, text
    assert "5 pairs in 1 shards" in text
    assert medq("dataset", "verify", folder)[0] == 0
    code, text = medq("dataset", "show", folder)
    assert code == 0, text
    assert (tmp_path / "set.png").is_file()
    assert "exists already" in medq("dataset", "show", folder)[1]
    shard = folder / "test-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    code, text = medq("dataset", "verify", folder)
    assert code == 1
    assert "test-000000.tar: its bytes have changed" in text
    code, text = medq("dataset", "build", recipe, "-o", tmp_path / "real", "--source", "ixi:/does/not/exist")
    assert code == 1
    assert "no such folder" in text


def test_a_description_file_steers(slice_file: Path, tmp_path: Path):
    words = tmp_path / "words.txt"
    words.write_text(
        "Image: MR of the brain. Degradation: severe Rician noise. Cause: weak signal. Impact: grain. Verdict: reject."
    )
    target = tmp_path / "out.nii.gz"
    code, text = medq("restore", slice_file, "-o", target, "--modality", "mr", "--description", words)
    assert code == 0, text
    record = json.loads((tmp_path / "out.medq.json").read_text())
    assert record["provenance"]["description_from"] == "user"
    words.write_text("nonsense")
    code, text = medq("restore", slice_file, "-o", tmp_path / "x.nii.gz", "--description", words)
    assert code == 1
    assert "words.txt" in text


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x89PNG broken"])
def test_bad_input_is_one_clear_line_exit_code_1_and_no_output(content: bytes | None, tmp_path: Path):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    if content is not None:
        source.write_bytes(content)
    code, text = medq("restore", source, "-o", target)
    assert code == 1
    assert text.count("error:") == 1
    assert "Traceback" not in text
    assert not target.exists()


def test_usage_errors_exit_with_2(slice_file: Path):
    assert medq("restore", slice_file)[0] == 2
    assert medq("nonsense")[0] == 2
    assert medq("degrade", slice_file, "--task", "mr-nonsense", "-o", "x.nii.gz")[0] == 2


def test_some_failed_items_exit_with_3_and_only_failed_ones_with_1(slice_file: Path, tmp_path: Path):
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "bad.nii.gz").write_bytes(b"no")
    assert medq("restore", folder, "-o", tmp_path / "o1")[0] == 1
    slice_file.rename(folder / "good.nii.gz")
    code, text = medq("restore", folder, "-o", tmp_path / "o2", "--modality", "mr")
    assert code == 3
    assert "1 failed" in text


def test_a_recipe_with_a_wrong_key_names_it(tmp_path: Path):
    path = tmp_path / "recipe.json"
    path.write_text('{"model": {}}')
    code, text = medq("train", path, "-o", tmp_path / "run")
    assert code == 1
    assert "TrainConfig" in text


def test_doctor_measures_and_verifies():
    code, text = medq("doctor", "--json")
    assert code == 0
    found = json.loads(text[text.index("{") :])
    assert "verified" in found["weights sha256"]
    assert found["restore 256x256 (s)"] > 0


def test_every_command_of_the_readme_exists():
    pages = "\n".join(path.read_text() for path in (README, *README.parent.glob("docs/*.md")))
    for line in re.findall(r"^medq (.+)$", pages, re.M):
        verb, *rest = line.split()
        words = [verb, rest[0]] if verb in ("dataset", "annotate", "weights") else [verb]
        words += [rest[1]] if words[-1] == "user" else []
        text = medq(*words, "--help")[1]
        for flag in (word for word in rest if word.startswith("--")):
            assert flag.split("=")[0] in text, line


def stray(*_: object, **__: object) -> None:
    raise ValueError("operands of Jane Doe could not be broadcast")


def test_a_stray_error_is_called_a_fault_and_shows_no_values(slice_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medq_uni.io.read_write.read_image", stray)
    done = RUNNER.invoke(app, ["assess", str(slice_file)])
    assert done.exit_code == 1
    assert "Doe" not in done.output
    said, where = done.stderr.splitlines()
    assert said.startswith("This is a fault of medq, not of your file. Please report it with the output of")
    assert re.fullmatch(r"ValueError at medq_uni\.cli\.assessing:\d+", where)


def test_a_fault_in_a_worker_is_one_too(slice_file: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        list(map_items(stray, ["Jane Doe"]))

    monkeypatch.setattr("medq_uni.io.read_write.read_image", fail)
    done = RUNNER.invoke(app, ["assess", str(slice_file)])
    assert done.exit_code == 1
    assert "Doe" not in done.output
    assert re.fullmatch(r"ValueError at medq_uni\.distribute:\d+", done.stderr.splitlines()[1])


def test_debug_shows_where_a_fault_comes_from(slice_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medq_uni.io.read_write.read_image", stray)
    done = RUNNER.invoke(app, ["--debug", "assess", str(slice_file)])
    assert isinstance(done.exception, ValueError)
    assert "fault" not in done.output


def test_a_description_that_is_no_text_is_the_users_error(slice_file: Path, tmp_path: Path):
    (tmp_path / "description.json").write_bytes(b"\xff\xfe{")
    arguments = ["-o", tmp_path / "out.nii.gz", "--description", tmp_path / "description.json", "--modality", "mr"]
    code, text = medq("restore", slice_file, *arguments)
    assert code == 1
    assert "description.json: is no text in UTF-8" in text


def test_a_name_that_is_not_utf8_is_escaped_and_the_report_is_written(slice_file: Path, tmp_path: Path):
    folder = tmp_path / "tree"
    folder.mkdir()
    slice_file.rename(folder / os.fsdecode(b"b_M\xfcller\x1b[31m.nii.gz"))
    (folder / "a\nb.nii.gz\trestored\tnever.nii.gz").write_bytes(b"no image")
    report = tmp_path / "r.html"
    code, text = medq("restore", folder, "-o", tmp_path / "out", "--modality", "mr", "--report", report)
    assert code == 3, text
    assert r"b_M\xfcller\x1b[31m.nii.gz" in text
    assert r"a\nb.nii.gz\trestored\tnever.nii.gz" in text
    assert "\nb.nii.gz" not in text
    assert "\x1b" not in text
    assert r"b_M\xfcller" in report.read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_leaves_the_images_restored(
    slice_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medq_uni.report.write_report", full)
    target = tmp_path / "out.nii.gz"
    code, text = medq("restore", slice_file, "-o", target, "--modality", "mr", "--report", tmp_path / "r.html")
    assert code == 3
    assert "no report, but the images are restored: No space left" in text
    assert target.is_file()


@pytest.fixture
def series_tree(slice_file: Path, tmp_path: Path) -> Path:
    """A folder with two images, a 4-D file of two volumes, and a file that is no image."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    one = read_image(slice_file)
    for name in ("a.nii.gz", "sub/b.nii.gz"):
        write_image(one, tree / name)
    write_image(one, tree / "sub" / "c.nii.gz", more=[one.with_voxels(0.8 * one.voxels)])
    (tree / "notes.txt").write_text("no image")
    return tree


def test_a_folder_is_assessed_in_a_table_of_one_line_per_image(series_tree: Path):
    names = ["a.nii.gz", "sub/b.nii.gz", "sub/c.nii.gz [frame 0]", "sub/c.nii.gz [frame 1]"]
    result = RUNNER.invoke(app, ["assess", str(series_tree), "--modality", "mr"])
    assert result.exit_code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == names
    assert "notes.txt\tpassed over" in result.stderr
    result = RUNNER.invoke(app, ["assess", str(series_tree), "--modality", "mr", "--csv"])
    head, *lines = result.stdout.splitlines()
    assert head.startswith("image,modality,anatomy,verdict,degradation")
    assert [line.split(",")[0] for line in lines] == names
    (series_tree / "bad.nii.gz").write_bytes(b"no image")
    result = RUNNER.invoke(app, ["assess", str(series_tree), "--modality", "mr", "--json"])
    assert result.exit_code == 3
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["image"] for one in found] == ["a.nii.gz", "bad.nii.gz", *names[1:]]
    assert "error" in found[1]
    assert {one["modality"] for one in found if "error" not in one} == {"mr"}
    assert medq("assess", series_tree, "--json", "--csv")[0] == 2


def test_a_volume_of_a_4_d_file_is_chosen_or_all_are_restored_into_one_file(series_tree: Path, tmp_path: Path):
    source, report = series_tree / "sub" / "c.nii.gz", tmp_path / "r.html"
    words = ("--modality", "mr", "--force")
    code, text = medq("restore", source, "-o", tmp_path / "one.nii.gz", "--frame", 1, *words)
    assert code == 0, text
    code, text = medq("restore", source, "-o", tmp_path / "all.nii.gz", *words, "--report", report)
    assert code == 0, text
    assert "frame 1\tImage: MR" in text
    for name in ("all.nii.gz", "all.residual.nii.gz"):
        assert nibabel.load(tmp_path / name).shape == (64, 64, 1, 2)
    one = read_image(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "all.nii.gz", frame=1).voxels, one.voxels)
    record = json.loads((tmp_path / "all.medq.json").read_text())
    assert len(record["frames"]) == 2
    assert json.loads((tmp_path / "one.medq.json").read_text())["source"]["frame"] == 1
    assert "frame 1 of 2" in report.read_text()
    assert medq("restore", source, "-o", tmp_path / "no.tif", *words)[0] == 1
    assert medq("restore", source, "-o", tmp_path / "no.nii.gz", "--frame", 2, *words)[0] == 1
    code, text = medq("assess", source, "--modality", "mr", "--frame", 1)
    assert (code, "Image: MR" in text) == (0, True)


def test_the_report_of_a_resumed_run_covers_everything(series_tree: Path, tmp_path: Path):
    words = ("restore", series_tree, "-o", tmp_path / "out", "--modality", "mr", "--force", "--report")
    first, again = tmp_path / "first.html", tmp_path / "again.html"
    assert medq(*words, first)[0] == 0
    code, text = medq(*words, again)
    assert code == 0
    assert "3 skipped" in text
    titles = [re.findall(r"<h2>(.*?)</h2>", page.read_text()) for page in (first, again)]
    assert titles[0] == titles[1] == ["a.nii.gz", "sub/b.nii.gz", "sub/c.nii.gz"]
    assert all("frame 1 of 2" in page.read_text() for page in (first, again))
    assert again.read_text().count('figure data-name="Before"') == 3
    assert again.read_text().count('data-name="Uncertainty"') == first.read_text().count('data-name="Uncertainty"')


def test_what_cannot_be_drawn_does_not_undo_what_is_restored(
    slice_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("palette")

    monkeypatch.setattr("medq_uni.report._panels", fail)
    tree = tmp_path / "tree"
    tree.mkdir()
    slice_file.rename(tree / "a.nii.gz")
    words = ("restore", tree, "-o", tmp_path / "out", "--modality", "mr", "--report", tmp_path / "r.html")
    code, text = medq(*words)
    assert code == 3
    assert "not in the report: KeyError" in text
    assert "1 restored" in text or "1 unchanged" in text
    assert (tmp_path / "out" / "a.nii.gz").is_file()


GOOD = "Image: MR of the brain. Degradation: none. Cause: none. Impact: none. Verdict: good."


def test_good_images_are_called_unchanged_or_left_out(series_tree: Path, tmp_path: Path):
    (tmp_path / "good.txt").write_text(GOOD)
    out = tmp_path / "out"
    words = ("restore", series_tree, "-o", out, "--modality", "mr", "--description", tmp_path / "good.txt")
    code, text = medq(*words, "--skip-good")
    assert code == 0, text
    assert "3 unchanged" in text
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [f"{name}.medq.json" for name in "abc"]
    record = json.loads((out / "a.medq.json").read_text())
    assert (record["unchanged"], record["written"]) == (True, False)
    report = tmp_path / "r.html"
    code, text = medq(*words, "--skip-good", "--report", report)
    assert "3 skipped" in text
    assert report.read_text().count("<h2>") == 3
    code, text = medq(*words)  # now they are wanted
    assert "3 unchanged" in text
    assert "unchanged" in str(nibabel.load(out / "a.nii.gz").header["descrip"])
    np.testing.assert_array_equal(read_image(out / "a.nii.gz").voxels, read_image(series_tree / "a.nii.gz").voxels)
    assert "3 skipped" in medq(*words, "--skip-good")[1]
    assert medq(*words, "--skip-good", "--force")[0] == 2
    code, text = medq("restore", series_tree / "a.nii.gz", "-o", tmp_path / "x.nii.gz", *words[4:], "--skip-good")
    assert (code, "judged Good, not written" in text) == (0, True)
    assert not (tmp_path / "x.nii.gz").exists()
