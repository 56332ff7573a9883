"""Judges requests before any work, and pictures before anything is delivered, by the policy of their tenant."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from msgspec.structs import replace
from PIL import Image, ImageFilter

from pipelines.contract.errors import Overloaded
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.catalog.moderation import Failing, ModerationPolicy
from server.domain.call import Call
from server.domain.failures import ModerationBlocked, ModerationUnavailable
from server.domain.generation import Generation
from server.domain.verdict import Action, Category, Stage, Verdict
from server.gateway.moderation.audit import Audit
from server.gateway.moderation.classifier import Classifier, Scores
from server.gateway.moderation.deciding import LISTS, Finding, decide, of_hits
from server.gateway.moderation.lists import Lists, Reading
from server.gateway.moderation.reading import texts
from server.gateway.moderation.remote import OpenAIModeration
from server.providers.received import opened
from server.telemetry.metrics import Metrics

_KEPT_LISTS = 64
_AT_ONCE_CHARACTERS = 1000
"""Longer texts are read in a thread."""
_SOFT, _LEAST_BLUR = 12, 4
"""A blurred picture keeps about so many patches along its longer side."""
_RETRY_SECONDS = 10.0
_MOST_LOOKING = 32
"""Pictures of ``/v1/moderations``; those of jobs are bounded by their admission."""

_Refusal: TypeAlias = ModerationBlocked | ModerationUnavailable


class Bench:
    """Who looks is asked in the order of the cost: lists first, and nobody else if they already say no."""

    __slots__ = ("_audit", "_classifier", "_lists", "_looking", "_metrics", "_policy", "_upstream")

    def __init__(
        self,
        policy: Callable[[str], ModerationPolicy],
        classifier: Classifier,
        upstream: OpenAIModeration,
        audit: Audit,
        metrics: Metrics,
    ) -> None:
        """``policy`` tells what holds for a tenant at the moment."""
        self._policy, self._classifier, self._upstream = policy, classifier, upstream
        self._audit, self._metrics = audit, metrics
        self._looking = 0
        self._lists: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Lists] = OrderedDict()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        """Inside the block it may hold processes and connections, and its audit is written down."""
        async with self._audit.running():
            try:
                yield self
            finally:
                await self._classifier.close()
                await self._upstream.close()

    @property
    def sees(self) -> bool:
        """Whether there is somebody here who looks at pictures."""
        return self._classifier.installed

    def hides(self, tenant: str) -> bool:
        """Whether finished pictures of ``tenant`` may have to be kept from it: then nobody may see them half done."""
        return self._policy(tenant).hides

    async def read(self, tenant: str, said: Sequence[str]) -> Reading:
        """What the lists say of texts that make one picture together, with the tenant's own words."""
        lists = self._lists_of(self._policy(tenant))
        began = time.perf_counter()
        if sum(map(len, said)) > _AT_ONCE_CHARACTERS:
            found = await asyncio.to_thread(lists.read, *said)
        else:
            found = lists.read(*said)
        self._metrics.looked(LISTS, time.perf_counter() - began)
        return found

    async def look(self, tenant: str, picture: Picture) -> Scores:
        """What the local classifier says of a picture that belongs to no request, from the tenant's threshold on.

        Raises `Overloaded` or `ModerationUnavailable`.
        """
        if self._looking >= _MOST_LOOKING:
            msg = f"{self._looking} pictures are being looked at or wait for it."
            raise Overloaded(msg, retry_after=_RETRY_SECONDS)
        self._looking += 1
        try:
            scores = await self._classifier.classify(picture)
        finally:
            self._looking -= 1
        return {category: score for category, score in scores.items() if score >= self._policy(tenant).threshold}

    async def before(self, request: ImageRequest, call: Call) -> tuple[Verdict, ...]:
        """What is noted of a request that may be done; raises `ModerationBlocked` or `ModerationUnavailable`."""
        policy = self._policy(call.tenant)
        prompt = request.styled_prompt
        said = await _said(request)
        reading = await self.read(call.tenant, said)
        judged = [await self._judged(policy, call, of_hits(reading.hits), prompt)]
        questions: list[Coroutine[Any, Any, Verdict]] = []
        if policy.upstream and policy.reads:
            asked = Finding(Stage.PROMPT, self._upstream.name, {}, param="prompt")
            questions.append(self._answered(policy, call, asked, lambda: self._upstream.read(said, policy.timeout), prompt))
        if policy.watches(Stage.INPUT):
            for param, picture in _inputs(request):
                asked = Finding(Stage.INPUT, "", {}, param=param)
                questions += self._looks(policy, call, asked, picture, prompt, young=reading.young)
        judged += await _together(questions)
        return tuple(verdict for verdict in judged if verdict.action is not Action.ALLOW)

    async def after(self, request: ImageRequest, generation: Generation, call: Call) -> Generation:
        """``generation`` as it may be delivered; raises `ModerationBlocked` or `ModerationUnavailable`.

        One picture that must not be delivered fails the whole request: no dialect has a place for a picture that is missing.
        """
        policy = self._policy(call.tenant)
        if not policy.watches(Stage.OUTPUT):
            return generation
        prompt = request.styled_prompt
        reading = await self.read(call.tenant, await _said(request))
        questions: list[Coroutine[Any, Any, Verdict]] = []
        pictures = await asyncio.to_thread(lambda: [opened(picture) for picture in generation.pictures])
        for index, picture in enumerate(pictures):
            asked = Finding(Stage.OUTPUT, "", {}, image=index)
            questions += self._looks(policy, call, asked, picture, prompt, young=reading.young)
        judged = await _together(questions)
        noted = tuple(verdict for verdict in judged if verdict.action is not Action.ALLOW)
        hidden = {verdict.image for verdict in noted if verdict.action is Action.BLUR}
        for index in sorted(index for index in hidden if index is not None):
            generation = generation.with_picture(index, await asyncio.to_thread(blurred, pictures[index]))
        return replace(generation, verdicts=(*generation.verdicts, *noted))

    def problems(self, policies: Sequence[ModerationPolicy]) -> tuple[str, ...]:
        """What ``policies`` ask for and cannot have as things stand, for the operator."""
        found: list[str | None] = []
        if any(policy.upstream and (policy.reads or policy.watches(Stage.INPUT)) for policy in policies):
            found.append(self._upstream.problem)
        if any(policy.watches(Stage.OUTPUT) and not policy.upstream for policy in policies):
            found.append(self._classifier.problem)
        return tuple(problem for problem in found if problem is not None)

    def _lists_of(self, policy: ModerationPolicy) -> Lists:
        key = (policy.block, policy.allow)
        found = self._lists.get(key)
        if found is None:
            found = self._lists[key] = Lists(policy.block, policy.allow)
            if len(self._lists) > _KEPT_LISTS:
                self._lists.popitem(last=False)
        self._lists.move_to_end(key)
        return found

    def _looks(
        self, policy: ModerationPolicy, call: Call, asked: Finding, picture: Picture, prompt: str, *, young: bool
    ) -> Iterator[Coroutine[Any, Any, Verdict]]:
        """A question to each who can look at ``picture``; the local classifier is missed only where nobody else looks."""

        async def locally() -> Scores:
            found = await self._classifier.classify(picture)
            return {category: score for category, score in found.items() if score >= policy.threshold}

        if not policy.upstream or self._classifier.problem is None:
            asked = replace(asked, by=self._classifier.name)
            yield self._answered(policy, call, asked, locally, prompt, young=young)
        if policy.upstream:
            asked = replace(asked, by=self._upstream.name)
            yield self._answered(policy, call, asked, lambda: self._upstream.look(picture, policy.timeout), prompt, young=young)

    async def _answered(
        self,
        policy: ModerationPolicy,
        call: Call,
        asked: Finding,
        work: Callable[[], Awaitable[Scores]],
        prompt: str,
        *,
        young: bool = False,
    ) -> Verdict:
        """The verdict on what ``work`` finds; ``young``: the prompt speaks of somebody under age."""
        began = time.perf_counter()
        try:
            scores = dict(await work())
        except ModerationUnavailable as error:
            return await self._unseen(policy, call, asked, error, prompt)
        self._metrics.looked(asked.by, time.perf_counter() - began)
        if young and Category.SEXUAL in scores:
            scores[Category.SEXUAL_MINORS.value] = scores[Category.SEXUAL]
        return await self._judged(policy, call, replace(asked, scores=scores), prompt)

    async def _judged(self, policy: ModerationPolicy, call: Call, finding: Finding, prompt: str) -> Verdict:
        verdict = decide(policy, finding)
        if verdict.action is Action.ALLOW:
            self._audit.allowed(call, verdict.stage, verdict.by)
            return verdict
        await self._audit.note(call, verdict, finding.reasons, prompt)
        if verdict.action is Action.BLOCK:
            raise ModerationBlocked(_refusal(verdict), param=verdict.param, verdicts=(verdict,))
        return verdict

    async def _unseen(
        self, policy: ModerationPolicy, call: Call, asked: Finding, error: ModerationUnavailable, prompt: str
    ) -> Verdict:
        self._metrics.unseen(asked.by)
        passes = policy.fail is Failing.OPEN
        action = Action.SKIPPED if passes else Action.BLOCK
        verdict = Verdict(asked.stage, action, asked.by, image=asked.image, param=asked.param)
        await self._audit.note(call, verdict, (error.message,), prompt)
        if passes:
            return verdict
        # What is wrong here is the operator's business.
        msg = "The request could not be moderated, and is not done without that. Try again later."
        raise ModerationUnavailable(msg, retry_after=error.retry_after or _RETRY_SECONDS)


