"""``python -m pipelines.worker --fd N --device cpu``: started by the server, never by hand."""

import argparse
import os
import socket
import sys

from pipelines.contract.messages import PROTOCOL, Hello
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner
from pipelines.engine.scheduler import Scheduler
from pipelines.worker.link import Link
from pipelines.worker.loop import Signals, serve

DEVICE_FAULT = 70
"""Exit code after a device fault (EX_SOFTWARE): the process is beyond help, a new one is not."""


def main() -> int:
    """Build the engine for the device, say hello, serve."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of a socketpair")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:N, or fake (no torch at all)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads for torch; 0 leaves its own choice")
    arguments = parser.parse_args()
    link = Link(socket.socket(fileno=arguments.fd))
    with Signals() as signals:
        if arguments.device == "fake":
            link.send(Hello(PROTOCOL, os.getpid(), "fake", "no device, colour gradients", 0))
            serve(link, Engine(FakeRunner()), signals)
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
        try:
            serve(link, Engine(found.runner, Scheduler(found.policy)), signals)
        except device.DeviceFault as fault:
            sys.stderr.write(f"worker on {arguments.device}: {fault}\n")
            return DEVICE_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
