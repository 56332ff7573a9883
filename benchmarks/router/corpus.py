"""The labelled prompts: see RULES.md."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("prompts")
ROUNDS = ("fresh", "blind", "last")
"""Folders of prompts that were written later, each after another round of rules: see RULES.md."""
LABELS = {"+": "needs", "-": "not", "?": "arguable"}
HALVES = ("tuning", "held out")


@dataclass(frozen=True)
class Labelled:
    """One prompt and whether it needs text."""

    prompt: str
    negative: str
    label: str
    language: str
    kind: str
    """The heading it stands under."""

    @property
    def half(self) -> str:
        """By the first bit of the prompt's digest."""
        return HALVES[hashlib.sha256(self.prompt.encode()).digest()[0] >> 7]


def later(name: str) -> list[Labelled]:
    """The prompts of one of `ROUNDS`."""
    return corpus(FOLDER.with_name(name))


def corpus(folder: Path = FOLDER) -> list[Labelled]:
    """All of them, in the order of their files."""
    found: list[Labelled] = []
    for path in sorted(folder.glob("*.txt")):
        kind = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("# "):
                kind = line[2:]
                continue
            mark, _, rest = line.partition(" ")
            if mark not in LABELS or not rest:
                msg = f"{path.name}:{number}: a line is a label and a prompt"
                raise ValueError(msg)
            prompt, _, negative = rest.partition(" ||| ")
            found.append(Labelled(prompt, negative, LABELS[mark], path.stem, kind))
    return found
