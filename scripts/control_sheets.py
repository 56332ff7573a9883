"""Make the pictures of docs/08-control.md: each kind of control as the demo's models do it, by a server, over its API.

python scripts/control_sheets.py [--only loras]     docs/img/control-*.png, about two minutes on a CPU
"""

import argparse
import base64
import io
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "img"
SIDE, GAP, LINE = 128, 6, 16
START_SECONDS = 120
PROMPTS = (
    "a red square left of a blue star on a white background",
    "a brown heart above a green square on a red background",
    "an orange circle above a pink triangle on a blue background",
    "a yellow heart left of a black cross on a white background",
)
Row = list[tuple[str, Image.Image]]
"""Pictures with a line below each."""


class Api:
    """A server of our own."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=300)

    def ready(self) -> bool:
        """Whether it can draw."""
        return bool(self._client.get("/readyz").json()["ready"])

    def draw(self, prompt: str, **options: Any) -> Image.Image:
        """One picture."""
        pictures = {name: written(value) for name, value in options.items() if isinstance(value, Image.Image)}
        body = {"prompt": prompt, "seed": 7, "response_format": "b64", "cache": "off", **options, **pictures}
        answer = self._client.post("/api/generate", json=body)
        if answer.is_error:
            sys.exit(f"{answer.status_code}: {answer.text}")
        return opened(base64.b64decode(answer.json()["images"][0]["b64"]))

    def control_image(self, picture: Image.Image, preprocessor: str) -> Image.Image:
        """What a preprocessor makes of ``picture``."""
        body = {"image": written(picture), "preprocessor": preprocessor, "options": {"resolution": SIDE}}
        answer = self._client.post("/api/preprocess", json=body, headers={"Accept": "image/png"})
        if answer.is_error:
            sys.exit(f"{answer.status_code}: {answer.text}")
        return opened(answer.content)


def written(picture: Image.Image) -> str:
    """``picture`` as it is sent."""
    target = io.BytesIO()
    picture.save(target, "PNG")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def opened(data: bytes) -> Image.Image:
    """A file's picture."""
    return Image.open(io.BytesIO(data)).convert("RGB")


@contextmanager
def server() -> Iterator[Api]:
    """A server with the packaged models on the CPU, ready to draw."""
    with tempfile.TemporaryDirectory(prefix="aquatint-sheets-") as home:
        log = Path(home) / "log"
        command = [str(Path(sys.executable).with_name("aquatint")), "serve", "--port", "0", "--home", home, "--device", "cpu"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
        try:
            yield _when_ready(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _when_ready(process: "subprocess.Popen[bytes]", log: Path) -> Api:
    api: Api | None = None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"listening on (http://\S+)", log.read_text(errors="replace"))
        api = api or (Api(found[1]) if found else None)
        if api is not None and api.ready():
            return api
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        break
    sys.exit(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def loras(api: Api) -> list[Row]:
    """The same prompts and seeds with none, one, and both at half weight."""
    uses: dict[str, list[dict[str, Any]]] = {
        "no LoRA": [],
        "two-tone": [{"name": "two-tone"}],
        "outline": [{"name": "outline"}],
        "both, 0.6 each": [{"name": "two-tone", "weight": 0.6}, {"name": "outline", "weight": 0.6}],
    }
    return [[(told, api.draw(prompt, loras=used)) for prompt in PROMPTS] for told, used in uses.items()]


def networks(api: Api) -> list[Row]:
    """Edges of a picture, and other colours drawn along them, by weight and by balance."""
    rows: list[Row] = []
    for prompt, other in zip(
        PROMPTS[:2],
        ("a green shape and a purple shape on a white background", "a yellow shape and a cyan shape on a gray background"),
        strict=True,
    ):
        source = api.draw(prompt)
        edges = api.control_image(source, "canny")
        use = {"name": "canny", "image": written(edges), "preprocessor": "none"}
        row: Row = [("a picture", source), ("its edges (canny)", edges)]
        for told, more in (
            ("weight 1.2", {"weight": 1.2}),
            ("weight 0.5", {"weight": 0.5}),
            ("until a third", {"weight": 1.2, "end": 0.33}),
        ):
            row.append((told, api.draw(other, guidance=2.5, controls=[{**use, **more}])))
        rows.append(row)
    return rows


def masks(api: Api) -> list[Row]:
    """Inpainting, a soft mask, the masked part alone, erasing, and margins."""
    source = api.draw(PROMPTS[0])
    left = Image.new("L", source.size)
    ImageDraw.Draw(left).rectangle([2, 24, 64, 96], fill=255)
    soft = Image.linear_gradient("L").rotate(90).resize(source.size)
    ask = "a green circle left of a blue star on a white background"
    made = {"image": source, "strength": 1.0}
    first: Row = [
        ("a picture", source),
        ("a mask", left.convert("RGB")),
        ("painted anew", api.draw(ask, **made, mask=left)),
        ("only_masked", api.draw("a green circle on a white background", **made, mask=left, only_masked=True)),
        ("recipe: erase", api.draw("", image=source, mask=left, recipe="erase")),
    ]
    second: Row = [
        ("the picture", source),
        ("a soft mask", soft.convert("RGB")),
        ("mask_soft", api.draw(PROMPTS[2], **made, mask=soft, mask_soft=True)),
        ("strength 0.6", api.draw(PROMPTS[2], image=source, strength=0.6)),
        ("recipe: variation", api.draw(PROMPTS[0], image=source, recipe="variation", seed=11)),
    ]
    wide = api.draw("a white background", image=source, outpaint={"left": 32, "right": 32}, seed=3)
    third: Row = [("the picture", source), ("outpaint: 32 left and right", wide)]
    return [first, second, third]


def larger(api: Api) -> list[Row]:
    """A second pass, and enlarging, with and without tiles."""
    prompt = "a white triangle on a green background"
    small = api.draw(prompt)
    options: dict[str, dict[str, Any]] = {
        "upscale, lanczos": {"upscale": {"scale": 2}},
        "with tiles, strength 0.2": {"upscale": {"scale": 2, "tiles": {"strength": 0.2}}},
        "hires, strength 0.3": {"hires": {"scale": 2, "strength": 0.3}},
    }
    return [[("a picture", small), *((told, api.draw(prompt, **more)) for told, more in options.items())]]


SHEETS: dict[str, Callable[[Api], list[Row]]] = {"loras": loras, "networks": networks, "masks": masks, "larger": larger}


def sheet(rows: list[Row]) -> Image.Image:
    """All of them on white, each with its line."""
    widths = [sum(picture.width + GAP for _, picture in row) + GAP for row in rows]
    heights = [max(picture.height for _, picture in row) + LINE + GAP for row in rows]
    paper = Image.new("RGB", (max(widths), sum(heights) + GAP), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(10)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for told, picture in row:
            paper.paste(picture, (left, top))
            pen.rectangle([left - 1, top - 1, left + picture.width, top + picture.height], outline="#bbbbbb")
            pen.text((left, top + picture.height + 2), told, fill="#333333", font=font)
            left += picture.width + GAP
        top += height
    return paper


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SHEETS, action="append")
    chosen = parser.parse_args().only or list(SHEETS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with server() as api:
        for name in chosen:
            file = FOLDER / f"control-{name}.png"
            sheet(SHEETS[name](api)).quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
            print(f"wrote {file.relative_to(ROOT)} ({file.stat().st_size / 1000:.0f} kB)", flush=True)


if __name__ == "__main__":
    main()
