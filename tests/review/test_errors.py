import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from medq_uni.description import DescriptionError
from medq_uni.review.errors import add_errors


def answer(error: Exception) -> tuple[int, str]:
    app = FastAPI()
    add_errors(app)

    @app.get("/api/fails")
    def fails() -> None:
        raise error

    response = TestClient(app, raise_server_exceptions=False).get("/api/fails")
    return response.status_code, response.text


def test_what_a_reviewer_can_mend_is_said():
    status, text = answer(DescriptionError("cause: needs text."))
    assert status == 422
    assert "Cause: needs text." in text


@pytest.mark.parametrize("error", [ValueError("of Jane Doe"), OSError("of Jane Doe")])
def test_a_fault_shows_no_values_and_is_logged_by_its_place(error: Exception, caplog: pytest.LogCaptureFixture):
    status, text = answer(error)
    assert status == 503
    assert "nothing was changed" in text
    assert "Doe" not in text + caplog.text
    assert type(error).__name__ in caplog.text
