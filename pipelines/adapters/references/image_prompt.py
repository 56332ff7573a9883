"""One IP-Adapter on the device: from a picture to tokens, and from tokens to the keys and values of each cross-attention."""

import hashlib
from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pipelines.adapters.references.image_encoder import ImageEncoder
from pipelines.adapters.references.layout import Layout, Variant
from pipelines.adapters.references.sites import Sites, check, cross_attentions
from pipelines.contract.picture import Picture

_REMEMBERED = 32
"""Pictures whose tokens are kept: a character comes back in many requests. At most 26 MB for a FULL adapter in float32."""


class ImagePrompt:
    """An opened IP-Adapter. It is bound to no network: all models of its family and precision share it."""

    __slots__ = ("__weakref__", "_projection", "_sites", "_tokens", "bytes", "encoder", "layers", "layout", "name")

    def __init__(self, name: str, layout: Layout, encoder: ImageEncoder, projection: Any, layers: Any) -> None:
        """``layers`` are linear layers without bias in the order of `Layout.layers`: keys first, then as many values."""
        self.name, self.layout, self.encoder, self.layers = name, layout, encoder, layers
        self._projection = projection
        own = (*projection.parameters(), *projection.buffers(), *layers.parameters())
        self.bytes = encoder.bytes + sum(tensor.nbytes for tensor in own)
        """With the image encoder, even if others look through the same one."""
        self._tokens: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._sites: WeakKeyDictionary[Any, Sites] = WeakKeyDictionary()

    def sites(self, network: Any) -> Sites:
        """Where it acts in ``network``; raises `Unsupported` for one that it was not made for."""
        found = self._sites.get(network)
        if found is None:
            found = cross_attentions(network)
            check(self.name, self.layout, found)
            self._sites[network] = found
        return found

    def tokens(self, picture: Picture) -> torch.Tensor:
        """What the positive prompt gets of ``picture``, [1, T, W]."""
        told = hashlib.sha256(f"{picture.mode} {picture.width} {picture.height} ".encode())
        told.update(picture.data)
        return self._remembered(told.digest(), picture)

    def silence(self) -> torch.Tensor:
        """What the negative prompt gets in a picture's place, [1, T, W]."""
        return self._remembered(b"", None)

    def _remembered(self, digest: bytes, picture: Picture | None) -> torch.Tensor:
        tokens = self._tokens.get(digest)
        if tokens is None:
            tokens = self._read(picture)
            if len(self._tokens) >= _REMEMBERED:
                self._tokens.popitem(last=False)
            self._tokens[digest] = tokens
        self._tokens.move_to_end(digest)
        return tokens

    def _read(self, picture: Picture | None) -> torch.Tensor:
        """As diffusers: where states are read, "no picture" is the states of a grey one; else an embedding of zeros."""
        if self.layout.variant is not Variant.PLAIN:
            seen = self.encoder.states(self.encoder.grey() if picture is None else self.encoder.pixels(picture))
        elif picture is None:
            seen = self.encoder.nothing()
        else:
            seen = self.encoder.embedding(self.encoder.pixels(picture))
        tokens: torch.Tensor = self._projection(seen)
        return tokens
