"""Log lines: structured, on stderr, ours and those of libraries alike."""

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def configure(form: str, level: str, stream: TextIO = sys.stderr) -> FilteringBoundLogger:
    """Set up logging for this process; returns the logger to pass on. Called once, by whoever starts the server."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Local variables stay out of the log: they hold prompts, pictures and keys.
    if form == "json":
        tracebacks = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        render: list[Processor] = [tracebacks, structlog.processors.JSONRenderer()]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        context_class=dict,
    )
    return log


def silent() -> FilteringBoundLogger:
    """A logger that says nothing, for tests and embedding."""
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[_drop],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    return log


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent
