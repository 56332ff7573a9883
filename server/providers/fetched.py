"""A result that an upstream left at an address: it was made, so that nothing here leads to its being made again."""

from server.domain.failures import UpstreamAmbiguous
from server.egress.fetching import Fetcher, FetchFailed
from server.egress.guarded import Forbidden

_TRIES = 3


async def fetched(fetcher: Fetcher, url: str) -> bytes:
    """The content of ``url``, in up to three tries: reading it again costs nothing. Raises `UpstreamAmbiguous`."""
    tried = 0
    while True:
        tried += 1
        try:
            return await fetcher.fetch(url)
        except Forbidden as error:
            raise UpstreamAmbiguous(str(error)) from error
        except FetchFailed as error:
            if tried == _TRIES:
                msg = f"{error} It was made, and may have been charged."
                raise UpstreamAmbiguous(msg) from error
