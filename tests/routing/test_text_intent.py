"""Which prompts need legible text: single rules. The figures over hundreds of prompts are in test_router_benchmark.py."""

import re
import sys
from re import _constants as ops
from re import _parser as parser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.gateway import quotations as marks
from server.gateway import text_quoted, text_tokens
from server.gateway.quotations import quotations
from server.gateway.text_intent import READ, text_intent


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ('a sign "OPEN" and „ZU“', ["OPEN", "ZU"]),
        ("« Ouvert » et »Zu« und ‹x y›", ["Ouvert", "Zu", "x y"]),
        ("写着“营业中”「営業中」『本』《题》", ["营业中", "営業中", "本", "题"]),
        ("a mug 'World's Okayest Dad'", ["World's Okayest Dad"]),
        ("‘it’s here’ `code`", ["it’s here", "code"]),
        ('a 24" monitor, 12" x 16" print', []),
        ("a 6'2\" player, rock 'n' roll, the '90s, girls' bikes, '69 Mustang, dogs' bowls", []),
        ('a 5" plate with "EAT"', ["EAT"]),
        ('"a cat on a mat"', []),  # the whole prompt
        ('an open " that never closes', []),
        ('"" and "..."', []),
        ('two\nlines "split\nhere"', []),
        ('写着"营业中"', ["营业中"]),
    ],
)
def test_quotations(prompt, found):
    assert [each.text for each in quotations(prompt)] == found


@pytest.mark.parametrize(
    ("prompt", "literals"),
    [
        ('a neon sign that says "OPEN"', ("OPEN",)),
        ("a neon sign that says open", ("open",)),
        ("street art of the word LOVE made of roses", ("LOVE",)),
        ("ein Schild mit der Aufschrift „Vorsicht Hund“", ("Vorsicht Hund",)),
        ("「営業中」と書かれた看板", ("営業中",)),
        ('a logo for a roaster called "Black Heron"', ("Black Heron",)),
        ("graffiti spelling BE KIND on white tile", ("BE KIND",)),
        ("the letters P A X as an elephant", ("P A X",)),
        ("a restaurant menu with prices", ()),
    ],
)
def test_words_that_are_to_be_seen(prompt, literals):
    need = text_intent(prompt)
    assert need.needs_text, need
    assert need.score >= 0.5
    assert need.literals == literals
    assert need.reasons


@pytest.mark.parametrize(
    "prompt",
    [
        'a cat in the style of "Starry Night"',
        'a painting titled "Silence"',
        'Hopper\'s "Nighthawks" on Mars',
        'a "cute" monster',
        "a girl reading a book",
        "梵高《星空》的风格",
        "ゴッホの「星月夜」風の猫",
        "un chat dans le style de « La Nuit étoilée »",
        'a toddler shouting "mine"',
        "MASTERPIECE, BEST QUALITY, A CASTLE ON A HILL, 8K",
        "",
        "   ",
    ],
)
def test_what_only_looks_like_it(prompt):
    need = text_intent(prompt)
    assert not need.needs_text, need
    assert need.literals == ()
    assert need.reasons


def test_a_refusal_takes_away_all_but_what_is_quoted():
    assert not text_intent("a movie poster without title or credits").needs_text
    assert not text_intent("文字なし、看板のある通り").needs_text
    assert "refuses writing" in text_intent("an infographic, no text, no words").reasons[0]
    kept = text_intent('a sign saying "OPEN", no other text')
    assert (kept.needs_text, kept.literals) == (True, ("OPEN",))
    assert text_intent('a sign that reads "NO TEXT"').needs_text


def test_the_negative_prompt_refuses_too():
    assert text_intent("a movie poster").needs_text
    assert not text_intent("a movie poster", "blurry, text, watermark").needs_text
    assert text_intent("a movie poster", "misspelled text, bad anatomy").needs_text
    assert text_intent('a sign that says "HI"', "text, watermark").needs_text


def test_the_same_prompt_gets_the_same_answer():
    assert text_intent('a mug with "MONDAY"') == text_intent('a mug with "MONDAY"')


PIECES = st.sampled_from(
    ["sign", '"', "'", "“", "»", "写", "に", "no", "text", "that says", " ", "\n", ":", ",", "OPEN", "7", "«", "\ue000", "the"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES | st.characters(), max_size=60).map("".join), st.text(max_size=30))
def test_any_text_gets_an_answer(prompt, negative):
    need = text_intent(prompt, negative)
    assert 0 <= need.score <= 1
    assert need.needs_text is (need.score >= 0.5)
    assert all(literal.strip() for literal in need.literals)
    assert need.needs_text or not need.literals


def calls(prompt):
    """How many functions are called for ``prompt``, those of the standard library in C included."""
    count = 0

    def profile(_frame, event, _arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        text_intent(prompt)
    finally:
        sys.setprofile(None)
    return count


NASTY = [
    '"',
    "“",
    "'a ",
    "«a ",
    "sign ",
    "no ",
    "no text, ",
    "with the ",
    "写",
    "a: ",
    "OPEN ",
    "letter A ",
    "12:30 ",
    "a",
    "1",
    "“”",
    "(",
    "'",
]


@pytest.mark.parametrize("piece", NASTY)
def test_work_grows_with_the_prompt_and_then_no_more(piece):
    text_intent("warm")
    whole = 10_000 // len(piece)
    small, large, huge = (calls(piece * (whole * part // 16)) for part in (1, 2, 16))
    assert large <= 2.5 * small + 200
    assert huge <= calls(piece * (READ // len(piece) + 1)) + 20  # what comes after is not looked at


def repeats(tree, depth=0):
    """How deep unbounded repeats stand inside each other."""
    deepest = depth
    for op, argument in tree:
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            unbounded = argument[1] is ops.MAXREPEAT
            deepest = max(deepest, repeats(argument[2], depth + unbounded))
        elif op is ops.SUBPATTERN:
            deepest = max(deepest, repeats(argument[3], depth))
        elif op is ops.BRANCH:
            deepest = max([deepest, *(repeats(branch, depth) for branch in argument[1])])
        elif op in (ops.ASSERT, ops.ASSERT_NOT):
            deepest = max(deepest, repeats(argument[1], depth))
    return deepest


@pytest.mark.parametrize("module", [marks, text_tokens, text_quoted])
def test_no_pattern_can_backtrack_for_long(module):
    patterns = [value for value in vars(module).values() if isinstance(value, re.Pattern)]
    assert patterns
    for pattern in patterns:
        assert repeats(parser.parse(pattern.pattern, pattern.flags)) <= 1, pattern.pattern
        # One repeat followed by anything could still be quadratic when searched for: there is none.
        assert not any(
            op in (ops.MAX_REPEAT, ops.MIN_REPEAT) and argument[1] is ops.MAXREPEAT
            for op, argument in parser.parse(pattern.pattern, pattern.flags)[:-1]
        )
