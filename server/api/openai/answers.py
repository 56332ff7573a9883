"""What became of a job, in OpenAI's words."""

import base64
from typing import Any, Literal

import msgspec
from litestar import Request

from pipelines.contract.errors import EngineFailure
from server.api.delivering import result
from server.api.links import Links, gathered
from server.api.openai.schemas import ImageItem, ImagesResponse, InputTokens, TokenUsage
from server.api.openai.translate import Asked
from server.domain.asset import Asset
from server.domain.generation import LOCAL
from server.domain.job import Job
from server.domain.ports.assets import AssetStore


class Answers:
    """Renders finished jobs."""

    __slots__ = ("_links", "_store")

    def __init__(self, store: AssetStore, links: Links) -> None:
        self._store = store
        self._links = links

    async def images(self, request: Request[Any, Any, Any], asked: Asked, job: Job) -> ImagesResponse:
        """The whole answer."""
        return ImagesResponse(
            created=int(job.created),
            data=await gathered(self._item(request, asked, asset, seeded=job.route.road == LOCAL) for asset in job.assets),
            background=background_of(asked),
            output_format=asked.order.delivery.format.value,
            quality=asked.quality,
            size=size_of(asked),
            usage=msgspec.UNSET if job.route.road == LOCAL else usage_of(job),
        )

    async def b64(self, asset: Asset) -> str:
        """The file, as text."""
        data = await self._store.get(asset.name)
        if data is None:
            msg = "The finished image is gone: the space for results is too small."
            raise EngineFailure(msg)
        return base64.b64encode(data).decode()

    async def _item(self, request: Request[Any, Any, Any], asked: Asked, asset: Asset, *, seeded: bool) -> ImageItem:
        """``seeded``: its seed makes this picture again."""
        seed = asset.seed if seeded else None
        if asked.form == "url":
            return ImageItem(url=await self._links.output(request, asset), seed=seed)
        return ImageItem(b64_json=await self.b64(asset), seed=seed)


def background_of(asked: Asked) -> Literal["opaque", "transparent"]:
    """As it was asked for: only who says so gets transparency."""
    return "transparent" if asked.order.wishes.background == "transparent" else "opaque"


def usage_of(job: Job) -> TokenUsage:
    """The tokens that the upstream counted; zeros for our own pictures, where the field is required."""
    used = job.usage
    read = used.input_text_tokens + used.input_image_tokens
    details = InputTokens(used.input_text_tokens, used.input_image_tokens)
    return TokenUsage(read, used.output_tokens, read + used.output_tokens, details)


def size_of(asked: Asked) -> str:
    """The size as OpenAI writes it."""
    width, height = result(asked.order)
    return f"{width}x{height}"
