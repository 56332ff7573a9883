"""Start the server with the demo checkpoint, make a first picture through the OpenAI client, and go on serving.

`scripts/run` calls this inside .venv; see there for the flags.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import openai

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out"
LISTENING = re.compile(r"listening on (http://\S+)")
START_SECONDS = 900
PROMPT = "a large yellow star on a blue background"


class Trouble(Exception):
    """Something to tell the user, with the log's tail."""


def say(text: str) -> None:
    """A progress line, at once."""
    print(text, flush=True)


def start(port: int, device: str, log_file: Path) -> subprocess.Popen[bytes]:
    """The server, in a session of its own: Ctrl-C reaches it through us, as SIGTERM."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {"AQUATINT_HOME": str(OUT / "home")} | os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [str(Path(sys.executable).with_name("aquatint")), "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", device]
    with log_file.open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def stop(server: subprocess.Popen[bytes]) -> int:
    """End the server kindly, then for certain; returns its exit status."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            return server.wait(90)
        except subprocess.TimeoutExpired:
            server.kill()
    return server.wait()


def alive(server: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait a moment; whether the server still runs after it."""
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def readiness(url: str) -> tuple[int, str]:
    """Status of /readyz and what it says, on one line."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, in_words(answer.read().decode(errors="replace"))
    except OSError as error:
        return 0, type(error).__name__
    finally:
        connection.close()


def in_words(body: str) -> str:
    """Why it is not ready, in one line."""
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        return str(found.get("reason", found)) if isinstance(found, dict) else str(found)
    return body[:160]


def wait_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """The server's address once /readyz answers 200; a line whenever what it says changes, or ten seconds pass."""
    url, told, spoke, began = "", "", time.monotonic(), time.monotonic()
    while alive(server, 0.2):
        now = time.monotonic()
        if now - began > START_SECONDS:
            break
        if not url:
            found = LISTENING.search(log.read_text(encoding="utf-8", errors="replace"))
            url = found[1] if found else ""
        status, words = readiness(url) if url else (0, "starting")
        if status == http.client.OK:
            return url
        if words != told or now - spoke > 10:
            say(f"    {now - began:4.0f} s  {words}")
            told, spoke = words, now
    message = "the server did not become ready" if server.poll() is None else f"the server left with {server.returncode}"
    raise Trouble(message)


def first_picture(url: str, target: Path) -> None:
    """One image through the official client, written to ``target``."""
    key = (os.environ.get("AQUATINT_API_KEY") or os.environ.get("AQUATINT_API_KEYS") or "not-needed").split(",")[0]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    answer = client.images.generate(model="demo", prompt=PROMPT, n=1, size="128x128", extra_body={"seed": 9})
    if not answer.data or not answer.data[0].b64_json:
        message = "the answer holds no picture"
        raise Trouble(message)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(answer.data[0].b64_json))


def hints(url: str, log: Path) -> str:
    """What to try next."""
    body = '{"model": "demo", "prompt": "a green star on a white background", "seed": 3, "steps": 20}'
    return f"""
Try next:
    curl {url}/v1/images/generations -H 'content-type: application/json' \\
        -d '{body}'
    curl {url}/metrics
and read docs/02-openai-api.md. The server's log is {os.path.relpath(log)}."""


def keep_serving(server: subprocess.Popen[bytes], url: str) -> None:
    """Until Ctrl-C; a server that leaves by itself is trouble."""
    say(f"\nServing on {url} until Ctrl-C.")
    message = f"the server left with {server.wait()}"
    raise Trouble(message)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end us as Ctrl-C does: by way of `finally`."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupt)
    yield


def serve(port: int, device: str, target: Path, *, once: bool) -> int:
    """The whole of it; returns the exit status."""
    say(f"Starting the server (device {device}) ...")
    log = target.absolute().parent / "logs" / "serve.log"
    server = start(port, device, log)
    try:
        url = wait_ready(server, log)
        say(f"Ready at {url}. Making a first picture: {PROMPT!r} ...")
        began = time.monotonic()
        first_picture(url, target)
        say(f"Wrote {os.path.relpath(target)} after {time.monotonic() - began:.1f} s.")
        if not once:
            say(hints(url, log))
            keep_serving(server, url)
    except (Trouble, openai.OpenAIError, OSError) as trouble:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
        print(f"\n{tail}\n\nerror: {trouble}\nThe whole log is {os.path.relpath(log)}.", file=sys.stderr)
        stop(server)
        return 1
    except KeyboardInterrupt:
        say("\nStopping: requests in flight are finished first ...")
    finally:
        status = stop(server)
    say("Stopped." if status == 0 else f"The server left with {status}; see {os.path.relpath(log)}.")
    return 0 if status == 0 else 1


def main() -> int:
    """Read the flags and serve."""
    parser = argparse.ArgumentParser(prog="scripts/run", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=OUT / "first.png")
    arguments = parser.parse_args()
    with stopping_on_signals():
        return serve(arguments.port, arguments.device, arguments.out, once=arguments.once)


if __name__ == "__main__":
    sys.exit(main())
