"""What a word for quality means in steps."""

from pipelines.contract.catalog import ModelCard

QUALITY_WORDS = {"standard": "medium", "hd": "high"}
"""What clients of dall-e-3 say."""


def steps_for(quality: str | None, card: ModelCard) -> int:
    """Steps for a quality word; a word nobody knows means the default, as new ones keep coming."""
    usual, most = card.defaults.steps, card.limits.max_steps
    presets = {"low": max(1, usual // 2), "medium": usual, "high": min(most, usual * 3 // 2), **card.qualities}
    best = max(presets["high"], *card.qualities.values(), 1)
    presets = {"xhigh": best, "max": presets.get("xhigh", best), **presets}
    word = (quality or "auto").lower()
    return presets.get(QUALITY_WORDS.get(word, word) if word not in presets else word, usual)
