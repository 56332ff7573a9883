"""NudeNet in a process of its own: ``python -m server.gateway.moderation.detector``.

Reads files of pictures from stdin, each after its length (4 bytes, big-endian); answers each with a line of JSON on stdout:
``{"found": [["FACE_FEMALE", 0.7], ...]}``, or ``{"error": "..."}``. The first line says whether it is ready. It leaves at the
end of stdin, which comes with the server's, whatever that one dies of.
"""

import json
import os
import sys
from typing import Any, BinaryIO

_HEADER = 4
_NICE = 5


def main() -> None:
    """Answer until stdin ends."""
    # Libraries write to stdout: they shall not write into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(_NICE)
    try:
        from nudenet import NudeDetector  # noqa: PLC0415 - an optional library

        detector: Any = NudeDetector()
    except Exception as error:  # noqa: BLE001 - whatever it is, the server is to hear of it
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    _say(answers, {"ready": True})
    while (data := _frame(sys.stdin.buffer)) is not None:
        try:
            found = [[each["class"], round(float(each["score"]), 4)] for each in detector.detect(data)]
            _say(answers, {"found": found})
        except Exception as error:  # noqa: BLE001 - a picture that it cannot read must not end it
            _say(answers, {"error": f"{type(error).__name__}: {error}"})


def _frame(source: BinaryIO) -> bytes | None:
    header = source.read(_HEADER)
    if len(header) < _HEADER:
        return None
    length = int.from_bytes(header, "big")
    data = source.read(length)
    return data if len(data) == length else None


def _say(target: BinaryIO, answer: dict[str, object]) -> None:
    target.write(json.dumps(answer).encode() + b"\n")
    target.flush()


if __name__ == "__main__":
    main()
