from medq_uni.evaluate.sets import Case, phantom_cases, set_hash
from medq_uni.taxonomy import Severity, Task


def test_the_set_holds_every_task_and_grade_and_is_the_same_every_time(cases: list[Case]):
    assert {(c.task, c.severity) for c in cases} == {(t, s) for t in Task for s in Severity}
    assert set_hash(cases) == set_hash(list(phantom_cases(1, size=64)))
    assert set_hash(cases) != set_hash(list(phantom_cases(1, size=64, seed=1)))
