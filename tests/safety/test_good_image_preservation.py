from medq_uni.data.reference_text import describe
from medq_uni.safety.good_image_preservation import check_good_image_preservation
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.seeding import generator_of
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Anatomy, Severity
from tests.restorers import SMALL, Simple


def test_what_changes_nothing_preserves_good_images(safety_cases: list[SafetyCase], unchanged: OutputCache):
    rows = check_good_image_preservation(unchanged, safety_cases, SMALL)
    assert len(rows) == sum(safety_case.pair.severity is Severity.NONE for safety_case in safety_cases) >= 5
    for row in rows:
        assert row["unchanged"]
        assert not row["is_worse"]
        assert row["psnr"] is row["verdict"] is None


def test_an_altered_good_image_is_worse_and_its_verdict_is_kept(safety_cases: list[SafetyCase]):
    class Shifted(Simple):
        def restore(self, case: Case) -> Output:
            words = describe(case.task.modality, Anatomy.BODY, None, generator_of(1))
            return Output(case.degraded.with_voxels(0.99 * case.degraded.voxels), description=words)

    for row in check_good_image_preservation(OutputCache(Shifted(lambda case: case.degraded)), safety_cases, SMALL):
        assert not row["unchanged"]
        assert row["is_worse"]
        assert row["verdict"] == "good"
        assert 30 < row["psnr"] < 80
