"""``python -m pipelines.families.pull OWNER/NAME``: download a repository's safetensors, configs and tokenizers, and check them.

Prints one JSON object: ``path``, ``files`` and ``bytes`` of what is there now, or ``error``; with ``--lines`` a ``fraction`` on
a line of its own before that, as it grows; without, a bar on stderr.
"""

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined] # exported without saying so

from pipelines.families import hub

_STEP = 0.01


def main() -> int:
    """Download; 0 when everything is there and its checksums are right."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.families.pull", description=__doc__)
    parser.add_argument("repo", help="OWNER/NAME or OWNER/NAME@REVISION")
    parser.add_argument("--revision", help="commit, tag or branch; the main branch if left out")
    parser.add_argument("--only", help="only this component, with its tokenizer")
    parser.add_argument("--without", action="append", default=[], help="not this component (repeat for more)")
    parser.add_argument("--one", help="only the one safetensors file that this pattern matches")
    parser.add_argument("--file", action="append", default=[], help="only this file, whatever it holds (repeat for more)")
    parser.add_argument("--lines", action="store_true", help="progress as JSON lines")
    arguments = parser.parse_args()
    try:
        repo, _, revision = arguments.repo.partition("@")
        wanted: dict[str, Any] = {"allow_patterns": arguments.file or [arguments.one]}
        if not arguments.file and arguments.one is None:
            wanted = {"allow_patterns": hub.patterns(arguments.only, arguments.without), "ignore_patterns": list(hub.IGNORED)}
        told = pull(repo, revision or arguments.revision, wanted, lines=arguments.lines, names=arguments.file)
    except BrokenPipeError:  # nobody waits for it any more
        return 1
    _say(told)
    return 1 if "error" in told else 0


def pull(repo: str, revision: str | None, wanted: dict[str, Any], *, lines: bool, names: Sequence[str] = ()) -> dict[str, Any]:
    """``path``, ``files`` and ``bytes`` of the downloaded repository, or ``error``; ``wanted`` are the hub's file patterns.

    With ``names``, these files must be there; without, some safetensors.
    """
    try:
        return _pull(repo, revision, wanted, lines=lines, names=names)
    except GatedRepoError:
        problem = f"{repo} is gated: accept its licence on its page and set HF_TOKEN."
    except RevisionNotFoundError:
        problem = f"{repo} has no revision {revision!r}."
    except RepositoryNotFoundError:
        problem = f"There is no repository {repo}, or HF_TOKEN may not read it."
    except OfflineModeIsEnabled:
        problem = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set."
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    return {"error": problem}


def _pull(repo: str, revision: str | None, wanted: dict[str, Any], *, lines: bool, names: Sequence[str]) -> dict[str, Any]:
    commit = HfApi().model_info(repo, revision=revision).sha
    files = snapshot_download(repo, revision=revision, dry_run=True, **wanted)
    lacking = set(names) - {file.filename for file in files}
    if lacking:
        return {"error": f"{repo} has no file {', '.join(sorted(lacking))}."}
    if not names and not any(file.filename.endswith(".safetensors") for file in files):
        return {"error": f"{repo} holds no safetensors that Aquatint could load; it reads no pickles and no variants."}
    if not names and "ignore_patterns" not in wanted and len(files) > 1:
        several = ", ".join(sorted(file.filename for file in files))
        return {"error": f"{repo} has several safetensors files ({several}): say which is meant with 'file'."}
    bar = _lines(sum(file.file_size for file in files if file.will_download)) if lines else tqdm
    path = Path(snapshot_download(repo, revision=revision, tqdm_class=bar, **wanted))
    if lines:
        _say({"fraction": 1.0})  # hashing takes a while, and who waits should know that this is alive
    wrong = [mismatch["path"] for mismatch in HfApi().verify_repo_checksums(repo, revision=commit).mismatches]
    for name in wrong:
        # Both the link and what it points at, or the next download would take the damaged file for a cached one.
        (path / name).resolve().unlink(missing_ok=True)
        (path / name).unlink(missing_ok=True)
    if wrong:
        return {"error": f"The checksum of {', '.join(wrong)} is wrong; what was there has been removed."}
    return {"path": str(path), "files": len(files), "bytes": sum(file.file_size for file in files)}


def _lines(total: int) -> type[Any]:
    """A progress bar that prints fractions of ``total`` bytes instead."""
    turn = threading.Lock()  # several files come at once, each in a thread of the hub's that moves the same bars

    class Lines(tqdm):
        said = 0.0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.seen = 0.0
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if getattr(self, "unit", "B") != "B":
                return
            with turn:
                self.seen += n or 0
                fraction = min(1.0, self.seen / total) if total else 1.0
                if fraction >= Lines.said + _STEP:
                    Lines.said = fraction
                    _say({"fraction": round(fraction, 3)})

    return Lines


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
