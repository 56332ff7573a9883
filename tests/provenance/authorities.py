"""Private authorities, pictures, requests."""

import io
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Sampling
from server.storage.provenance.credentials import Credentials, anchors, found
from server.storage.provenance.issuing import issue
from server.storage.provenance.signing import Signer

MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif"}


@dataclass
class Authority:
    folder: Path
    credentials: Credentials
    anchors: bytes
    signer: Signer


def authority(folder: Path, organisation: str) -> Authority:
    issue(folder, organisation, 5)
    credentials = found(None, None, folder, time.time())
    assert credentials is not None
    trusted = anchors(None, folder)
    return Authority(folder, credentials, trusted, Signer(credentials, anchors=trusted))


def picture(width=64, height=48) -> Picture:
    image = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    return Picture(width, height, "RGB", image.tobytes())


def encoded(form="PNG", size=(64, 48)) -> bytes:
    target = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(target, form)
    return target.getvalue()


def asked(**changes) -> ImageRequest:
    plain = {"id": "r", "model": "sdxl", "prompt": "a secret cat", "width": 64, "height": 48, "seeds": (1,)}
    return ImageRequest(**{**plain, "sampling": Sampling("euler", 8, 5.0), **changes})


def xmp(data: bytes) -> dict[str, str] | None:
    """What a file's XMP says of its source, and to people; None if it has none."""
    packet = Image.open(io.BytesIO(data)).info.get("xmp")
    if packet is None:
        return None
    root = ET.fromstring(packet)  # noqa: S314 - our own
    return {each.tag.partition("}")[2]: each.text for each in root.iter() if each.text and each.text.strip()}
