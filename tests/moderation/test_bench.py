"""The bench, around a provider that is a function: who is asked, what is refused, what is written down."""

import asyncio
import hashlib

import msgspec
import pytest

from pipelines.contract.adapters import ControlCard, ReferenceCard
from pipelines.contract.control import ControlUse, ReferenceUse
from pipelines.contract.family import Family
from pipelines.contract.messages import Preview, Progress
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.catalog.moderation import Failing, ImageLevel, Level, ModerationPolicy
from server.db.database import Database, beside
from server.db.decisions import SqlDecisions
from server.db.migrating import migrate
from server.domain.call import Call
from server.domain.clock import SetClock
from server.domain.decision import DecisionFilter, Passed
from server.domain.failures import ModerationBlocked, ModerationUnavailable
from server.domain.generation import Encoded
from server.domain.verdict import Action, Stage
from server.gateway.moderation.audit import Audit, Keeping
from server.gateway.moderation.bench import Bench, blurred
from server.gateway.moderation.classifier import ColourClassifier, NoClassifier
from server.gateway.moderation.remote import OpenAIModeration
from server.gateway.moderation.wrapping import Examined, Screened
from server.providers import pixels
from server.providers.breaker import COOL_SECONDS, FAILURES
from server.providers.fake import FunctionProvider, flat
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics
from tests.doubles.moderations import Moderations, serving

RED, GREY, BLUE, GREEN = 0x0000FF, 0x808080, 0xFF0000, 0x00FF00
"""Seeds of flat pictures in those colours."""


def picture(seed, size=(16, 16)):
    return Picture(*size, "RGB", seed.to_bytes(3, "little") * (size[0] * size[1]))


def filed(picture):
    return Encoded(picture.width, picture.height, "RGB", pixels.png(pixels.image_of(picture)))


def request(prompt="a hand", seeds=(GREY,), **more):
    return ImageRequest("job-1", "m", prompt, 16, 16, seeds, Sampling("euler", 4, 4.0), preview_every=1, **more)


class World:
    """Everything around one bench."""

    def __init__(self, folder, policy, classifier, url=None, *, prompts=False):
        self.clock, self.metrics = SetClock(), Metrics()
        self.database = Database(beside(folder))
        self.decisions = SqlDecisions(self.database)
        self.upstream = OpenAIModeration(None if url is None else "sk-test", url or "http://127.0.0.1:9", self.clock)
        audit = Audit(self.decisions, Keeping(60.0, prompts=prompts), clock=self.clock, metrics=self.metrics, log=silent())
        self.bench = Bench(lambda _tenant: policy, classifier or ColourClassifier(), self.upstream, audit, self.metrics)
        self.asked, self.heard = [], []

        async def function(asked, call):
            self.asked.append(asked)
            call.emit(Progress(asked.id, 0, 1, 2))
            call.emit(Preview(asked.id, 0, 1, picture(RED)))
            found = flat(asked)
            return msgspec.structs.replace(found, pictures=tuple(filed(each) for each in found.pictures))

        self.provider = Examined(Screened(FunctionProvider(function), self.bench), self.bench)

    async def run(self, asked, tenant="t"):
        return await self.provider.generate(asked, Call(asked.id, tenant, emit=self.heard.append))

    async def audited(self):
        return (await self.decisions.page(DecisionFilter(), None, 50)).decisions


@pytest.fixture
async def world(tmp_path):
    made = []

    async def make(classifier=None, url=None, *, prompts=False, **policy):
        found = World(tmp_path, ModerationPolicy(**policy), classifier, url, prompts=prompts)
        await migrate(found.database)
        made.append(found)
        return found

    yield make
    for each in made:
        await each.upstream.close()
        await each.database.close()


@pytest.fixture
def double():
    return Moderations()


@pytest.fixture
def url(double):
    with serving(double) as address:
        yield address


async def refused(world, asked):
    with pytest.raises(ModerationBlocked) as caught:
        await world.run(asked)
    return caught.value


async def test_a_refused_prompt_costs_nothing_and_says_no_more_than_the_category(world):
    found = await world()
    error = await refused(found, request("a n_u_d_e hand"))
    assert found.asked == []
    assert error.message.endswith("safety_violations=[sexual].")
    assert "nude" not in error.message
    assert (error.param, error.verdicts[0].stage) == ("prompt", Stage.PROMPT)
    (row,) = await found.audited()
    assert (row.tenant, row.job, row.action, row.by, row.categories) == ("t", "job-1", Action.BLOCK, "lists", ("sexual",))
    assert row.reasons == ("sexual: nude at 2-9",)
    assert (row.digest, row.prompt) == (hashlib.sha256(b"a n_u_d_e hand").hexdigest(), None)


async def test_a_flagged_prompt_is_done_and_noted(world):
    found = await world(prompts=True)
    generation = await found.run(request("a massacre"))
    assert [(each.stage, each.action, each.categories) for each in generation.verdicts] == [
        (Stage.PROMPT, Action.FLAG, ("violence",))
    ]
    (row,) = await found.audited()
    assert row.prompt == "a massacre"


