"""The composition root: builds every part, passes it by hand, and runs the server; the only place that names concrete classes."""

from server.app.application import application
from server.app.exposure import Exposed, check_exposure
from server.app.parts import Parts, assemble
from server.app.running import build, run
from server.app.storing import storage

__all__ = ["Exposed", "Parts", "application", "assemble", "build", "check_exposure", "run", "storage"]
