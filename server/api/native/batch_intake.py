"""A batch is accepted whole or not at all: every line is understood, as if it came to /api/generate, before any is done."""

import asyncio
import contextlib
from typing import Any

import msgspec
from litestar import Request
from msgspec.structs import replace

from pipelines.contract.errors import AquatintError, InvalidRequest, Overloaded, TooLarge
from pipelines.contract.request import Priority
from server.access.limits import Allowances
from server.api.errors import BatchRefused, LineProblem, problem
from server.api.guard import permitted, tenant_of
from server.api.native import batch_lines as lines
from server.api.native.batch_bodies import BatchHead, BatchLine
from server.api.native.batch_files import MOST_LINE, Sent, portions
from server.api.native.batch_inputs import Gathered, pictured, with_names
from server.api.native.bodies import GenerateRequest
from server.api.native.generating import generation
from server.api.nul import check_nul
from server.api.orders import Supplied
from server.api.pictures import Pictures
from server.api.uploads import Uploads
from server.catalog.catalog import Catalog
from server.domain.batch import Batch, BatchState, Line, Pictured, Wanted
from server.domain.clock import Clock
from server.domain.job import LineOf, Order
from server.domain.ports.batches import BatchRepository
from server.domain.ports.inputs import InputStore
from server.domain.webhook import Notify
from server.egress.urls import check_url
from server.jobs.service import draw_seed, new_id

AnyRequest = Request[Any, Any, Any]

MOST_OPEN = 100
"""Batches of one tenant that are not over."""
MOST_PROBLEMS = 20
"""Wrong lines that are told of."""
_BREATH = 16
"""Lines between two turns of the event loop."""


class Bounds(msgspec.Struct, frozen=True):
    """How large a batch may be."""

    lines: int = 10_000
    bytes: int = 256 << 20
    """Of the file, and of the pictures that its lines name."""


class Intake:
    """Takes batches in."""

    __slots__ = ("_allowances", "_batches", "_bounds", "_clock", "_inputs", "_max_pixels", "_undoing", "_uploads")

    def __init__(
        self,
        batches: BatchRepository,
        uploads: Uploads,
        inputs: InputStore,
        *,
        max_pixels: int,
        bounds: Bounds,
        allowances: Allowances,
        clock: Clock,
    ) -> None:
        self._allowances = allowances
        self._batches, self._uploads, self._inputs = batches, uploads, inputs
        self._max_pixels, self._bounds, self._clock = max_pixels, bounds, clock
        self._undoing: set[asyncio.Task[None]] = set()

    async def take(self, request: AnyRequest, sent: Sent, *, batch_id: str, catalog: Catalog, base: str) -> Batch:
        """Accept what was sent as the batch ``batch_id``; ``base`` is where its sender finds this server.

        It is one request, and all of its images are of today. Raises `BatchRefused`, `InvalidRequest`, `TooLarge`, `Overloaded`,
        `RateLimited`, `QuotaSpent`; then nothing of it is left.
        """
        tenant = tenant_of(request)
        self._allowances.request(tenant)
        if await self._batches.open(tenant) >= MOST_OPEN:
            msg = f"There are {MOST_OPEN} batches of yours that are not over; the limit is {MOST_OPEN}."
            raise Overloaded(msg, retry_after=60.0)
        batch = Batch(batch_id, tenant, BatchState.RECEIVING, self._clock.time())
        gathered = Gathered(self._inputs, self._batches, batch, self._bounds.bytes)
        pictures = Pictures(self._uploads, gathered, self._max_pixels)
        reading = _Reading(request, batch, catalog=catalog, gathered=gathered, pictures=pictures, head=sent.head)
        try:
            await self._batches.begin(batch)
            async for portion in portions(sent.file):
                found = await reading.read(portion)
                await gathered.flush()
                await self._batches.receive(batch, found, {})
                if reading.count > self._bounds.lines or len(reading.problems) >= MOST_PROBLEMS:
                    break
            reading.check(self._bounds.lines)
            head = reading.head
            notify = None if head is None or head.webhook is None else Notify(head.webhook, base)
            batch = replace(batch, state=BatchState.RUNNING, lines=reading.count, images=reading.images, notify=notify)
            await self._allowances.day(tenant, batch.images)
            await self._batches.accept(batch)
        except BaseException:
            await self._undo(batch)
            raise
        return batch

    async def _undo(self, batch: Batch) -> None:
        """Leave nothing of ``batch``, even where the one who sends it is cut off in the middle, and cut off again in here."""
        undoing = asyncio.create_task(self._batches.abandon(batch))
        self._undoing.add(undoing)
        undoing.add_done_callback(self._undoing.discard)
        # What made the batch fail is told. If this fails too, it is forgotten after a while: it never was accepted.
        with contextlib.suppress(Exception):
            await asyncio.shield(undoing)


