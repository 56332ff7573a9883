"""What a card says over its checkpoint's scheduler config."""

from collections.abc import Mapping
from typing import Any

from pipelines.contract.catalog import Schedule

_OPTIONS = {
    "prediction_type": "prediction_type",
    "zero_snr": "rescale_betas_zero_snr",
    "timestep_spacing": "timestep_spacing",
    "shift": "shift",
}
"""The card's words and those of diffusers."""

_DEFAULTED = "_use_default_values"
"""Where diffusers notes which values are but a class's defaults: ``from_config`` leaves those out for another class."""


def overridden(config: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
    """A scheduler ``config`` with what ``schedule`` says; where that is None the config keeps its value."""
    words = {option: getattr(schedule, word) for word, option in _OPTIONS.items()}
    said = {option: value for option, value in words.items() if value is not None}
    if _DEFAULTED in config:
        said[_DEFAULTED] = [option for option in config[_DEFAULTED] if option not in said]
    return {**config, **said}
