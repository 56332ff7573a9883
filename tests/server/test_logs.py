import io
import json
import logging

import pytest

from server.telemetry.logs import configure


@pytest.fixture
def root():
    """The root logger, put back as it was: setting up logging is for a whole process."""
    logger = logging.getLogger()
    before = (logger.handlers[:], logger.level)
    yield logger
    logger.handlers[:], level = before[0], before[1]
    logger.setLevel(level)


def fail(log):
    try:
        broken("hunter" + "2")
    except ValueError:
        log.exception("it broke", worker="w")


def broken(key):
    raise ValueError(len(key))


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_logged_without_local_variables(root, form):
    stream = io.StringIO()
    fail(configure(form, "info", stream))
    assert "ValueError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_json_lines_are_json_for_us_and_for_libraries(root):
    stream = io.StringIO()
    log = configure("json", "warning", stream)
    log.info("not this")
    log.warning("this", count=3)
    logging.getLogger("some.library").warning("and %s", "that")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [("warning", "this"), ("warning", "and that")]
    assert lines[0]["count"] == 3
