"""The one error tree.

    AquatintError
    ├── InvalidRequest            the caller must change the request
    │   ├── UnknownModel
    │   ├── UnknownSampler
    │   ├── Unsupported           valid in itself, not possible with this model or sampler
    │   ├── TooLarge              over a stated limit
    │   └── BadPicture            an upload that is no usable image
    ├── Overloaded                every queue is full; try later
    ├── ShuttingDown              this process takes no new work; try another or later
    ├── Cancelled                 somebody asked for it
    ├── DeadlineExceeded          it could no longer be finished in time
    └── EngineFailure             ours to mend
        ├── OutOfMemory           a single image does not fit the device
        ├── ModelLoadFailed
        │   └── ModelTooLarge     its weights alone are more than the device may hold
        ├── WorkerLost            the process died; the request may be run again
        └── RequestKillsWorker    it died twice on the same request; not run again

Each class has a stable ``code`` for the wire and says whether repeating the same request may help.
"""

from typing import ClassVar

import msgspec


class AquatintError(Exception):
    """Something a caller is told about; ``code`` is stable, the message is for people."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        """Keep ``message`` for people, ``param`` for the field at fault, ``retry_after`` in seconds."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def report(self) -> "ErrorReport":
        """The same error in its wire form."""
        return ErrorReport(code=self.code, message=self.message, param=self.param, retry_after=self.retry_after)


class InvalidRequest(AquatintError):
    """The request is wrong and will be wrong again; ``param`` names the field in the engine's terms."""

    code = "invalid_request"


class UnknownModel(InvalidRequest):
    """No model of that name is in the catalog."""

    code = "unknown_model"


class UnknownSampler(InvalidRequest):
    """No sampler or scheduler of that name exists here."""

    code = "unknown_sampler"


class Unsupported(InvalidRequest):
    """The option exists, but not for this model, sampler or input."""

    code = "unsupported"


class TooLarge(InvalidRequest):
    """A stated limit (pixels, steps, images, bytes) is exceeded."""

    code = "too_large"


class BadPicture(InvalidRequest):
    """An uploaded image cannot be used; the message says why."""

    code = "bad_picture"


class Overloaded(AquatintError):
    """The queue is full; ``retry_after`` estimates when there will be room."""

    code = "overloaded"
    retryable = True


class ShuttingDown(AquatintError):
    """The process drains and takes no new work."""

    code = "shutting_down"
    retryable = True


class Cancelled(AquatintError):
    """The request was cancelled before it was finished."""

    code = "cancelled"


class DeadlineExceeded(AquatintError):
    """The request's deadline passed."""

    code = "deadline_exceeded"
    retryable = True


class EngineFailure(AquatintError):
    """The engine failed in a way that is not the caller's fault."""

    code = "engine_failure"
    retryable = True


class OutOfMemory(EngineFailure):
    """One image alone does not fit the device; the message names its size."""

    code = "out_of_memory"
    retryable = False


class ModelLoadFailed(EngineFailure):
    """A model of the catalog could not be loaded."""

    code = "model_load_failed"
    retryable = False


class ModelTooLarge(ModelLoadFailed):
    """The model's weights do not fit the device even when it is empty; the message names both numbers."""

    code = "model_too_large"


class WorkerLost(EngineFailure):
    """The worker process died while the request was in flight."""

    code = "worker_lost"


class RequestKillsWorker(EngineFailure):
    """The request was in flight at two worker deaths and is not tried a third time."""

    code = "request_kills_worker"
    retryable = False


class ErrorReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error as it crosses a process border."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None

    def to_exception(self) -> AquatintError:
        """The exception this report was made from; an unknown code becomes an `EngineFailure`."""
        kind = _by_code(AquatintError).get(self.code, EngineFailure)
        return kind(self.message, param=self.param, retry_after=self.retry_after)


def _by_code(root: type[AquatintError]) -> dict[str, type[AquatintError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found