def blurred(picture: Picture) -> Picture:
    """``picture`` beyond recognition: a Gaussian as wide as a twelfth of its longer side."""
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)
    small = image.copy()
    small.thumbnail((_SOFT * _LEAST_BLUR, _SOFT * _LEAST_BLUR), Image.Resampling.BOX)
    soft = small.filter(ImageFilter.GaussianBlur(_LEAST_BLUR)).resize(image.size, Image.Resampling.BICUBIC)
    return Picture(picture.width, picture.height, picture.mode, soft.tobytes())


async def _said(request: ImageRequest) -> tuple[str, ...]:
    long = len(request.styled_prompt) > _AT_ONCE_CHARACTERS
    return await asyncio.to_thread(texts, request) if long else texts(request)


async def _together(questions: Sequence[Coroutine[Any, Any, Verdict]]) -> list[Verdict]:
    """All answers; the first that is an error ends the asking."""
    if not questions:
        return []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except* (ModerationBlocked, ModerationUnavailable) as errors:
        raise _worst(errors) from None
    return [task.result() for task in tasks]


def _worst(errors: BaseExceptionGroup[_Refusal]) -> _Refusal:
    """A refusal says more than that somebody could not look."""
    found = list(_flat(errors))
    return next((error for error in found if isinstance(error, ModerationBlocked)), found[0])


def _flat(errors: BaseExceptionGroup[_Refusal]) -> Iterator[_Refusal]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error


def _inputs(request: ImageRequest) -> Iterator[tuple[str, Picture]]:
    """The pictures that came with ``request``, by the fields they came in. A finished control image shows only outlines."""
    if request.init is not None:
        yield "image", request.init.picture
    for index, use in enumerate(request.references):
        for place, picture in enumerate(use.pictures):
            yield (f"references[{index}].image" if len(use.pictures) == 1 else f"references[{index}].images[{place}]"), picture
    for index, control in enumerate(request.controls):
        if control.preprocessor is not None:
            yield f"controls[{index}].image", control.picture


def _refusal(verdict: Verdict) -> str:
    """In the words that OpenAI's clients look for; categories, never the terms of a list."""
    what = {
        Stage.PROMPT: "The prompt was",
        Stage.INPUT: "A picture of the request was",
        Stage.OUTPUT: "A finished picture was",
    }[verdict.stage]
    return f"{what} rejected by this server's moderation. safety_violations=[{', '.join(verdict.categories)}]."
