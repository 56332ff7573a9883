"""From a request's texts to the prompts that each step is conditioned on."""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from pipelines.contract.catalog import Emphasis
from pipelines.contract.errors import InvalidRequest, TooLarge
from pipelines.contract.samplers import kept_steps
from pipelines.engine.row import Row
from pipelines.families.family import Change, Family, Prompt
from pipelines.families.inversion import Inversion
from pipelines.prompts.fragments import Fragment, plain, size
from pipelines.prompts.learned import LearnedWords
from pipelines.prompts.script import Script

MAX_SIZE = 65_536
"""Bytes of a prompt, over all its wordings: every one is encoded, and held as long as the image is being made."""

_REMEMBERED = 128
"""Prompts read and kept: n images of one request are n rows, and each row asks twice."""


class Cue(msgspec.Struct, frozen=True):
    """A prompt that holds from a step on, counted from 0."""

    begins: int
    prompt: Prompt


class Reader:
    """Reads prompts for one model."""

    __slots__ = ("_emphasis", "_family", "_inversions", "_read", "_words")

    def __init__(self, family: Family, emphasis: Emphasis, inversions: Sequence[Inversion]) -> None:
        """Weights mean what ``emphasis`` says, ``inversions`` are known by their names."""
        self._family, self._emphasis = family, emphasis
        self._inversions = {inversion.name: inversion for inversion in inversions}
        self._words = LearnedWords(self._inversions)
        self._read = lru_cache(_REMEMBERED)(self._cues)

    def prompts(self, row: Row, change: Change | None = None) -> tuple[tuple[Cue, ...], ...]:
        """What one evaluation each is made for: negative and positive prompt, or only the positive; each from its first step.

        All are read with ``change``, the row's LoRAs, in the text encoders.

        Raises `InvalidRequest` for more skipped layers than the encoder has, and for a request that is wrong about whether the
        network takes the guidance scale itself, and for a LoRA's tag; `TooLarge`.
        """
        request = row.request
        embedded = self._family.facts.embedded_guidance
        if request.sampling.embedded_guidance != embedded and request.sampling.guidance_scale > 1.0:
            msg = f"embedded_guidance must be {str(embedded).lower()} for this model."
            raise InvalidRequest(msg, param="guidance_scale")
        if not 0 <= request.clip_skip <= self._family.max_clip_skip:
            msg = f"clip_skip must be 0 to {self._family.max_clip_skip} for this model, not {request.clip_skip}."
            raise InvalidRequest(msg, param="clip_skip")
        steps = self._steps(row)
        positive = self._read(request.styled_prompt, steps, "prompt", request.clip_skip, change)
        if not request.sampling.guided:
            return (positive,)
        # Like diffusers, the negative prompt is never tapped early: clip_skip is about the picture's description.
        return (self._read(request.styled_negative, steps, "negative_prompt", 0, change), positive)

    def _steps(self, row: Row) -> int:
        """The steps that will really be run: flow models round otherwise, and the row does not know its course yet."""
        whole, strength = row.request.sampling.steps, row.strength
        return whole if strength is None else max(1, kept_steps(whole, strength, flow=self._family.facts.family.flow))

    def _cues(self, text: str, steps: int, param: str, clip_skip: int, change: Change | None) -> tuple[Cue, ...]:
        script = Script(text, literal=self._emphasis is Emphasis.NONE)
        if script.loras:
            msg = f"{param!r} has the tag of the LoRA {script.loras[0].name!r}: name it in 'loras' and take the tag out."
            raise InvalidRequest(msg, param=param)
        cues: list[Cue] = []
        total = 0
        for begins, wording in script.cues(steps):
            total += size(wording)
            if total > MAX_SIZE:
                msg = (
                    f"{param!r} is too long: all its wordings over the {steps} steps together may have {MAX_SIZE} bytes "
                    "(a BREAK and a learned word count 75)."
                )
                raise TooLarge(msg, param=param)
            marked = self._words.mark(wording)
            used = {part.text for part in marked if isinstance(part, Fragment) and part.learned}
            cues.append(
                Cue(
                    begins,
                    Prompt(
                        plain(wording),
                        clip_skip,
                        negative=param == "negative_prompt",
                        wording=marked,
                        emphasis=self._emphasis,
                        learned=tuple(self._inversions[name] for name in sorted(used)),
                        change=change,
                    ),
                )
            )
        return tuple(cues)