async def test_what_is_let_pass_is_only_counted(world):
    found = await world()
    async with found.bench.running():
        assert (await found.run(request())).verdicts == ()
        await found.run(request())
    assert await found.audited() == ()
    assert await found.decisions.passed("t", 9) == (Passed("1970-01-12", Stage.PROMPT, 2),)
    assert b'aquatint_moderation_decisions_total{action="allow",by="lists",stage="prompt"} 2.0' in found.metrics.render()


async def test_with_prompts_off_only_what_cannot_be_switched_off_is_refused(world):
    found = await world(prompt=Level.OFF)
    await found.run(request("a nude hand"))
    assert (await refused(found, request("a nude child"))).verdicts[0].categories == ("sexual/minors",)


@pytest.mark.parametrize("level", list(ImageLevel))
async def test_finished_pictures(world, level):
    found = await world(images=level)
    asked = request(seeds=(GREY, RED))
    if level is ImageLevel.BLOCK:
        error = await refused(found, asked)
        assert error.verdicts[0].image == 1
    else:
        generation = await found.run(asked)
        first, second = generation.pictures
        assert first == filed(picture(GREY))
        assert second == (blurred(picture(RED)) if level is ImageLevel.BLUR else filed(picture(RED)))
        told = [(each.image, each.action.value, each.scores) for each in generation.verdicts]
        assert told == ([] if level is ImageLevel.OFF else [(1, level.value, {"sexual": 1.0})])
    hidden = level in (ImageLevel.BLOCK, ImageLevel.BLUR)
    assert any(isinstance(event, Preview) for event in found.heard) == (not hidden)
    assert any(isinstance(event, Progress) for event in found.heard)
    assert found.asked[0].preview_every == (0 if hidden else 1)
    assert len(await found.audited()) == (0 if level is ImageLevel.OFF else 1)


async def test_a_sexual_picture_of_somebody_under_age_is_refused_whatever_the_policy_of_sexual(world):
    found = await world(images=ImageLevel.FLAG, categories={"sexual": Level.OFF})
    assert (await found.run(request("a woman", seeds=(RED,)))).verdicts == ()
    error = await refused(found, request("a schoolgirl", seeds=(RED,)))
    assert error.verdicts[0].categories == ("sexual/minors",)


def with_inputs(seed):
    control = ControlCard("c", "file:c", Family.FAKE)
    return {
        "image": request(init=Init(picture(seed))),
        "references[0].images[1]": request(
            references=(ReferenceUse(ReferenceCard("r", "file:r", Family.FAKE), (picture(GREY), picture(seed))),)
        ),
        "controls[0].image": request(controls=(ControlUse(control, picture(seed), "canny"),)),
    }


@pytest.mark.parametrize("param", ["image", "references[0].images[1]", "controls[0].image"])
async def test_pictures_that_come_in(world, param):
    blocks, blurs, off = await world(images=ImageLevel.BLOCK), await world(images=ImageLevel.BLUR), await world()
    error = await refused(blocks, with_inputs(RED)[param])
    assert (error.param, error.verdicts[0].stage, blocks.asked) == (param, Stage.INPUT, [])
    assert [each.action for each in (await blurs.run(with_inputs(RED)[param])).verdicts] == [Action.FLAG]
    assert (await off.run(with_inputs(RED)[param])).verdicts == ()


@pytest.mark.parametrize("fail", list(Failing))
async def test_without_a_classifier_the_policy_says_what_happens(world, fail):
    found = await world(NoClassifier(), images=ImageLevel.BLOCK, fail=fail)
    assert found.bench.problems([ModerationPolicy(images=ImageLevel.FLAG)])
    assert not found.bench.problems([ModerationPolicy()])
    if fail is Failing.OPEN:
        generation = await found.run(request())
        assert [each.action for each in generation.verdicts] == [Action.SKIPPED]
    else:
        with pytest.raises(ModerationUnavailable) as caught:
            await found.run(request())
        assert "AQUATINT" not in caught.value.message
        assert caught.value.retry_after
    (row,) = await found.audited()
    assert "AQUATINT_IMAGE_CLASSIFIER" in row.reasons[0]


async def test_the_endpoint_is_asked_only_where_the_policy_says_so(world, double, url):
    await (await world(url=url)).run(request("something unwanted"))
    assert double.asked == []
    found = await world(url=url, upstream=True)
    generation = await found.run(request("something unwanted [|, at night]"))
    assert [(each.by, each.action, each.scores) for each in generation.verdicts] == [("openai", Action.FLAG, {"violence": 0.9})]
    assert double.asked == [["something unwanted ", "something unwanted , at night"]]
    assert double.keys == ["Bearer sk-test"]


async def test_lists_that_say_no_spare_the_endpoint(world, double, url):
    await refused(await world(url=url, upstream=True), request("nude"))
    assert double.asked == []


