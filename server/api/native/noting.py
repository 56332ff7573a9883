"""What moderation did to a job, for its caller."""

from server.api.native.bodies import ModerationNote
from server.domain.job import Job


def notes(job: Job) -> list[ModerationNote]:
    """Everything beyond letting it pass; scores stay with the operator."""
    return [ModerationNote(each.stage, each.action, each.by, each.categories, each.image, each.param) for each in job.verdicts]
