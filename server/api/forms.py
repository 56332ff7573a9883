"""Forms: their parts in order, files and texts told apart."""

from typing import Any

from litestar import Request
from litestar.datastructures import UploadFile

from pipelines.contract.errors import InvalidRequest

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def is_form(request: Request[Any, Any, Any]) -> bool:
    """Whether the body is a form."""
    return request.headers.get("content-type", "").lower().startswith(FORMS)


async def parts(request: Request[Any, Any, Any]) -> list[tuple[str, str | UploadFile]]:
    """Name and value of each part; raises `InvalidRequest` for texts that are none."""
    try:
        form = await request.form()
    except (UnicodeError, LookupError) as error:
        # A part that is no UTF-8, or that names a character set which nobody knows.
        msg = f"A field of the form is no text: {error}"
        raise InvalidRequest(msg) from None
    return list(form.multi_items())
