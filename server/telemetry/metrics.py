"""Prometheus metrics in a registry of their own."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from pipelines.contract.messages import Memory, Tick

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """What is counted; every method is cheap enough for each tick."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("aquatint_requests", "HTTP requests answered.", ["route", "method", "status"], registry=registry)
        self._request_seconds = Histogram(
            "aquatint_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._jobs = Counter("aquatint_jobs", "Jobs ended.", ["state"], registry=registry)
        self._job_seconds = Histogram(
            "aquatint_job_seconds", "From admission to the end.", ["state"], buckets=_SECONDS, registry=registry
        )
        self._routes = Counter(
            "aquatint_routes", "Attempts on a road: made, or the code of what went wrong.", ["road", "outcome"], registry=registry
        )
        self._refused = Counter("aquatint_jobs_refused", "Jobs refused before any work.", ["code"], registry=registry)
        self._queue = Gauge("aquatint_queue_images", "Images accepted and not finished.", registry=registry)
        self._ticks = Histogram(
            "aquatint_tick_seconds", "Device time of one batch.", ["worker", "phase"], buckets=_SECONDS, registry=registry
        )
        self._rows = Histogram(
            "aquatint_tick_rows", "Images in one batch.", ["worker", "phase"], buckets=_ROWS, registry=registry
        )
        self._evaluations = Counter(
            "aquatint_tick_evaluations", "Network evaluations wanted.", ["worker", "phase"], registry=registry
        )
        self._padding = Counter(
            "aquatint_tick_padding", "Evaluations added to reach a bucket.", ["worker", "phase"], registry=registry
        )
        self._engine_waiting = Gauge(
            "aquatint_engine_waiting_images", "Images in the engine outside the last batch.", ["worker"], registry=registry
        )
        self._memory = Counter("aquatint_out_of_memory", "Batches that ran out of device memory.", ["worker"], registry=registry)
        self._restarts = Counter("aquatint_worker_restarts", "Worker starts after a death.", ["worker"], registry=registry)
        self._state = Gauge("aquatint_worker_state", "1 for the state the worker is in.", ["worker", "state"], registry=registry)
        self._model_loads = Counter(
            "aquatint_model_loads", "Models brought onto a device, or not.", ["worker", "model", "result"], registry=registry
        )
        self._model_load_seconds = Histogram(
            "aquatint_model_load_seconds",
            "Time to bring a model onto a device.",
            ["worker", "model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._model_unloads = Counter(
            "aquatint_model_unloads",
            "Models taken off a device: evicted to make room for another, or told to go.",
            ["worker", "model", "reason"],
            registry=registry,
        )
        self._models = Gauge("aquatint_models", "Models of the catalog in each state.", ["worker", "state"], registry=registry)
        self._model_memory = Gauge(
            "aquatint_model_memory_bytes", "Weights on the device, and kept in RAM.", ["worker", "place"], registry=registry
        )
        self._model_budget = Gauge(
            "aquatint_model_memory_budget_bytes",
            "What weights may take up on the device; 0: no limit.",
            ["worker"],
            registry=registry,
        )
        self._adapter_memory = Gauge(
            "aquatint_adapter_memory_bytes",
            "LoRAs, control networks and their like on the device.",
            ["worker"],
            registry=registry,
        )
        self._preprocess_seconds = Histogram(
            "aquatint_preprocess_seconds",
            "Time to make a control image, without waiting.",
            ["worker", "preprocessor"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._reloads = Counter("aquatint_catalog_reloads", "Edits of models.yaml.", ["result"], registry=registry)
        self._catalog_refused = Gauge(
            "aquatint_catalog_refused", "1 while models.yaml, as it stands now, cannot be used.", registry=registry
        )
        self._usd = Counter("aquatint_usd", "What was spent, in US dollars.", ["road"], registry=registry)
        self._budget = Gauge(
            "aquatint_budget_used", "How much of an upstream's monthly budget is spent, 0 to 1.", ["upstream"], registry=registry
        )
        self._crossed = Counter(
            "aquatint_budget_crossed",
            "Budgets that reached 80 or 100 %.",
            ["upstream", "whose", "percent"],
            registry=registry,
        )
        for result in ("ok", "refused"):
            self._reloads.labels(result)
        self._decisions = Counter(
            "aquatint_moderation_decisions", "What moderation decided.", ["stage", "action", "by"], registry=registry
        )
        self._moderation_seconds = Histogram(
            "aquatint_moderation_seconds", "Time to look at one thing.", ["by"], buckets=_SECONDS, registry=registry
        )
        self._moderation_failures = Counter(
            "aquatint_moderation_failures", "Things that could not be looked at.", ["by"], registry=registry
        )
        self._cache = Counter("aquatint_cache_requests", "How requests came to their pictures.", ["result"], registry=registry)
        self._cache_bytes = Gauge("aquatint_cache_bytes", "Files that the cache knows of.", registry=registry)
        self._cache_entries = Gauge("aquatint_cache_entries", "Requests that the cache can answer.", registry=registry)
        for result in ("hit", "shared", "miss", "off"):
            self._cache.labels(result)
        self._encode = Histogram("aquatint_encode_seconds", "Pixels to a file.", ["format"], buckets=_SECONDS, registry=registry)
        self._decode = Histogram("aquatint_decode_seconds", "An upload to pixels.", buckets=_SECONDS, registry=registry)
        self._upstream_attempts = Counter(
            "aquatint_upstream_attempts", "Attempts at an upstream.", ["road", "outcome"], registry=registry
        )
        self._upstream_seconds = Histogram(
            "aquatint_upstream_seconds", "Time of one attempt.", ["road"], buckets=_SECONDS, registry=registry
        )
        self._upstream_circuit = Gauge(
            "aquatint_upstream_circuit",
            "1 for the state of the circuit before an upstream.",
            ["road", "state"],
            registry=registry,
        )
        self._upstream_requests = Gauge(
            "aquatint_upstream_requests",
            "Requests active at an upstream, or waiting for it.",
            ["road", "state"],
            registry=registry,
        )
        self._upstream_model_days = Gauge(
            "aquatint_upstream_model_days_left", "Until a model that is used there ends.", ["road", "model"], registry=registry
        )

    def render(self) -> bytes:
        """Everything, in Prometheus' text form."""
        return generate_latest(self._registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One HTTP request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def job(self, state: str, seconds: float) -> None:
        """One job ended."""
        self._jobs.labels(state).inc()
        self._job_seconds.labels(state).observe(seconds)

    def refused(self, code: str) -> None:
        """One job was refused at the door."""
        self._refused.labels(code).inc()

    def queue(self, images: int) -> None:
        """So many images are accepted and not finished."""
        self._queue.set(images)

    def tick(self, worker: str, tick: Tick) -> None:
        """One batch was done."""
        phase = tick.phase.value
        self._ticks.labels(worker, phase).observe(tick.seconds)
        self._rows.labels(worker, phase).observe(tick.rows)
        self._evaluations.labels(worker, phase).inc(tick.evaluations)
        self._padding.labels(worker, phase).inc(tick.padded)
        self._engine_waiting.labels(worker).set(tick.waiting)
        if tick.out_of_memory:
            self._memory.labels(worker).inc()

    def restart(self, worker: str) -> None:
        """A worker is started again."""
        self._restarts.labels(worker).inc()

    def worker(self, worker: str, state: str, states: Sequence[str]) -> None:
        """The worker is in ``state``, one of ``states``."""
        self._restarts.labels(worker)
        self._memory.labels(worker)
        for each in states:
            self._state.labels(worker, each).set(1 if each == state else 0)

    def loaded(self, worker: str, model: str, seconds: float) -> None:
        """A model has been brought onto the worker's device."""
        self._model_loads.labels(worker, model, "ok").inc()
        self._model_load_seconds.labels(worker, model).observe(seconds)

    def load_failed(self, worker: str, model: str) -> None:
        """A model could not be loaded."""
        self._model_loads.labels(worker, model, "failed").inc()

    def unloaded(self, worker: str, model: str, *, evicted: bool) -> None:
        """A model has left the device: ``evicted`` to make room, or because it was told to."""
        self._model_unloads.labels(worker, model, "evicted" if evicted else "told").inc()

    def memory(self, worker: str, memory: Memory) -> None:
        """What models take up on the worker."""
        self._model_memory.labels(worker, "device").set(memory.device_bytes)
        self._model_memory.labels(worker, "ram").set(memory.ram_bytes)
        self._model_budget.labels(worker).set(memory.device_budget)

    def adapters(self, worker: str, taken: int) -> None:
        """What LoRAs, control networks and their like take up on the worker's device."""
        self._adapter_memory.labels(worker).set(taken)

    def models(self, worker: str, states: Mapping[str, int]) -> None:
        """So many models are in each state on the worker."""
        for state, count in states.items():
            self._models.labels(worker, state).set(count)

    def routed(self, road: str, outcome: str) -> None:
        """A road was taken: ``made``, or the code of what went wrong there."""
        self._routes.labels(road, outcome).inc()

    def catalog(self, ok: bool) -> None:  # noqa: FBT001 - the one thing there is to say
        """An edit of models.yaml was taken over, or refused."""
        self._reloads.labels("ok" if ok else "refused").inc()
        self._catalog_refused.set(0 if ok else 1)

    def cache(self, result: str) -> None:
        """One request came to its pictures in that way."""
        self._cache.labels(result).inc()

    def cache_size(self, taken: int, entries: int) -> None:
        """The cache knows of so many bytes, the pictures of so many requests."""
        self._cache_bytes.set(taken)
        self._cache_entries.set(entries)

    def spent(self, road: str, usd: float) -> None:
        """A request on ``road`` was charged."""
        self._usd.labels(road).inc(usd)

    def budget(self, upstream: str, used: float) -> None:
        """So much of its monthly budget is spent."""
        self._budget.labels(upstream).set(used)

    def budget_crossed(self, upstream: str, tenant: str, percent: int) -> None:
        """A limit reached ``percent``: of a tenant, or of all together."""
        self._crossed.labels(upstream or "all", "tenant" if tenant else "all", str(percent)).inc()

    def encoded(self, form: str, seconds: float) -> None:
        """One image was encoded."""
        self._encode.labels(form).observe(seconds)

    def upstream_attempt(self, road: str, outcome: str, seconds: float) -> None:
        """An upstream was asked: ``ok``, ``cancelled``, or the code of its error."""
        self._upstream_attempts.labels(road, outcome).inc()
        self._upstream_seconds.labels(road).observe(seconds)

    def upstream_circuit(self, road: str, state: str) -> None:
        """The circuit before an upstream is closed, open or half-open."""
        for each in ("closed", "open", "half_open"):
            self._upstream_circuit.labels(road, each).set(1 if each == state else 0)

    def upstream_queue(self, road: str, active: int, waiting: int) -> None:
        """Requests under way at an upstream, and waiting for their turn."""
        self._upstream_requests.labels(road, "active").set(active)
        self._upstream_requests.labels(road, "waiting").set(waiting)

    def upstream_model(self, road: str, model: str, days_left: int) -> None:
        """A model of an upstream that is in use or a successor comes to its end."""
        self._upstream_model_days.labels(road, model).set(days_left)

    def preprocessed(self, worker: str, preprocessor: str, seconds: float) -> None:
        """A control image was made."""
        self._preprocess_seconds.labels(worker, preprocessor).observe(seconds)

    def moderated(self, stage: str, action: str, by: str) -> None:
        """Moderation decided about one thing."""
        self._decisions.labels(stage, action, by).inc()

    def looked(self, by: str, seconds: float) -> None:
        """A list or a classifier has looked at one thing."""
        self._moderation_seconds.labels(by).observe(seconds)

    def unseen(self, by: str) -> None:
        """A classifier could not look at one thing."""
        self._moderation_failures.labels(by).inc()

    def decoded(self, seconds: float) -> None:
        """One upload was decoded."""
        self._decode.observe(seconds)
