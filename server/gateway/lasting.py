"""Which results may answer later requests: those that the same request would be given again, were it made anew."""

from server.domain.call import Call
from server.domain.generation import AUTO, WORDS_MISSING, Attempt
from server.domain.verdict import Action
from server.gateway.finish import Finished


def lasting(finished: Finished, call: Call) -> bool:
    """Whether ``finished`` is what ``call`` wanted, and was looked at by everybody who should.

    What moderation could not see, what another road made because the wanted one was away, too busy or too dear, and a picture
    that lacks its words are for the one who asked at that moment: later there may be something better.
    """
    if any(verdict.action is Action.SKIPPED for verdict in finished.verdicts):
        return False
    route = finished.route
    return call.road in (AUTO, route.road) and all(_planned(attempt, route.road) for attempt in route.tried)


def _planned(attempt: Attempt, road: str) -> bool:
    """Whether it belongs to the plan: a picture was drawn, read and found lacking, and so another ``road`` made it."""
    return attempt.code == WORDS_MISSING and attempt.road.partition(":")[0] != road
