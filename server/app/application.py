"""The HTTP application over the parts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from server.api.disclosing import disclosing
from server.api.documenting import document_keys
from server.api.errors import native_envelope, openai_envelope, renderer
from server.api.guard import key_guard
from server.api.health import healthz, metrics, readyz
from server.api.idempotency import Recording, Replaying
from server.api.native import assets, batches, generate, jobs, moderation, route
from server.api.native import preprocess_routes as preprocessing
from server.api.native import routes as native
from server.api.native import usage as spending
from server.api.native.answers import Results
from server.api.native.batch_intake import Bounds, Intake
from server.api.native.standing import Standing
from server.api.nul import refuse_nul
from server.api.openai import moderations
from server.api.openai import provenance as checks
from server.api.openai import routes as openai
from server.api.openai.answers import Answers
from server.api.outputs import output
from server.api.pictures import Pictures
from server.api.ratelimits import RateHeaders
from server.api.resolving import one_by_one
from server.api.tracing import Tracing
from server.app.exposure import check_exposure
from server.app.parts import Parts
from server.app.signing import check_signing, signed_inputs, tell_signing
from server.db.opening import opened

_ABOUT = (
    "Image generation. `POST /api/generate` is the one address where everything can be said; the OpenAI Images routes take the "
    "same names as extension keys. With keys configured, send `Authorization: Bearer KEY`."
)


def application(parts: Parts) -> Litestar:
    """The HTTP application over ``parts``; workers and jobs live as long as its lifespan."""
    settings = parts.settings

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with (
            opened(parts.database, parts.settings.home / "state", parts.log) as alone,
            parts.current.watched(),
            parts.courier.running(),
            parts.behind.running() if parts.behind else nullcontext(),
            parts.collector.running(),
            parts.bench.running(),
            parts.fleet.running(),
            parts.cache.running(),
            parts.roads.running(),
            parts.treasury.running(alone=alone),
            parts.keeper.running(alone=alone),
            parts.jobs.running(alone=alone),
            parts.feeder.running(),
        ):
            await check_exposure(parts)
            await check_signing(parts.signer)
            tell_signing(parts.signer, parts.clock.time(), parts.log)
            for problem in parts.bench.problems([policy.moderation for policy in parts.current.catalog.policies.values()]):
                parts.log.warning("moderation is incomplete", problem=problem)
            yield

    links = parts.links
    uploads, replaying = parts.uploads, Replaying(parts.keeper)
    given = {
        "current": parts.current,
        "jobs": parts.jobs,
        "fleet": parts.fleet,
        "roads": parts.roads,
        "routed": parts.routed,
        "store": parts.store,
        "metrics": parts.metrics,
        "inputs": parts.inputs,
        "uploads": uploads,
        "pictures": Pictures(uploads, parts.inputs, settings.max_upload_pixels, origins=signed_inputs(parts.signer)),
        "inspector": parts.inspector,
        "answers": Answers(parts.store, links),
        "results": Results(parts.store, links),
        "links": links,
        "treasury": parts.treasury,
        "allowances": parts.allowances,
        "standing": Standing(parts.jobs, links),
        "bench": parts.bench,
        "audit": parts.decisions,
        "batches": parts.batches,
        "feeder": parts.feeder,
        "intake": Intake(
            parts.batches,
            uploads,
            parts.inputs,
            max_pixels=settings.max_upload_pixels,
            bounds=Bounds(settings.batch_lines, settings.batch_bytes),
            allowances=parts.allowances,
            clock=parts.clock,
        ),
        "replaying": replaying,
    }
    guards = [key_guard(parts.keys)]
    images = [openai.generations, openai.edits, openai.models, openai.model, checks.check]
    ours = [generate.generate, generate.adapters, route.route, assets.store, assets.fetch, assets.forget]
    asynchronous = [jobs.enqueue, jobs.page, jobs.job, jobs.events, jobs.cancel, jobs.forget]
    judging = [moderations.moderate, moderation.decisions, moderation.passed]
    dialects = [
        Router("/", route_handlers=ours, guards=guards, tags=["Native"]),
        Router("/", route_handlers=asynchronous, guards=guards, tags=["Jobs"]),
        Router("/", route_handlers=[spending.usage, spending.plan], guards=guards, tags=["Usage"]),
        Router(
            "/",
            route_handlers=[batches.create, batches.page, batches.batch, batches.results, batches.cancel, batches.forget],
            guards=guards,
            tags=["Batches"],
            request_max_body_size=settings.batch_bytes,
        ),
        Router("/", route_handlers=images, guards=guards, tags=["OpenAI Images"]),
        Router("/", route_handlers=[native.models, native.model, native.move], guards=guards, tags=["Models"]),
        Router("/", route_handlers=judging, guards=guards, tags=["Moderation"]),
        Router("/", route_handlers=[preprocessing.preprocess, preprocessing.preprocessors], guards=guards, tags=["Controls"]),
    ]
    app = Litestar(
        route_handlers=[*dialects, output, healthz, readyz, metrics],
        dependencies={
            **{name: Provide(_constant(part), sync_to_thread=False) for name, part in given.items()},
            # Asked for each request, which keeps what it got: an edit of models.yaml never splits a request.
            "catalog": Provide(lambda: parts.roads.noted(parts.current.catalog), sync_to_thread=False),
        },
        exception_handlers={Exception: renderer({"/v1": openai_envelope, "/api": native_envelope}, parts.log)},
        before_send=[disclosing(lambda: parts.current.catalog.policies)],
        before_request=replaying,
        guards=[refuse_nul],
        lifespan=[lifespan],
        request_max_body_size=settings.max_upload_bytes,
        # JSON only: the pages that render it load their scripts from other people's servers.
        openapi_config=OpenAPIConfig(
            title="Aquatint",
            version="1",
            description=_ABOUT,
            use_handler_docstrings=True,
            render_plugins=[JsonRenderPlugin()],
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            # Either, as a server may have no keys.
            security=[{"key": []}, {}],
        ),
        logging_config=None,
        debug=False,
    )
    one_by_one(app)
    document_keys(app.openapi_schema)
    recorded = Recording(app.asgi_handler, parts.keeper)
    app.asgi_handler = RateHeaders(recorded, parts.allowances)
    app.asgi_handler = Tracing(app.asgi_handler, metrics=parts.metrics, clock=parts.clock, log=parts.log)
    return app


def _constant(part: object) -> Callable[[], object]:
    return lambda: part
