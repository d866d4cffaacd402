import pickle

import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.data.reference_text import describe
from medq_uni.scoring import scores
from medq_uni.seeding import generator_of
from medq_uni.systems.build import NotRun, build, read_specs, tuned
from medq_uni.systems.cases import Case
from medq_uni.systems.cost import cost_of, probe
from medq_uni.systems.system import Steerable
from medq_uni.taxonomy import Anatomy, Severity, Task


def test_names_are_read():
    specs = read_specs(["input", "classical", "Ours=nano", "nano:no-skip", "runs/mine/model", "unimedvl"])
    names = [spec.name for spec in specs]
    assert names[:2] == ["degraded input", "bilateral"]
    assert names[7:] == ["Ours", "nano (no-skip)", "mine", "UniMedVL"]
    with pytest.raises(ConfigError, match="nano stands twice"):
        read_specs(["nano", "nano"])


def test_parts_switched_off_are_other_systems(cases: list[Case]):
    case = next(c for c in cases if c.severity is Severity.SEVERE)
    systems = [build(spec) for spec in read_specs(["nano", "nano:expert-bypassed", "nano:no-skip"], "cpu")]
    outputs = [system.restore(case).image.voxels for system in systems]
    assert not any(np.allclose(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert len({system.identity for system in systems}) == 3
    assert len({system.identity[:64] for system in systems}) == 1
    (bound,) = read_specs(["nano:codec-only"], "cpu")
    assert scores(build(bound).restore(case).image, case.reference)[0] > 48


def test_forced_restores_what_is_good_too(cases: list[Case]):
    good = next(c for c in cases if c.severity is Severity.NONE and c.task is Task.MR_NOISE)
    plain, forced = (build(spec).restore(good) for spec in read_specs(["nano", "nano:forced"], "cpu"))
    assert plain.description == forced.description
    assert not np.array_equal(forced.image.voxels, good.degraded.voxels)


def test_a_whole_model_can_be_told_what_is_wrong_and_then_always_does_something(cases: list[Case]):
    case = next(c for c in cases if c.severity is Severity.MODERATE and c.task is Task.MR_NOISE)
    whole, part = (build(spec) for spec in read_specs(["nano", "nano:no-skip"], "cpu"))
    assert not isinstance(part, Steerable)
    assert isinstance(whole, Steerable)
    good = describe(case.task.modality, Anatomy.BRAIN, None, generator_of(1))
    told = whole.restore_told(case, good)
    assert told.description == good
    assert not np.array_equal(told.image.voxels, case.degraded.voxels)


def test_a_system_that_cannot_run_says_why():
    (missing,) = read_specs(["no/such/folder"])
    with pytest.raises(NotRun, match="no/such/folder"):
        build(missing)


def test_filters_are_told_strengths_and_specs_travel(cases: list[Case]):
    spec, _ = read_specs(["tv", "nano"])
    found = tuned(spec, cases)
    assert found.strengths
    assert pickle.loads(pickle.dumps(found)) == found


def test_costs_count_operations_of_networks_alone():
    case = probe()
    nothing, nano = (cost_of(build(spec), case) for spec in read_specs(["input", "nano:expert-bypassed"], "cpu"))
    assert (nothing.parameters, nothing.gflops) == (0, 0)
    assert nano.parameters > 10e6
    assert nano.gflops > 5
    assert nano.seconds > nothing.seconds
