"""From an entry of models.yaml to a road: the only place that knows which class speaks which protocol."""

from collections.abc import Callable, Mapping

import msgspec
from structlog.typing import FilteringBoundLogger

from server.catalog.upstreams import Kind, Upstream
from server.domain.clock import Clock
from server.egress.fetching import Fetcher
from server.providers.breaker import Breaker, State
from server.providers.each import Each
from server.providers.lane import Lane
from server.providers.openai import OpenAIProvider
from server.providers.paid import Free, Paid
from server.providers.provider import Provider
from server.providers.replicate import ReplicateProvider
from server.providers.resilient import Records, Resilient
from server.providers.road import Road, Source
from server.providers.stability import StabilityProvider
from server.providers.succession import Succession
from server.telemetry.metrics import Metrics


class Tools(msgspec.Struct, frozen=True):
    """What every road needs from its surroundings."""

    environ: Mapping[str, str]
    """Where the keys are."""
    records: Records
    clock: Clock
    metrics: Metrics
    log: FilteringBoundLogger
    charged: Callable[[Provider, Upstream, Succession], Paid] = lambda provider, _upstream, _succession: Free(provider)
    """Counts what each request costs."""


def open_road(upstream: Upstream, tools: Tools) -> Road:
    """The road to ``upstream``; nothing is connected to yet."""
    name, clock, metrics = upstream.name, tools.clock, tools.metrics

    def changed(state: State) -> None:
        metrics.upstream_circuit(name, state.value)
        tools.log.warning("the circuit before an upstream changes", road=name, state=state.value)

    lane = Lane(
        name,
        concurrency=upstream.concurrency,
        queue=upstream.queue,
        clock=clock,
        counted=lambda active, waiting: metrics.upstream_queue(name, active, waiting),
    )
    breaker = Breaker(name, clock, changed)
    metrics.upstream_circuit(name, breaker.state.value)
    succession = Succession(upstream, clock, tools.log, lambda model, days: metrics.upstream_model(name, model, days))
    source = _source(upstream, tools, lane, succession)
    resilient = Resilient(
        upstream,
        source,
        lane=lane,
        breaker=breaker,
        records=tools.records,
        clock=clock,
        metrics=metrics,
        log=tools.log,
    )
    # Inside of `Each`, which has the money for all of its images set aside at once: each is then charged by itself, and what is
    # finished even if another one fails.
    paid = tools.charged(resilient, upstream, succession)
    whole: Provider = paid if upstream.kind is Kind.OPENAI else Each(paid)
    return Road(upstream, whole, source, lane, breaker, succession)


def _source(upstream: Upstream, tools: Tools, lane: Lane, succession: Succession) -> Source:
    key = tools.environ.get(upstream.key_env, "").strip() if upstream.key_env else ""
    clock, heard = tools.clock, lane.learn
    if upstream.kind is Kind.STABILITY:
        return StabilityProvider(upstream, key, succession=succession, clock=clock, heard=heard)
    fetcher = Fetcher(upstream.base_url, upstream.file_hosts or ())
    if upstream.kind is Kind.REPLICATE:
        return ReplicateProvider(upstream, key, succession=succession, fetcher=fetcher, clock=clock, heard=heard)
    return OpenAIProvider(upstream, key, succession=succession, fetcher=fetcher, clock=clock, heard=heard)
