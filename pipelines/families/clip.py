"""One CLIP text encoder: prompts to token states, and to a pooled vector where the encoder has a projection."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch

from pipelines.contract.catalog import Emphasis
from pipelines.families.chunks import Token, chunked
from pipelines.families.family import Prompt
from pipelines.prompts.fragments import Break, Fragment

_AT_ONCE = 64
"""Chunks in one forward: a prompt that changes at each of 150 steps is read in a few."""


class Encoded(msgspec.Struct, frozen=True):
    """One prompt: token states [1, 77 * chunks, W], and the projected vector [1, P] if the encoder has a projection."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None
    """Of the first chunk."""


class ClipText:
    """A loaded CLIP text encoder with its tokenizer.

    ``penultimate`` taps the hidden states one layer early and leaves out the final norm, as SDXL and SD3 do; without it the
    last layer is read and a tap further up (clip skip) is normed, as SD 1 and 2 do. ``most_chunks`` cuts off longer prompts, for
    networks that take a fixed number of tokens. Encoders with the same vocabulary cut the same prompt into the same chunks.
    """

    def __init__(self, tokenizer: Any, module: Any, *, penultimate: bool = False, most_chunks: int | None = None) -> None:
        """Take a module that is already on its device, in evaluation mode."""
        self._tokenizer, self.module, self._penultimate, self._most = tokenizer, module, penultimate, most_chunks
        self.max_clip_skip: int = module.config.num_hidden_layers - (2 if penultimate else 1)
        self._places: int = min(tokenizer.model_max_length, module.config.max_position_embeddings)
        self._comma: int | None = tokenizer.get_vocab().get(",</w>")

    def encode(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """States of each prompt, of any length: chunks of 75 tokens are read one by one and their states joined.

        Raises `Unsupported` for a learned word whose vectors are of another width than this encoder's.
        """
        chunks = self._chunks(prompts)
        owners = [prompt for prompt, own in zip(prompts, chunks, strict=True) for _ in own]
        flat = [chunk for own in chunks for chunk in own]
        states: list[torch.Tensor] = []
        pooled: list[torch.Tensor | None] = []
        for at in range(0, len(flat), _AT_ONCE):
            part, prompted = flat[at : at + _AT_ONCE], owners[at : at + _AT_ONCE]
            output = self._read(part, layers=self._penultimate or any(prompt.clip_skip for prompt in prompted))
            projected = getattr(output, "text_embeds", None)
            for index, (chunk, prompt) in enumerate(zip(part, prompted, strict=True)):
                states.append(self._weighed(self._states(output, index, prompt.clip_skip), chunk, prompt.emphasis))
                pooled.append(None if projected is None else projected[index : index + 1])
        encoded, first = [], 0
        for own in chunks:
            joined = states[first] if len(own) == 1 else torch.cat(states[first : first + len(own)], dim=1)
            encoded.append(Encoded(joined, pooled[first]))
            first += len(own)
        return encoded

    def _chunks(self, prompts: Sequence[Prompt]) -> list[list[list[Token]]]:
        wordings = [prompt.wording or (Fragment(prompt.text),) for prompt in prompts]
        texts = [part.text for wording in wordings for part in wording if isinstance(part, Fragment) and not part.learned]
        ids: Iterator[list[int]] = iter(
            self._tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids if texts else ()
        )
        return [
            chunked(self._groups(prompt, wording, ids), self._places - 2, comma=self._comma, most=self._most)
            for prompt, wording in zip(prompts, wordings, strict=True)
        ]

    def _groups(
        self, prompt: Prompt, wording: Iterable[Fragment | Break], ids: Iterator[list[int]]
    ) -> Iterator[Sequence[Token] | None]:
        """What belongs together of one prompt; ``ids`` are those of its texts, in order."""
        known = {inversion.name: inversion for inversion in prompt.learned}
        for part in wording:
            if isinstance(part, Break):
                yield None
            elif part.learned:
                vectors = known[part.text].vectors(self.module.config.hidden_size)
                yield [Token(self._tokenizer.pad_token_id, part.weight, vector) for vector in vectors]
            else:
                yield from ([Token(each, part.weight)] for each in next(ids))

    def _read(self, chunks: Sequence[Sequence[Token]], *, layers: bool) -> Any:
        """The module over ``chunks``, each between its first and last token and padded."""
        begin, end, pad = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        rows = [[begin, *(token.id for token in chunk), end] for chunk in chunks]
        ids = torch.tensor([row + [pad] * (self._places - len(row)) for row in rows])
        device = self.module.device
        mask = None
        if getattr(self.module.config, "use_attention_mask", False):
            mask = torch.tensor([[1] * len(row) + [0] * (self._places - len(row)) for row in rows]).to(device)
        with self._learned(chunks):
            return self.module(ids.to(device), attention_mask=mask, output_hidden_states=layers)

    @contextmanager
    def _learned(self, chunks: Sequence[Sequence[Token]]) -> Iterator[None]:
        """While it lasts, learned vectors take their places behind the embedding layer; the vocabulary stays as it is."""
        places = [
            (row, place, token.vector)
            for row, chunk in enumerate(chunks)
            for place, token in enumerate(chunk, start=1)
            if token.vector is not None
        ]
        if not places:
            yield
            return
        rows, columns = [row for row, _, _ in places], [column for _, column, _ in places]
        vectors = torch.stack([vector for _, _, vector in places])

        def put(_layer: Any, _given: Any, embedded: torch.Tensor) -> torch.Tensor:
            changed = embedded.clone()
            changed[rows, columns] = vectors.to(embedded.device, embedded.dtype)
            return changed

        handle = self.module.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()

    def _states(self, output: Any, index: int, clip_skip: int) -> torch.Tensor:
        row = slice(index, index + 1)
        if self._penultimate:
            states: torch.Tensor = output.hidden_states[-(clip_skip + 2)][row]
        elif clip_skip == 0:
            states = output.last_hidden_state[row]
        else:
            # The last layer norm belongs to the embedding wherever it is tapped.
            inner = getattr(self.module, "text_model", self.module)
            states = inner.final_layer_norm(output.hidden_states[-(clip_skip + 1)][row])
        return states.to(self.module.dtype)

    def _weighed(self, states: torch.Tensor, chunk: Sequence[Token], emphasis: Emphasis) -> torch.Tensor:
        """``states`` [1, 77, W] of one chunk, each token's times its weight."""
        if emphasis is Emphasis.NONE or all(token.weight == 1.0 for token in chunk):
            return states
        ones = [1.0] * (self._places - 1 - len(chunk))
        weights = torch.tensor([1.0, *(token.weight for token in chunk), *ones], dtype=states.dtype).to(states.device)
        weighed = states * weights[None, :, None]
        if emphasis is Emphasis.ORIGINAL:
            factor = states.float().mean() / weighed.float().mean()
            # The mean may have become zero; there is nothing to put back then.
            weighed = weighed * torch.where(factor.isfinite(), factor, 1.0).to(states.dtype)
        return weighed
