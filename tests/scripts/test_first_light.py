"""scripts/run, past its set-up: the program that starts the server and makes a first picture."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def start(tmp_path: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AQUATINT_")}
    command = [sys.executable, str(ROOT / "scripts" / "first_light.py"), "--port", "0", "--out", str(tmp_path / "first.png")]
    return subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        env=environment | {"AQUATINT_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_once_makes_a_picture_and_leaves(tmp_path: Path) -> None:
    process = start(tmp_path, "--once", "--device", "fake")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert Image.open(tmp_path / "first.png").size == (128, 128)


def test_it_goes_on_serving_until_interrupted(tmp_path: Path) -> None:
    process = start(tmp_path, "--device", "fake")
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Serving on"):
            break
    assert process.poll() is None, "".join(said)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "Stopped." in rest


def test_a_server_that_cannot_start_is_explained(tmp_path: Path) -> None:
    process = start(tmp_path, "--once", "--device", "toaster")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--device='toaster'" in said