class _Reading:
    """One file, as far as it has been read."""

    __slots__ = (
        "_begun",
        "_catalog",
        "_gathered",
        "_last",
        "_names",
        "_of",
        "_pictures",
        "_request",
        "_supplied",
        "count",
        "head",
        "images",
        "problems",
    )

    def __init__(
        self,
        request: AnyRequest,
        of: Batch,
        *,
        catalog: Catalog,
        gathered: Gathered,
        pictures: Pictures,
        head: BatchHead | None,
    ) -> None:
        self._request, self._of, self._catalog, self._gathered, self._pictures = request, of, catalog, gathered, pictures
        self.head = head
        self.count = self.images = 0
        self.problems: list[LineProblem] = []
        self._begun = False
        self._names: dict[str, int] = {}
        # What the line before showed: most batches show the same pictures in all lines.
        self._last, self._supplied = Pictured(), Supplied()
        if head is not None:
            _check_webhook(head)

    async def read(self, portion: list[tuple[int, bytes]]) -> list[Line]:
        """The lines of ``portion`` that are right; what is wrong with the others is in `problems`."""
        found: list[Line] = []
        for number, data in portion:
            if number % _BREATH == 0:
                await asyncio.sleep(0)
            sent: BatchLine | None = None
            try:
                if self._is_head(data):
                    continue
                self.count += 1
                if len(data) > MOST_LINE:
                    msg = f"A line may have {MOST_LINE} bytes."
                    raise TooLarge(msg)
                sent = lines.line(data)
                found.append(await self._line(number, sent))
            except AquatintError as error:
                told = problem(error)
                name = None if sent is None else sent.custom_id
                self.problems.append(LineProblem(number, name, told.code, told.message, told.param))
                if len(self.problems) >= MOST_PROBLEMS:
                    break
        return found

    def check(self, most: int) -> None:
        """Raise `BatchRefused` if a line was wrong, `InvalidRequest` if there was none or were more than ``most``."""
        if self.count > most:
            msg = f"A batch may have {most} lines; this one has more. Send it in parts."
            raise TooLarge(msg, param="file")
        if self.problems:
            first, several = self.problems[0], len(self.problems)
            which = "One line is" if several == 1 else f"{several} lines, or more, are" if several >= MOST_PROBLEMS else None
            msg = f"{which or f'{several} lines are'} wrong, and nothing was accepted. Line {first.line}: {first.message}"
            raise BatchRefused(msg, param=first.param, lines=tuple(self.problems))
        if not self.count:
            msg = 'There is no line with a request, such as {"custom_id": "1", "body": {"prompt": "a cat"}}.'
            raise InvalidRequest(msg, param="file")

    def _is_head(self, data: bytes) -> bool:
        """Whether ``data`` is the first line and goes for all others."""
        if self._begun:
            return False
        self._begun = True
        found = lines.head(data)
        if found is None:
            return False
        if self.head is not None:
            msg = "The form has fields for the whole file, and so has its first line; send one of them."
            raise InvalidRequest(msg, param="defaults")
        _check_webhook(found)
        self.head = found
        return True

    async def _line(self, number: int, sent: BatchLine) -> Line:
        check_nul(sent.custom_id, "custom_id")
        before = self._names.setdefault(sent.custom_id, number)
        if before != number:
            msg = f"'custom_id' is that of line {before} already."
            raise InvalidRequest(msg, param="custom_id")
        body = lines.request(sent.body, {} if self.head is None else self.head.defaults)
        body = await with_names(body, self._gathered)
        names = pictured(body)
        asked = generation(
            body,
            self._catalog,
            await self._shown(body, names),
            job_id=new_id(),
            tenant=self._of.tenant,
            draw=draw_seed,
        )
        order = _bulk(permitted(self._request, asked.order), LineOf(self._of.id, number))
        self.images += order.images
        return Line(number, sent.custom_id, Wanted(order, names))

    async def _shown(self, body: GenerateRequest, names: Pictured) -> Supplied:
        if names != self._last:
            source = self._pictures.source(self._of.tenant)
            self._supplied = await source.supplied(body, body.image, body.mask, drawn_mask=True)
            self._last = names
        return self._supplied


def _bulk(order: Order, line: LineOf) -> Order:
    bare = order.without_input()
    request = replace(bare.request, priority=Priority.BULK)
    return replace(bare, request=request, priority=Priority.BULK, line=line)


def _check_webhook(head: BatchHead) -> None:
    if head.webhook is not None:
        check_url(head.webhook, "webhook")
