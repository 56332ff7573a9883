import pytest
from litestar.exceptions import MethodNotAllowedException, NotFoundException, PermissionDeniedException

from pipelines.contract import errors
from server.api.errors import TooManyBytes, Unauthorized, headers, openai_envelope, plain_envelope, problem


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "retry"),
    [
        (errors.InvalidRequest("m", param="n"), 400, "invalid_request_error", "invalid_request", None),
        (errors.UnknownModel("m"), 404, "invalid_request_error", "model_not_found", None),
        (errors.UnknownSampler("m"), 400, "invalid_request_error", "unknown_sampler", None),
        (errors.TooLarge("m"), 400, "invalid_request_error", "too_large", None),
        (TooManyBytes("m"), 413, "invalid_request_error", "too_many_bytes", None),
        (Unauthorized("m"), 401, "invalid_request_error", "invalid_api_key", None),
        (errors.Overloaded("m", retry_after=2.4), 429, "requests", "rate_limit_exceeded", True),
        (errors.ShuttingDown("m"), 503, "server_error", "shutting_down", True),
        (errors.Cancelled("m"), 499, "invalid_request_error", "cancelled", False),
        (errors.DeadlineExceeded("m"), 504, "server_error", "deadline_exceeded", True),
        (errors.EngineFailure("m"), 500, "server_error", "engine_failure", True),
        (errors.OutOfMemory("m"), 500, "server_error", "out_of_memory", False),
        (errors.WorkerLost("m"), 503, "server_error", "worker_lost", True),
        (errors.RequestKillsWorker("m"), 500, "server_error", "request_kills_worker", False),
        (NotFoundException(), 404, "invalid_request_error", "not_found", None),
        (MethodNotAllowedException(), 405, "invalid_request_error", "method_not_allowed", None),
        (PermissionDeniedException("no"), 403, "invalid_request_error", None, None),
        (RuntimeError("secret"), 500, "server_error", "internal_error", None),
    ],
)
def test_status_and_code(error, status, kind, code, retry):
    found = problem(error)
    assert (found.status, found.kind, found.code, found.retry) == (status, kind, code, retry)
    assert set(openai_envelope(found)["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in found.message


def test_every_error_of_the_tree_has_an_answer():
    kinds = [errors.AquatintError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    assert all(400 <= problem(kind("m")).status < 600 for kind in kinds)


def test_headers_tell_when_and_whether_to_come_back():
    told = headers(problem(errors.Overloaded("m", retry_after=2.4)))
    assert told == {"Retry-After": "2", "retry-after-ms": "2400", "x-should-retry": "true"}
    assert headers(problem(errors.InvalidRequest("m"))) == {}


def test_outside_of_a_dialect_an_error_is_plain():
    assert plain_envelope(problem(NotFoundException())) == {"detail": "There is nothing at this address.", "code": "not_found"}