async def test_the_endpoint_looks_at_pictures_too(world, double, url):
    found = await world(NoClassifier(), url, upstream=True, images=ImageLevel.BLUR)
    generation = await found.run(request(seeds=(GREY, GREEN)))
    assert generation.pictures[1] == blurred(picture(GREEN))
    assert [each.image for each in generation.verdicts] == [1]
    assert not found.bench.problems([ModerationPolicy(upstream=True, images=ImageLevel.BLUR)])


async def test_a_category_nobody_knows_counts_as_the_policy_s(world, url):
    assert (await refused(await world(url=url, upstream=True), request("novel"))).verdicts[0].categories == ("policy",)


@pytest.mark.parametrize("fault", ["500", "429", "401", "garbage", "empty"])
async def test_an_endpoint_that_fails_is_left_alone_for_a_while(world, double, url, fault):
    found = await world(url=url, upstream=True, timeout=60.0)
    double.fault = fault
    for _ in range(FAILURES + 2):
        with pytest.raises(ModerationUnavailable):
            await found.run(request("a hand"))
    assert len(double.asked) == FAILURES
    assert found.bench.problems([ModerationPolicy(upstream=True)])
    double.fault = None
    found.clock.advance(COOL_SECONDS)
    await found.run(request("a hand"))
    assert len(double.asked) == FAILURES + 1
    assert not found.bench.problems([ModerationPolicy(upstream=True)])


async def test_a_question_that_is_refused_says_nothing_about_the_next(world, double, url):
    found = await world(url=url, upstream=True, timeout=60.0)
    double.fault = "400"
    for _ in range(FAILURES + 1):
        with pytest.raises(ModerationUnavailable):
            await found.run(request())
    double.fault = None
    await found.run(request())


async def test_an_endpoint_that_does_not_answer_is_not_waited_for(world, double, url):
    found = await world(url=url, upstream=True, timeout=0.05)
    double.fault = "hang"
    for _ in range(FAILURES):
        with pytest.raises(ModerationUnavailable):
            await found.run(request())
    assert "no answer within 0.05 s" in (await found.audited())[0].reasons[0]
    assert found.bench.problems([ModerationPolicy(upstream=True)])


async def test_an_impatient_tenant_closes_the_endpoint_to_itself_only(double, url):
    upstream = OpenAIModeration("sk-test", url, SetClock())
    double.fault = "hang"
    for _ in range(FAILURES):
        with pytest.raises(ModerationUnavailable, match="no answer"):
            await upstream.read(["a hand"], 0.05)
    with pytest.raises(ModerationUnavailable, match="left alone"):
        await upstream.read(["a hand"], 0.05)
    double.fault = None
    double.release.set()
    assert await upstream.read(["a hand"], 60.0) == {}
    for index in range(100):
        await upstream.read(["a hand"], 60.0 + index)
    assert len(upstream._breakers) <= 64
    await upstream.close()


async def test_while_one_question_tries_whether_it_is_over_nobody_else_asks(world, double, url):
    found = await world(url=url, upstream=True, fail=Failing.OPEN, timeout=60.0)
    double.fault = "500"
    for _ in range(FAILURES):
        assert (await found.run(request())).verdicts[0].action is Action.SKIPPED
    found.clock.advance(COOL_SECONDS)
    double.fault = "hang"
    double.came.clear()
    probe = asyncio.create_task(found.run(request("first")))
    assert await asyncio.to_thread(double.came.wait, 60)
    assert (await found.run(request("second"))).verdicts[0].action is Action.SKIPPED
    assert len(double.asked) == FAILURES + 1
    double.fault = None
    double.release.set()
    assert (await probe).verdicts == ()


async def test_a_request_of_several_questions_finds_out_that_it_is_over(world, double, url):
    found = await world(NoClassifier(), url, upstream=True, images=ImageLevel.BLOCK, timeout=60.0)
    asked = request(init=Init(picture(GREY)))
    double.fault = "500"
    while not found.upstream.problem:
        with pytest.raises(ModerationUnavailable):
            await found.run(asked)
    found.clock.advance(COOL_SECONDS)
    double.fault = None
    with pytest.raises(ModerationUnavailable):
        await found.run(asked)
    await asyncio.gather(*found.upstream._probes)
    assert (await found.run(asked)).verdicts == ()


async def test_without_a_key_nothing_is_sent_and_the_policy_decides(world):
    found = await world(upstream=True)
    with pytest.raises(ModerationUnavailable):
        await found.run(request())
    assert "OPENAI_API_KEY" in found.bench.problems([ModerationPolicy(upstream=True)])[0]


async def test_a_database_that_is_away_changes_no_decision(world):
    found = await world()
    await found.database.close()
    found.decisions._database = None
    await refused(found, request("nude"))
    await found.run(request("a massacre"))


def test_a_blurred_picture_keeps_its_size_and_none_of_its_detail():
    detail = Picture(64, 64, "RGB", bytes(255 * ((x + y) % 2) for y in range(64) for x in range(64) for _ in range(3)))
    soft = blurred(detail)
    assert (soft.width, soft.height) == (64, 64)
    assert max(soft.data) - min(soft.data) < 60
