"""Requests for the same thing at the same time: it is made once, and everybody is told.

Who comes first leads: the work is done in its name, with its deadline. Whoever else asks meanwhile follows. The work belongs to
all of them: it stops when the last one leaves, and goes on without its leader. If the leader's deadline ends it while others have
more time, it is done anew in the name of the most patient.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from pipelines.contract.errors import DeadlineExceeded
from pipelines.contract.messages import Preview, Progress
from pipelines.contract.request import ImageRequest, Priority
from server.domain.call import Call
from server.domain.clock import Clock
from server.gateway.finish import Finished

Work = Callable[[ImageRequest, Call], Awaitable[Finished]]


class Landed(msgspec.Struct, frozen=True):
    """How it ended for one of those who asked."""

    finished: Finished
    owner: bool
    """Whether the work was done in its name: the files are its own."""
    payer: bool
    """Whether it answers for what the work cost: its leader, or if that has left the first who stayed."""


@dataclass(slots=True, eq=False)
class _Member:
    request: ImageRequest
    call: Call
    landed: asyncio.Future[Landed] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def patience(self) -> float:
        """Unix time of its deadline."""
        return float("inf") if self.request.deadline is None else self.request.deadline


@dataclass(slots=True, eq=False)
class _Flight:
    leader: _Member
    members: list[_Member]
    task: asyncio.Task[None] | None = None


class Flights:
    """Owns the work that is under way. There is never more of it than jobs that wait for it, so admission bounds it."""

    __slots__ = ("_clock", "_flights")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._flights: dict[tuple[str, Priority], _Flight] = {}

    def under_way(self, key: str, priority: Priority) -> bool:
        """Whether that is being made, as urgently; who hurries does not follow those who do not."""
        return (key, priority) in self._flights

    async def join(self, key: str, request: ImageRequest, call: Call, work: Work) -> Landed:
        """What ``work`` makes of ``request``, or has been making under the same ``key``; raises its error.

        Cancelling the caller cancels the work only if nobody else waits for it.
        """
        name, member = (key, call.priority), _Member(request, call)
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(member, [member])
            flight.task = asyncio.create_task(self._fly(name, flight, work), name=f"make {call.id}")
            flight.task.add_done_callback(lambda task: _ended(flight, task))
        else:
            flight.members.append(member)
        try:
            return await self._landing(flight, member)
        finally:
            await self._leave(name, flight, member)

    async def _landing(self, flight: _Flight, member: _Member) -> Landed:
        """As it ends for ``member``, in its own time if it is not the one whose deadline the work knows."""
        if member is flight.leader or member.request.deadline is None:
            return await member.landed
        try:
            async with asyncio.timeout(max(0.0, member.request.deadline - self._clock.time())):
                return await member.landed
        except TimeoutError:
            msg = "The deadline passed before the request was finished."
            raise DeadlineExceeded(msg) from None

    async def _leave(self, name: tuple[str, Priority], flight: _Flight, member: _Member) -> None:
        """Stop the work if nobody is left who wants it, and see it stopped."""
        if member in flight.members:
            flight.members.remove(member)
        if flight.members or flight.task is None or flight.task.done():
            return
        self._close(name, flight)
        flight.task.cancel()
        await asyncio.wait([flight.task])

    async def _fly(self, name: tuple[str, Priority], flight: _Flight, work: Work) -> None:
        try:
            while True:
                leader = flight.leader
                try:
                    finished = await work(leader.request, replace(leader.call, emit=lambda event: _tell(flight, event)))
                except DeadlineExceeded as error:
                    late = [member for member in flight.members if member is leader or member.patience <= leader.patience]
                    if len(late) == len(flight.members):
                        raise
                    for member in late:
                        flight.members.remove(member)
                        _fail(member, error)
                    flight.leader = max(flight.members, key=lambda member: member.patience)
                else:
                    _land(flight, finished)
                    return
        finally:
            # In the step that ends it: nobody may board what has landed.
            self._close(name, flight)

    def _close(self, name: tuple[str, Priority], flight: _Flight) -> None:
        """Whoever asks from now on begins anew."""
        if self._flights.get(name) is flight:
            del self._flights[name]


def _land(flight: _Flight, finished: Finished) -> None:
    payer = flight.leader if flight.leader in flight.members else next(iter(flight.members), None)
    for member in flight.members:
        if not member.landed.done():
            member.landed.set_result(Landed(finished, owner=member is flight.leader, payer=member is payer))


def _ended(flight: _Flight, task: asyncio.Task[None]) -> None:
    """Tell those who still wait of an end without a result."""
    if task.cancelled():
        for member in flight.members:
            member.landed.cancel()
    elif (error := task.exception()) is not None:
        for member in flight.members:
            _fail(member, error)


def _tell(flight: _Flight, event: Progress | Preview) -> None:
    """Each hears of its own request; pictures go to those who asked for some."""
    for member in flight.members:
        if isinstance(event, Progress) or member.request.preview_every:
            member.call.emit(replace(event, id=member.request.id))


def _fail(member: _Member, error: BaseException) -> None:
    if not member.landed.done():
        member.landed.set_exception(error)
