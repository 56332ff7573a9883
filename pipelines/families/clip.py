"""One CLIP text encoder: prompts to token states, and to a pooled vector where the encoder has a projection."""

from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from pipelines.families.family import Prompt


class Encoded(msgspec.Struct, frozen=True):
    """One prompt: token states [1, 77, W], and the projected vector [1, P] if the encoder has a projection."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None


class ClipText:
    """A loaded CLIP text encoder with its tokenizer.

    ``penultimate`` taps the hidden states one layer early and leaves out the final norm, as SDXL and SD3 do; without it the
    last layer is read and a tap further up (clip skip) is normed, as SD 1 and 2 do.
    """

    def __init__(self, tokenizer: Any, module: Any, *, penultimate: bool = False) -> None:
        """Take a module that is already on its device, in evaluation mode."""
        self._tokenizer, self.module, self._penultimate = tokenizer, module, penultimate
        self.max_clip_skip: int = module.config.num_hidden_layers - (2 if penultimate else 1)

    def encode(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """States of each prompt; text past the tokenizer's length is cut, as in diffusers."""
        tokens = self._tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = self.module.device
        masked = getattr(self.module.config, "use_attention_mask", False)
        output = self.module(
            tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device) if masked else None,
            output_hidden_states=self._penultimate or any(prompt.clip_skip for prompt in prompts),
        )
        pooled = getattr(output, "text_embeds", None)
        return [
            Encoded(self._states(output, index, prompt.clip_skip), None if pooled is None else pooled[index : index + 1])
            for index, prompt in enumerate(prompts)
        ]

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
