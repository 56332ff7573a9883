"""How far a model is, by the progress bar that it writes into its logs: pure."""

import re

_BAR = re.compile(r"(?:^|[\r\n])[ \t]*(\d{1,3})%\|")
"""As tqdm writes it, and most models do: `` 38%|###8      | 3/8 [00:01<00:02]``. What stands behind words counts something else,
such as the files of a model that is loaded; Replicate's own client reads it so too."""
_MOST = 4096
"""Characters; the newest bar is at the end."""


def done(logs: object) -> float:
    """The part that is done, 0 to 1; 0 where nothing is said of it."""
    found = _BAR.findall(logs[-_MOST:]) if isinstance(logs, str) else []
    return min(int(found[-1]), 100) / 100 if found else 0.0
