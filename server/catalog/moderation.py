"""``tenants: {NAME: {moderation: ...}}`` in models.yaml: what a tenant's prompts and pictures may be."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from server.domain.verdict import OWN, Action, Category, Stage

_MOST_WORDS, _LONGEST_WORD, _SHORTEST_STEM = 1000, 100, 3
_MOST_TIMEOUT = 60.0


class Level(StrEnum):
    """How far a category, or a stage, may go; in YAML a bare ``off`` is the same as ``false``."""

    BLOCK = "block"
    FLAG = "flag"
    OFF = "off"


class ImageLevel(StrEnum):
    """How far pictures may go."""

    BLOCK = "block"
    BLUR = "blur"
    FLAG = "flag"
    OFF = "off"


class Failing(StrEnum):
    """What happens when something that the policy asks for cannot be looked at."""

    OPEN = "open"
    """It passes, and the audit says that nobody looked."""
    CLOSED = "closed"
    """It is refused, with an error that says to try again."""


LEVELS: Mapping[Category, Level] = MappingProxyType(
    {
        Category.HARASSMENT: Level.FLAG,
        Category.HARASSMENT_THREATENING: Level.FLAG,
        Category.HATE: Level.BLOCK,
        Category.HATE_THREATENING: Level.BLOCK,
        Category.ILLICIT: Level.FLAG,
        Category.ILLICIT_VIOLENT: Level.BLOCK,
        Category.SELF_HARM: Level.BLOCK,
        Category.SELF_HARM_INTENT: Level.BLOCK,
        Category.SELF_HARM_INSTRUCTIONS: Level.BLOCK,
        Category.SEXUAL: Level.BLOCK,
        Category.SEXUAL_MINORS: Level.BLOCK,
        Category.VIOLENCE: Level.FLAG,
        Category.VIOLENCE_GRAPHIC: Level.BLOCK,
    }
)
"""Where an entry says nothing of a category."""

_IMAGES: Mapping[ImageLevel, Action] = MappingProxyType(
    {
        ImageLevel.BLOCK: Action.BLOCK,
        ImageLevel.BLUR: Action.BLUR,
        ImageLevel.FLAG: Action.FLAG,
        ImageLevel.OFF: Action.ALLOW,
    }
)


class ModerationPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``moderation`` of a tenant. ``sexual/minors`` cannot be switched off in prompts."""

    prompt: Level | bool = Level.BLOCK
    categories: dict[Category, Level | bool] = {}
    """How far each may go, at most: ``flag`` keeps it from ever blocking. `LEVELS` for the others."""
    block: tuple[str, ...] = ()
    """The tenant's own words and phrases; ``stem*`` stands for every word that begins so."""
    allow: tuple[str, ...] = ()
    """Phrases in which nothing counts, such as ``nude lipstick``."""
    images: ImageLevel | bool = ImageLevel.OFF
    """Pictures that come in and go out. An input that is only to be blurred is flagged: what is made of it is looked at, too."""
    threshold: float = 0.5
    """0..1: the score from which on a local classifier's finding counts."""
    upstream: bool = False
    """Whether prompts, and pictures if ``images`` asks for it, are shown to OpenAI's moderation endpoint, too."""
    fail: Failing = Failing.CLOSED
    timeout: float = 5.0
    """Seconds for each question to the endpoint."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for word in (self.prompt, self.images, *self.categories.values()):
            if word is True:
                msg = "on is no answer here: say block or flag"
                raise ValueError(msg)
        if self.level(Category.SEXUAL_MINORS) is not Level.BLOCK:
            msg = "sexual/minors cannot be switched off"
            raise ValueError(msg)
        if not 0 < self.threshold <= 1:
            msg = "threshold must be above 0 and at most 1"
            raise ValueError(msg)
        if not 0 < self.timeout <= _MOST_TIMEOUT:
            msg = f"timeout must be above 0 and at most {_MOST_TIMEOUT:g} seconds"
            raise ValueError(msg)
        for name, words in (("block", self.block), ("allow", self.allow)):
            _check_words(name, words)

    def level(self, category: str) -> Level:
        """How far ``category`` may go."""
        if category == OWN:
            return Level.BLOCK
        known = Category(category)
        return _level(self.categories.get(known, LEVELS[known]))

    def watches(self, stage: Stage) -> bool:
        """Whether there is anything to do at ``stage``; prompts are always looked at, as one category cannot be switched off."""
        return stage is Stage.PROMPT or _images(self.images) is not ImageLevel.OFF

    @property
    def reads(self) -> bool:
        """Whether prompts are looked at for more than what cannot be switched off."""
        return _level(self.prompt) is not Level.OFF

    @property
    def hides(self) -> bool:
        """Whether finished pictures may have to be kept from the caller."""
        return _images(self.images) in (ImageLevel.BLOCK, ImageLevel.BLUR)

    def action(self, stage: Stage, category: str) -> Action:
        """What is to be done about ``category`` at ``stage``."""
        if category == Category.SEXUAL_MINORS:
            return Action.BLOCK
        level = self.level(category)
        if stage is Stage.PROMPT:
            worst = {Level.BLOCK: Action.BLOCK, Level.FLAG: Action.FLAG, Level.OFF: Action.ALLOW}[_level(self.prompt)]
        else:
            worst = _IMAGES[_images(self.images)]
            if stage is Stage.INPUT and worst is Action.BLUR:
                worst = Action.FLAG
        if level is Level.OFF or worst is Action.ALLOW:
            return Action.ALLOW
        return Action.FLAG if level is Level.FLAG else worst


def _level(value: Level | bool) -> Level:  # noqa: FBT001 - a bare off in YAML
    return value if isinstance(value, Level) else Level.OFF


def _images(value: ImageLevel | bool) -> ImageLevel:  # noqa: FBT001 - as above
    return value if isinstance(value, ImageLevel) else ImageLevel.OFF


def _check_words(name: str, words: tuple[str, ...]) -> None:
    if len(words) > _MOST_WORDS:
        msg = f"{name} has {len(words)} entries; {_MOST_WORDS} are allowed"
        raise ValueError(msg)
    for word in words:
        stem = word.strip().removesuffix("*")
        if "*" in stem or (stem != word.strip() and len(stem) < _SHORTEST_STEM):
            msg = f"{name}: in {word!r} a star may only end a word of {_SHORTEST_STEM} letters or more"
            raise ValueError(msg)
        if len(word) > _LONGEST_WORD or not any(letter.isalnum() for letter in stem):
            msg = f"{name}: {word!r} is no word or phrase of up to {_LONGEST_WORD} characters"
            raise ValueError(msg)
