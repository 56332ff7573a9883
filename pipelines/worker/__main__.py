"""``python -m pipelines.worker --fd N --device cpu``: started by the server, never by hand."""

import argparse
import os
import socket
import sys
from pathlib import Path

from pipelines.contract.messages import PROTOCOL, Hello
from pipelines.engine.adapters import Adapters
from pipelines.engine.budgets import Budgets
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner
from pipelines.engine.loader import ThreadLoader
from pipelines.engine.models import Models
from pipelines.engine.notes import Notes, Surroundings, file_name
from pipelines.engine.runner import DeviceFault, Runner
from pipelines.engine.scheduler import Policy, Scheduler
from pipelines.memory.ledger import Ledger
from pipelines.memory.residency import Residency
from pipelines.preprocessing.fake import fake
from pipelines.worker.link import Link
from pipelines.worker.loop import Signals, serve
from pipelines.worker.preparation import Preparation, Work

DEVICE_FAULT = 70
"""Exit code after a device fault (EX_SOFTWARE): the process is beyond help, a new one is not."""


def main() -> int:
    """Build the engine for the device, say hello, serve."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of a socketpair")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:N, or fake (no torch at all)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads for torch; 0 leaves its own choice")
    parser.add_argument("--memory-mb", type=_megabytes, help="what models may take up on the device, in MB of 10^6 bytes")
    parser.add_argument("--ram-mb", type=_megabytes, help="what evicted models may take up in RAM, in MB")
    parser.add_argument(
        "--adapter-mb", type=_megabytes, help="what LoRAs, ControlNets and their like may take up beside them, in MB"
    )
    parser.add_argument(
        "--state", type=Path, help="a folder in which to keep what is learned of the device; none: nothing is kept"
    )
    arguments = parser.parse_args()
    link = Link(socket.socket(fileno=arguments.fd))
    with Signals() as signals:
        if arguments.device == "fake":
            link.send(Hello(PROTOCOL, os.getpid(), "fake", "no device, colour gradients", 0))
            budget = Ledger(arguments.memory_mb, arguments.ram_mb or 0)
            nowhere = Surroundings("fake", 0, "none")
            made = _engine(FakeRunner(), (budget, arguments.adapter_mb), Policy(), nowhere, arguments.state)
            _run(link, signals, made, Preparation(lambda: fake))
            return 0
        # Imported here: a fake worker starts in a fraction of a second because it never sees torch.
        # A library that looks at the hub by itself would stall an air-gapped box. Read at import. What a card names as hf: and
        # the cache lacks is fetched by a process of its own, unless the operator wants no downloads at all.
        if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in {"1", "on", "yes", "true"}:
            os.environ.setdefault("AQUATINT_DOWNLOADS", "1")
        os.environ["HF_HUB_OFFLINE"] = "1"
        # torch's CPU threads spin between operations. On cores that others need too (the HTTP server is one) long spinning makes
        # a tick up to twenty times slower; spinning this long costs nothing on a quiet machine. Read when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        from pipelines.worker import device  # noqa: PLC0415

        found = device.open_device(arguments.device, arguments.threads)
        link.send(Hello(PROTOCOL, os.getpid(), str(found.device), found.name, found.memory_bytes))
        budget = Ledger(
            found.weights_bytes if arguments.memory_mb is None else arguments.memory_mb,
            found.ram_bytes if arguments.ram_mb is None else arguments.ram_mb,
        )
        try:
            adapters = found.adapter_bytes if arguments.adapter_mb is None else arguments.adapter_mb
            made = _engine(found.runner, (budget, adapters), found.policy, found.surroundings, arguments.state)
            _run(link, signals, made, Preparation(lambda: _preprocessors(found.spare_threads)))
        except DeviceFault as fault:
            sys.stderr.write(f"worker on {arguments.device}: {fault}\n")
            return DEVICE_FAULT
    return 0


def _engine(
    runner: Runner, budgets: tuple[Ledger, int | None], policy: Policy, surroundings: Surroundings, state: Path | None
) -> tuple[Engine, tuple[ThreadLoader, ...]]:
    """The engine with all its parts, and the loaders that wake it: one for models, one for adapters; so are ``budgets``."""
    loaders, rows = (ThreadLoader(), ThreadLoader()), Budgets()
    models = Models(runner, Residency(budgets[0]), loaders[0], policy.turnover)
    notes = None if state is None else Notes(state / file_name(surroundings), surroundings, rows)
    adapters = Adapters(runner, loaders[1], budgets[1])
    return Engine(runner, Scheduler(policy, rows), models, notes, adapters), loaders


def _preprocessors(threads: int) -> Work:
    """Called in the thread that will use them: their imports would hold the ticks up."""
    from pipelines.preprocessing.preprocessors import Preprocessors  # noqa: PLC0415

    return Preprocessors(threads=threads).run


def _run(link: Link, signals: Signals, made: tuple[Engine, tuple[ThreadLoader, ...]], preparation: Preparation) -> None:
    engine, loaders = made
    serve(link, engine, signals, loaders, preparation)
    if any(loader.busy for loader in loaders) or preparation.busy:
        # Nobody waits for this any more, and an interpreter that shuts down under a thread inside torch may crash.
        sys.stderr.flush()
        os._exit(0)


def _megabytes(text: str) -> int:
    """Bytes from MB."""
    count = int(text)
    if count < 0:
        msg = f"must be 0 or more, not {count}"
        raise argparse.ArgumentTypeError(msg)
    return count * 1_000_000


if __name__ == "__main__":
    sys.exit(main())
