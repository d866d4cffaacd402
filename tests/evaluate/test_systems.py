import numpy as np

from medq_uni.evaluate.sets import Case
from medq_uni.evaluate.systems import ModelSystems, nlm, tune_nlm
from medq_uni.pipeline import Restorer
from medq_uni.report import scores
from medq_uni.taxonomy import Severity, Task


def test_parts_switched_off_are_other_systems(cases: list[Case], restorer: Restorer):
    model, case = ModelSystems(restorer), next(c for c in cases if c.severity is Severity.SEVERE)
    outputs = [system(case).voxels for system in (model.expert_bypassed, model.path_off, model.codec_only)]
    assert not np.allclose(outputs[0], outputs[1])
    assert scores(model.codec_only(case), case.reference)[0] > 48


def test_nlm_is_tuned_per_task(cases: list[Case]):
    few = [c for c in cases if c.task is Task.MR_NOISE]
    strength = tune_nlm(few)[Task.MR_NOISE]
    best = np.mean([scores(nlm(c, strength), c.reference)[0] for c in few])
    assert best >= np.mean([scores(nlm(c, 0.3), c.reference)[0] for c in few])
