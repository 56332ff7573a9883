"""The words that tell whether a picture is to show writing: read from `text_words/`, one file for each language."""

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from importlib.resources import files

import msgspec


class Kind(Enum):
    """What a word or phrase does."""

    SAYS = "says"
    """A verb that words follow."""
    INTRO = "intro"
    """A phrase that nothing but words can follow."""
    SHOWS = "shows"
    """A verb that words may follow."""
    MARKED = "marked"
    """How words come onto a thing: painted, carved."""
    BARE = "bare"
    """Says by itself that something is written."""
    TEXT = "text"
    """Writing by its name."""
    LETTERS = "letters"
    """Writing by a name with other meanings too."""
    GLYPH = "glyph"
    """A letter or a figure, which follows."""
    SURFACE = "surface"
    """A thing that often bears words."""
    SIGN = "sign"
    """A surface that is nothing without its words: what follows it and a colon is written on it."""
    FOR = "for"
    """After a sign: what it is to announce."""
    MADE = "made"
    """A thing that is made to be read."""
    STYLE = "style"
    """What follows is an example to be like."""
    WORK = "work"
    """A work of art, which has a title."""
    NAMED = "named"
    VOICE = "voice"
    """What follows is heard or thought."""
    FEEL = "feel"
    """What follows is a mood, a notion, a manner of speaking."""
    NOT = "not"
    """Refuses what follows."""
    WITHOUT = "without"
    """Refuses what goes before."""
    OTHER = "other"
    """Refused is only what is not said."""
    UPON = "upon"
    """Where the words come before their verb, as in German: points at the thing that bears them."""
    BLANK = "blank"
    """Says by itself that nothing is written."""
    EMPTY = "empty"
    """The thing beside it bears nothing."""
    STOP = "stop"
    """Ends what a refusal reaches."""
    BAD = "bad"
    """In a negative prompt: not writing is refused, but bad writing."""
    QUIET = "quiet"
    """A phrase in which one of the words above means something else."""


Kinds = frozenset[Kind]
LANGUAGES = ("en", "de", "fr", "es", "pt", "it", "zh", "ja")
WIDE_RANGES = "぀-ヿ㐀-鿿豈-﫿ｦ-ﾟ가-힣"
"""Characters that are words of their own here."""


class Phrase(msgspec.Struct, frozen=True):
    """Words that do something; in Chinese and Japanese, characters."""

    words: tuple[str, ...]
    kinds: Kinds


Vocabulary = Mapping[str, tuple[Phrase, ...]]
"""Phrases by their first words, the longest first."""


@cache
def vocabulary() -> Vocabulary:
    """That of all languages; read once."""
    found: dict[tuple[str, ...], set[Kind]] = {}
    for language in LANGUAGES:
        text = (files(__package__) / "text_words" / f"{language}.txt").read_text(encoding="utf-8")
        for kind, words in _read(text):
            found.setdefault(words, set()).add(kind)
    phrases = sorted((Phrase(words, frozenset(kinds)) for words, kinds in found.items()), key=lambda each: -len(each.words))
    by_first: dict[str, list[Phrase]] = {}
    for phrase in phrases:
        by_first.setdefault(phrase.words[0], []).append(phrase)
    return {first: tuple(each) for first, each in by_first.items()}


@cache
def endings() -> Mapping[str, Kinds]:
    """What words do by their ends, the longest first: `-schild` stands for every German word that is made with it."""
    found = {first.removeprefix("-"): each[0].kinds for first, each in vocabulary().items() if first.startswith("-")}
    return dict(sorted(found.items(), key=lambda each: -len(each[0])))


def _read(text: str) -> Iterator[tuple[Kind, tuple[str, ...]]]:
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        for phrase in rest.split("|"):
            bare = phrase.strip()
            spellings = {bare.replace("(s)", ""), bare.replace("(s)", "s")}
            for spelling in spellings:
                yield Kind(name), tuple(_words(spelling))


def _words(spelling: str) -> Iterator[str]:
    for word in spelling.casefold().split():
        wide = [character for character in word if character > "\u2e80"]
        yield from word if len(wide) == len(word) else _mixed(word)


def _mixed(word: str) -> Iterator[str]:
    """Latin letters stay together, others stand alone: `tシャツ`."""
    latin = ""
    for character in word:
        if character > "\u2e80":
            if latin:
                yield latin
            latin = ""
            yield character
        else:
            latin += character
    if latin:
        yield latin
