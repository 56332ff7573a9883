"""Whether a server without a key may be reached from elsewhere."""

from server.app.parts import Parts


class Exposed(Exception):
    """Other machines could come in, and nothing keeps anybody out."""


async def check_exposure(parts: Parts) -> None:
    """Raise `Exposed` if other machines can reach the server, there is no key, and nobody has said that this is meant."""
    settings = parts.settings
    if settings.api_keys or settings.may_be_open or await parts.keys.live():
        return
    msg = (
        f"--host {settings.host} lets other machines in, and there is no key: make one with 'aquatint keys create' or set "
        "AQUATINT_API_KEY; or say --open-access if anyone who reaches it may use it."
    )
    raise Exposed(msg)
