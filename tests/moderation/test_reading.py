"""What is screened is what the engine reads: compared with the engine's own reader."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.contract.enlarging import Enlarger, Hires
from pipelines.contract.errors import TooLarge
from pipelines.contract.loras import extract
from pipelines.contract.request import ImageRequest, Sampling, Style
from pipelines.prompts.fragments import plain
from pipelines.prompts.script import Script
from server.gateway.moderation.lists import Lists
from server.gateway.moderation.reading import texts


def request(prompt, steps=8, guidance=4.0, **more):
    return ImageRequest("a", "m", prompt, 64, 64, (1,), Sampling("euler", steps, guidance), **more)


def letters(text):
    return re.sub(r"[^a-z]", "", text.replace("BREAK", ""))


SYNTAX = st.lists(
    st.sampled_from([*"abcdef()[]:|\\ .", ":1.2)", ":0.5]", ":3]", "(n", "[x|", "BREAK", "\\(", "::4]", "<lora:a:1>"]),
    max_size=24,
).map("".join)


@given(SYNTAX, st.integers(1, 12), st.booleans())
@example("nu[x:d:3]e", 8, False)
@example("[nu|x]de", 8, False)
@example("(n)(u:1.3)[d]e", 8, False)
@settings(max_examples=400, deadline=None)
def test_every_text_that_the_engine_reads_is_screened(prompt, steps, literal):
    said = {letters(text) for text in texts(request(extract(prompt)[0], steps))}  # tags are gone when an order is made
    for _, wording in Script(prompt, literal=literal).cues(steps):
        assert letters(plain(wording)) in said


@pytest.mark.parametrize(
    "prompt",
    [
        "a (nude:1.3) woman",
        "((nu)de)",
        "n[u:u:0.5]de",
        "nu[:x:0.5]de",
        "[nu:x:4]de",
        "[x|nu]de",
        "[x|[y|nu]]de",
        "nu\\de",
        "\\(nude\\)",
        "[nude|nude|nude]",
        "a [cat:nude woman:0.9]",
        "(n:0.9)(u:1.1)de",
    ],
)
def test_syntax_hides_nothing(prompt):
    assert Lists().read(*texts(request(prompt, steps=10))).hits


def test_what_is_told_at_different_steps_belongs_together():
    (first, *_) = Lists().read(*texts(request("a [child:nude woman:0.5]"))).hits
    assert first.category in ("sexual", "sexual/minors")
    assert "sexual/minors" in {hit.category for hit in Lists().read(*texts(request("a [child:nude woman:0.5]"))).hits}


def test_styles_are_read_with_the_prompt_and_negative_prompts_are_not():
    style = Style("s", "nude study of {prompt}", "nude")
    assert "nude study of a hand" in texts(request("a hand", style=style))
    assert texts(request("a hand", negative_prompt="nude, child")) == ("a hand",)


def test_a_negative_prompt_that_is_turned_around_is_read():
    assert texts(request("a hand", negative_prompt="(nude:-1.2)")) == ("a hand", "nude")
    assert texts(request("a hand", guidance=1.0, negative_prompt="(nude:-1.2)")) == ("a hand",)


def test_later_passes_have_steps_of_their_own():
    hires = Hires(128, 128, Enlarger.LATENT, steps=30)
    assert "nude" not in texts(request("[cat:nude:20]", steps=8))
    assert "nude" in texts(request("[cat:nude:20]", steps=8, hires=hires))


def test_a_long_prompt_that_always_changes_is_refused():
    with pytest.raises(TooLarge):
        texts(request("[a|b|c] " + "x" * 30_000, steps=100))
