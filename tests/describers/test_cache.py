import json
from pathlib import Path

from medq_uni.describers.cache import AnswerCache, question_key
from medq_uni.describers.describer import Answer


def test_answers_survive_json_and_damage(truths, tmp_path: Path):
    cache = AnswerCache(tmp_path)
    answer = Answer.described(truths[0], warning="looks like PET")
    cache.put("ab12", answer.to_dict())
    assert cache.answer("ab12") == answer
    (tmp_path / "ab" / "ab12.json").write_text("{")
    assert cache.answer("ab12") is None
    cache.put("ab12", json.loads('{"outcome": "unheard of", "description": null, "reason": "", "warning": ""}'))
    assert cache.answer("ab12") is None
    assert cache.answer("cd") is None


def test_a_question_is_known_by_all_that_its_answer_depends_on():
    key = question_key("model", 400, [{"role": "user", "content": "how?"}])
    assert key == question_key("model", 400, [{"content": "how?", "role": "user"}])
    assert (
        len({key, question_key("other", 400, []), question_key("model", 500, []), question_key("model", 400, [])}) == 4
    )
