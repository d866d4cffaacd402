from medq_uni.data.describe import describe
from medq_uni.data.pairs import generator_of
from medq_uni.evaluate.harm import check_harm
from medq_uni.evaluate.sets import Case
from medq_uni.evaluate.system import Output
from medq_uni.evaluate.trials import Scene, Trials
from medq_uni.taxonomy import Anatomy, Severity
from tests.evaluate.conftest import SMALL, Simple


def test_what_changes_nothing_does_no_harm(scenes: list[Scene], unchanged: Trials):
    rows = check_harm(unchanged, scenes, SMALL)
    assert len(rows) == sum(scene.pair.severity is Severity.NONE for scene in scenes) >= 5
    for row in rows:
        assert row["unchanged"]
        assert not row["is_worse"]
        assert row["psnr"] is row["verdict"] is None


def test_an_altered_good_image_is_worse_and_its_verdict_is_kept(scenes: list[Scene]):
    class Shifted(Simple):
        def restore(self, case: Case) -> Output:
            words = describe(case.task.modality, Anatomy.BODY, None, generator_of(1))
            return Output(case.degraded.with_voxels(0.99 * case.degraded.voxels), description=words)

    for row in check_harm(Trials(Shifted(lambda case: case.degraded)), scenes, SMALL):
        assert not row["unchanged"]
        assert row["is_worse"]
        assert row["verdict"] == "good"
        assert 30 < row["psnr"] < 80
