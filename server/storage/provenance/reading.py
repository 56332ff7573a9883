"""Reading manifests: what a file says of its origin, whether that is so, and who says it. Nothing is ever fetched."""

import asyncio
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from server.domain.origin import Source
from server.storage.provenance.claims import GENERATION
from server.storage.provenance.context import configuration

if TYPE_CHECKING:
    import c2pa

State = Literal["trusted", "valid", "invalid", "not_present"]

_CONCURRENT = 2
_MOST, _LONGEST = 64, 500
"""Entries of a list, and characters of a text, that are taken over from a file."""
_DEEPEST = 32
"""Manifests on a line from a file to its first ancestor."""
_AI = tuple(f"/{kind}" for kind in (Source.GENERATED, Source.COMPOSITE, "compositeSynthetic"))
_ELSEWHERE = "Remote:"
"""How the library's errors begin about a manifest that is not in the file."""


class Part(msgspec.Struct, frozen=True):
    """A picture that went into the one that was read."""

    title: str
    relation: str
    manifest: bool
    """Whether it has a manifest of its own."""
    problems: tuple[str, ...] = ()


class Findings(msgspec.Struct, frozen=True):
    """What a file says of its origin; texts are what the file says, cut short."""

    state: State
    """TRUSTED: as it was signed, by somebody who is trusted here. VALID: as it was signed. INVALID: changed since, or broken."""
    issuer: str | None = None
    generator: str | None = None
    model: str | None = None
    generated_at: str | None = None
    ai_generated: bool = False
    """Whether the manifest says that a model has made the picture or a part of it; that there is none says nothing."""
    actions: tuple[str, ...] = ()
    ingredients: tuple[Part, ...] = ()
    problems: tuple[str, ...] = ()


class Inspector:
    """Reads files, a few at a time, in threads."""

    __slots__ = ("_anchors", "_context", "_threads")

    def __init__(self, anchors: bytes = b"") -> None:
        """``anchors``: PEM certificates of those who are trusted."""
        self._anchors = anchors
        self._context: c2pa.Context | None = None
        self._threads = asyncio.Semaphore(_CONCURRENT)

    async def findings(self, data: bytes, media_type: str) -> Findings:
        """What the file ``data`` says."""
        async with self._threads:
            return await asyncio.to_thread(self.read, data, media_type)

    def read(self, data: bytes, media_type: str) -> Findings:
        """The same, in the calling thread."""
        import c2pa  # noqa: PLC0415 - 50 MB of library that most servers do not need

        if self._context is None:
            self._context = c2pa.Context.from_dict(configuration(self._anchors))
        try:
            with c2pa.Reader(media_type, io.BytesIO(data), context=self._context) as reader:
                return _findings(json.loads(reader.json()))
        except c2pa.C2paError.ManifestNotFound:
            return Findings("not_present")
        except (c2pa.C2paError, RecursionError, ValueError) as error:
            if str(error).startswith(_ELSEWHERE):
                said = f"The manifest is elsewhere, and nothing is fetched. {_cut(str(error))}"
                return Findings("not_present", problems=(said,))
            return Findings("invalid", problems=(_cut(str(error)),))


def signed(data: bytes) -> bool:
    """Whether ``data`` looks as if it had a manifest: cheap, and never wrong about one that has."""
    return b"jumb" in data and b"c2pa" in data


def _findings(store: Mapping[str, Any]) -> Findings:
    manifests = _map(store.get("manifests"))
    active = _map(manifests.get(str(store.get("active_manifest"))))
    acts = [act for manifest in _line(active, manifests) for act in _actions(manifest)]
    ai = next((act for act in acts if str(act.get("digitalSourceType")).endswith(_AI)), None)
    signature = _map(active.get("signature_info"))
    return Findings(
        state=_state(store.get("validation_state")),
        issuer=_text(signature.get("issuer")),
        generator=_generator(active),
        model=_model(_line(active, manifests), _map(ai)),
        generated_at=_text(signature.get("time") or next((act["when"] for act in acts if act.get("when")), None)),
        ai_generated=ai is not None,
        actions=_some(str(act.get("action")) for act in _actions(active)),
        ingredients=tuple(_part(each) for each in _maps(active.get("ingredients"))[:_MOST]),
        problems=_problems(store),
    )


def _state(word: object) -> State:
    if word == "Trusted":
        return "trusted"
    return "valid" if word == "Valid" else "invalid"


def _line(manifest: Mapping[str, Any], manifests: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """``manifest`` and those of the pictures that it is a later state or a composition of."""
    waiting, seen = [manifest], 0
    while waiting and seen < _DEEPEST:
        seen += 1
        current = waiting.pop(0)
        yield current
        waiting += [
            _map(manifests.get(str(part.get("active_manifest"))))
            for part in _maps(current.get("ingredients"))
            if part.get("relationship") in ("parentOf", "componentOf")
        ]


def _assertions(manifest: Mapping[str, Any], start: str) -> Iterator[Mapping[str, Any]]:
    for each in _maps(manifest.get("assertions")):
        if str(each.get("label")).startswith(start):
            yield _map(each.get("data"))


def _actions(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [act for data in _assertions(manifest, "c2pa.actions") for act in _maps(data.get("actions"))]


def _generator(manifest: Mapping[str, Any]) -> str | None:
    first = next(iter(_maps(manifest.get("claim_generator_info"))), None)
    if first is None:
        return _text(manifest.get("claim_generator"))
    return _text(" ".join(str(first[key]) for key in ("name", "version") if first.get(key)))


def _model(line: Iterable[Mapping[str, Any]], ai: Mapping[str, Any]) -> str | None:
    """By our own assertion, else by what the action that says so calls its agent."""
    ours = next((data.get("model") for manifest in line for data in _assertions(manifest, GENERATION)), None)
    agent = ai.get("softwareAgent")
    return _text(ours or (agent.get("name") if isinstance(agent, dict) else agent))


def _part(ingredient: Mapping[str, Any]) -> Part:
    return Part(
        title=_text(ingredient.get("title")) or "",
        relation=_text(ingredient.get("relationship")) or "",
        manifest=ingredient.get("active_manifest") is not None,
        problems=_problems(ingredient),
    )


def _problems(judged: Mapping[str, Any]) -> tuple[str, ...]:
    failures = _map(_map(judged.get("validation_results")).get("activeManifest")).get("failure")
    return _some(f"{each.get('code')}: {each.get('explanation') or 'no explanation'}" for each in _maps(failures))


def _map(value: object) -> Mapping[str, Any]:
    """``value`` if it is an object; what others write into their manifests may be anything."""
    return value if isinstance(value, dict) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    """The objects in the list ``value``."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _some(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(_cut(text) for text, _ in zip(texts, range(_MOST), strict=False))


def _text(value: object) -> str | None:
    return _cut(str(value)) if value else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
