"""LoRA tags, learned words, and whole prompts; how the time grows with the length is counted, not measured."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contract.loras import LoraReference, extract
from pipelines.prompts.fragments import Break, Fragment, plain
from pipelines.prompts.learned import LearnedWords
from pipelines.prompts.script import Script


@pytest.mark.parametrize(
    ("text", "kept", "found"),
    [
        ("a <lora:paper cut> b", "a  b", [LoraReference("paper cut")]),
        ("<lora:x:0.5>", "", [LoraReference("x", 0.5, 0.5)]),
        ("<lora:x:0.5:0.8>", "", [LoraReference("x", 0.5, 0.8)]),
        ("<lora:x:unet=0.8>", "", [LoraReference("x", None, 0.8)]),
        ("<lora:x:te=0.3:unet=0>a<lyco:y:-1>", "a", [LoraReference("x", 0.3, 0), LoraReference("y", -1, -1)]),
        ("<lora:x:1e9><lora:y:nan><lora:z:lots>", "", [LoraReference("x", 20, 20), LoraReference("y"), LoraReference("z")]),
        ("<lora:> <lora::1> <lora:x", "<lora:> <lora::1> <lora:x", []),
        ("a < b > c <other:x:1>", "a < b > c <other:x:1>", []),
        ("[<lora:x:1>a:b:3]", "[a:b:3]", [LoraReference("x", 1, 1)]),
    ],
)
def test_lora_tags(text, kept, found):
    assert extract(text) == (kept, tuple(found))


def cues(text, steps=4, **options):
    return list(Script(text, **options).cues(steps))


def test_a_script_weighs_what_each_step_says():
    assert cues("a (b:1.2) [c:d:2]") == [
        (0, (Fragment("a "), Fragment("b", 1.2), Fragment(" c"))),
        (2, (Fragment("a "), Fragment("b", 1.2), Fragment(" d"))),
    ]
    assert cues("[(a|b):2]") == [(0, ()), (2, (Fragment("a|b", 1.1),))]
    assert cues("[x|y BREAK z]", 3) == [
        (0, (Fragment("x"),)),
        (1, (Fragment("y"), Break(), Fragment("z"))),
        (2, (Fragment("x"),)),
    ]


def test_what_does_not_change_is_said_once():
    assert cues("[a|a]") == [(0, (Fragment("a"),))]
    assert cues("") == [(0, ())]


def test_literal_leaves_weights_alone_but_not_changes():
    assert cues(r"(a:1.2) \( BREAK [b:c:2]", literal=True) == [
        (0, (Fragment(r"(a:1.2) \( BREAK b"),)),
        (2, (Fragment(r"(a:1.2) \( BREAK c"),)),
    ]


def test_plain_words():
    ((_, wording),) = cues("a (b:1.2) BREAK c")
    assert plain(wording) == "a b c"


def test_learned_words_stand_alone_in_any_case():
    words = LearnedWords(["bad-hands", "bad-hands-5", "easynegative"])
    ((_, wording),) = cues("EasyNegative, (bad-hands-5:1.4), easynegatives BREAK not_easynegative")
    assert words.mark(wording) == (
        Fragment("easynegative", learned=True),
        Fragment(", "),
        Fragment("bad-hands-5", 1.4, learned=True),
        Fragment(", easynegatives"),
        Break(),
        Fragment("not_easynegative"),
    )
    assert LearnedWords([]).mark(wording) is wording


def test_a_learned_word_in_odd_letters_is_still_the_one_that_is_known():
    assert LearnedWords(["Easy", "x"]).mark((Fragment("ea\u017fy X", 2.0),)) == (
        Fragment("easy", 2.0, learned=True),
        Fragment(" ", 2.0),
        Fragment("x", 2.0, learned=True),
    )


HARD = ("([)]", "(", "[", "[a:", ":5]", "[a|b]", "<lora:", "\\", " ", ": ", ":1", "BREAK ", "(a:1.3)", "🟥ش", "|", "(((a) ")


def lines(text):
    """How many lines of our own code run while ``text`` is read: a measure of work that no other program disturbs."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if "pipelines/prompts" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        list(Script(text).cues(2))
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("piece", HARD)
def test_work_grows_with_the_length_and_no_faster(piece):
    short, long = (lines(piece * count) for count in (200, 800))
    assert long <= 4 * short + 400


@pytest.mark.parametrize("piece", HARD)
def test_ten_thousand_characters_are_read(piece):
    assert cues(piece * (10_000 // len(piece)))


@given(st.text(), st.integers(1, 5), st.booleans())
def test_any_text_is_a_script(text, steps, literal):
    found = cues(text, steps, literal=literal)
    assert found[0][0] == 0
    begins = [begin for begin, _ in found]
    assert begins == sorted(set(begins))
    assert begins[-1] < steps
    assert all(hash(wording) is not None for _, wording in found)
