"""The parts that moderate."""

from structlog.typing import FilteringBoundLogger

from server.catalog.current import CurrentCatalog
from server.domain.clock import Clock
from server.domain.ports.decisions import DecisionRepository
from server.gateway.moderation.audit import Audit
from server.gateway.moderation.audit import Keeping as DecisionsKept
from server.gateway.moderation.bench import Bench
from server.gateway.moderation.classifier import Classifier, ColourClassifier, NoClassifier
from server.gateway.moderation.nudenet import NudeNet
from server.gateway.moderation.remote import OpenAIModeration
from server.settings import Settings
from server.telemetry.metrics import Metrics


def moderation_bench(
    settings: Settings,
    current: CurrentCatalog,
    decisions: DecisionRepository,
    *,
    clock: Clock,
    metrics: Metrics,
    log: FilteringBoundLogger,
) -> Bench:
    """Those who judge prompts and pictures, and the book of what they decide."""
    return Bench(
        lambda tenant: current.catalog.policy(tenant).moderation,
        _classifier(settings.image_classifier, clock, log),
        OpenAIModeration(settings.moderation_key, settings.moderation_url, clock),
        Audit(
            decisions,
            DecisionsKept(settings.moderation_days * 86_400, prompts=settings.moderation_prompts),
            clock=clock,
            metrics=metrics,
            log=log,
        ),
        metrics,
    )


def _classifier(name: str, clock: Clock, log: FilteringBoundLogger) -> Classifier:
    if name == "nudenet":
        return NudeNet(clock, log)
    return ColourClassifier() if name == "colour" else NoClassifier()
