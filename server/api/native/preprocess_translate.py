"""From what the contract knows of preprocessors to the native dialect's words: pure."""

import base64
from collections.abc import Mapping

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import Unsupported
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import PREPROCESSORS, PreprocessorSpec, card_for
from server.api.native.preprocess_schemas import (
    ParameterAnswer,
    PreprocessAnswer,
    PreprocessorAnswer,
    PreprocessorList,
    WeightsAnswer,
)


def listed(cards: Mapping[str, PreprocessorCard]) -> PreprocessorList:
    """Every preprocessor, and what it lacks beside the ``cards`` of models.yaml."""
    return PreprocessorList([_preprocessor(spec, cards) for spec in PREPROCESSORS])


def answer(spec: PreprocessorSpec, picture: Picture, png: bytes) -> PreprocessAnswer:
    """The control image as JSON."""
    return PreprocessAnswer(
        spec.id, picture.width, picture.height, f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    )


def prefers_json(accept: str) -> bool:
    """Whether an Accept header puts application/json before image/png; PNG where it does not care."""
    weights = {"application/json": 0.0, "image/png": 0.0}
    for part in accept.split(","):
        media, *parameters = (word.strip().lower() for word in part.split(";"))
        if media in weights:
            weights[media] = next((_quality(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    return weights["application/json"] > weights["image/png"]


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _preprocessor(spec: PreprocessorSpec, cards: Mapping[str, PreprocessorCard]) -> PreprocessorAnswer:
    lacking = card = None
    try:
        card = card_for(spec, cards)
    except Unsupported as error:
        lacking = error.message
    weights = spec.weights
    return PreprocessorAnswer(
        id=spec.id,
        aliases=spec.aliases,
        makes=spec.makes,
        summary=spec.summary,
        parameters=tuple(
            ParameterAnswer(each.name, each.kind, each.default, each.least, each.most, each.meaning)
            for each in spec.all_parameters
        ),
        weights=None if weights is None else WeightsAnswer(weights.repo, weights.files, card.source if card else None),
        ready=lacking is None,
        missing=lacking,
    )
