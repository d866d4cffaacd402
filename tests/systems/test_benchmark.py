import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.data.dataset import read_dataset_recipe
from medq_uni.io.read_write import write_image
from medq_uni.systems.benchmark import COLUMNS, read_benchmarks
from medq_uni.systems.cases import Case

SPLIT = {"count": 5, "seed": 1, "phantom_sizes": [48], "grades": ["none", "severe"]}


def recipe(path: Path, **splits: object) -> Path:
    path.write_text(json.dumps({"name": path.stem, "splits": splits}))
    return path


def listed(folder: Path, cases: list[Case], **changes: str) -> Path:
    folder.mkdir()
    with (folder / "benchmark.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, case in enumerate(cases):
            names = {"degraded": f"{number}-in.nii.gz", "reference": f"{number}-out.nii.gz"}
            write_image(case.degraded, folder / names["degraded"])
            write_image(case.reference, folder / names["reference"])
            about = {"task": case.task.value, "severity": case.severity.value, "subject": case.subject}
            writer.writerow({**names, **about, **(changes if number == 0 else {})})
    return folder


def test_a_recipe_is_drawn_the_same_every_time(tmp_path: Path):
    path = recipe(tmp_path / "one.json", test=SPLIT, val={**SPLIT, "seed": 2})
    (first,), (again,) = read_benchmarks(path), read_benchmarks(path)
    assert (first.name, len(first.test), len(first.val)) == ("one", 5, 5)
    assert first.sha256 == again.sha256


def test_a_folder_of_recipes_leaves_out_those_that_want_volumes(tmp_path: Path):
    recipe(tmp_path / "a.json", test=SPLIT)
    wants = recipe(tmp_path / "b.json", test={**SPLIT, "real_fraction": 1.0})
    assert [one.name for one in read_benchmarks(tmp_path)] == ["a"]
    (tmp_path / "a.json").unlink()
    with pytest.raises(ConfigError, match=r"are made of real volumes.*--source"):
        read_benchmarks(tmp_path)
    with pytest.raises(ConfigError, match="--source"):
        read_benchmarks(wants)


def test_sources_reach_recipes_that_want_a_share_of_real_volumes(tmp_path: Path):
    path = recipe(tmp_path / "half.json", test={**SPLIT, "real_fraction": 0.5, "split": "test"})
    assert {case.group for case in read_benchmarks(path)[0].test} == {"phantoms"}
    with pytest.raises(ValueError, match="gone"):
        read_benchmarks(path, [f"ct:{tmp_path / 'gone'}"])


def test_no_side_is_drawn_from_volumes_that_one_may_train_on(tmp_path: Path):
    path = recipe(tmp_path / "leak.json", test={**SPLIT, "real_fraction": 0.5})
    with pytest.raises(ConfigError, match=r"the side 'test' would be drawn from the volumes of split 'train'"):
        read_benchmarks(path, ["somewhere"])


@pytest.mark.parametrize("name", ["phantoms", "shift", "unseen"])
def test_our_benchmarks_made_by_code_take_no_volumes(name: str):
    recipe = read_dataset_recipe(Path(__file__).parents[2] / f"benchmark/{name}.json")
    assert {pairs.real_fraction for pairs in recipe.splits.values()} == {0}


def test_a_list_of_files_is_read_and_what_cannot_be_read_is_listed(tmp_path: Path, cases: list[Case]):
    (found,) = read_benchmarks(listed(tmp_path / "good", cases[:3]))
    assert not found.unreadable
    for case, original in zip(found.test, cases, strict=False):
        assert case.task is original.task
        assert np.allclose(case.degraded.voxels, original.degraded.voxels, atol=1e-3)
    for name, changes, message in (
        ("missing", {"reference": "gone.nii.gz"}, "gone.nii.gz is missing"),
        ("task", {"task": "ct-blur"}, "'ct-blur' is none of ct-low-dose, "),
        ("empty", {"reference": ""}, "unnamed file"),
        ("subject", {"subject": ""}, "subject is missing"),
    ):
        (found,) = read_benchmarks(listed(tmp_path / name, cases[:3], **changes))
        assert len(found.test) == 2
        assert "line 2" in found.unreadable[0]
        assert message in found.unreadable[0]


def test_a_list_that_a_spreadsheet_wrote_is_read(tmp_path: Path, cases: list[Case]):
    folder = listed(tmp_path / "sheet", cases[:2])
    text = (folder / "benchmark.csv").read_text()
    (folder / "benchmark.csv").write_text(text.replace(",", ";"), encoding="utf-8-sig")
    (found,) = read_benchmarks(folder)
    assert len(found.test) == 2


def test_a_row_of_another_split_or_with_cells_missing_is_listed(tmp_path: Path, cases: list[Case]):
    folder = listed(tmp_path / "rows", cases[:2])
    first, good, _ = (folder / "benchmark.csv").read_text().splitlines()
    rows = [f"{first},split", f"{good},test", f"{good},train", good.rpartition(",mild")[0] or good.partition(",")[0]]
    (folder / "benchmark.csv").write_text("\n".join([*rows, ""]))
    (found,) = read_benchmarks(folder)
    assert len(found.test) == 1
    assert "line 3: split 'train' is none of test, val" in found.unreadable[0]
    assert "line 4: None is none of ct-low-dose" in found.unreadable[1]


def test_sizes_that_differ_are_listed(tmp_path: Path, cases: list[Case]):
    folder = listed(tmp_path / "sizes", cases[:2])
    smaller = cases[0].reference.voxels[:, :-4]
    (folder / "0-out.nii.gz").unlink()
    write_image(type(cases[0].reference)(smaller, modality=cases[0].task.modality), folder / "0-out.nii.gz")
    (found,) = read_benchmarks(folder)
    assert "(1, 64, 64) and reference (1, 60, 64)" in found.unreadable[0]


def test_what_is_no_benchmark_is_said(tmp_path: Path, cases: list[Case]):
    with pytest.raises(ConfigError, match="is no benchmark"):
        read_benchmarks(tmp_path)
    with pytest.raises(ConfigError, match="no pair in its split test"):
        read_benchmarks(listed(tmp_path / "none", cases[:1], degraded="gone.nii.gz"))
    (tmp_path / "columns").mkdir()
    (tmp_path / "columns" / "benchmark.csv").write_text("degraded,reference\n")
    with pytest.raises(ConfigError, match="no column task, severity, subject"):
        read_benchmarks(tmp_path / "columns")
