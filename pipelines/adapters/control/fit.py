"""Whether a control network was made for a network like the model's: both name their widths where they do not agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.contract.errors import Unsupported


def check_widths(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise `Unsupported` where the control network ``name`` has ``theirs`` and the model has ``ours``, by what they count."""
    for what, width in theirs.items():
        if _plain(width) != _plain(ours[what]):
            msg = (
                f"Control network {name!r} does not fit this model: {what} {_shown(width)} in the one, "
                f"{_shown(ours[what])} in the other. It was made for another kind of model "
                "(SD 1 and SD 2, for example, need networks of their own)."
            )
            raise Unsupported(msg, param="controls")


def _plain(width: Any) -> Any:
    return list(width) if isinstance(width, Sequence) else width


def _shown(width: Any) -> str:
    return ", ".join(str(each) for each in width) if isinstance(width, Sequence) else str(width)
