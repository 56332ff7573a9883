"""Weights: what A1111's documentation shows, and what nobody should write."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prompts.attention import weighted
from pipelines.prompts.fragments import MAX_WEIGHT, Break, Fragment, plain, size


def read(text):
    return [(part.text, part.weight) if isinstance(part, Fragment) else "BREAK" for part in weighted(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("unbalanced)", [("unbalanced)", 1)]),
        ("(a]", [("a]", 1.1)]),
        ("a)b]c", [("a)b]c", 1)]),
        ("[less", [("less", 0.909091)]),
        ("[[less]] (more)", [("less", 0.826446), (" ", 1), ("more", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        (r"a \(b:1.2\) \[c\] \\", [(r"a (b:1.2) [c] \\"[:-1], 1)]),
        ("a\\", [("a", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("un()touched[]", [("untouched", 1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("a[b)c]", [("a", 1), ("b)c", 0.909091)]),
        ("(a[b)c]", [("a", 1.1), ("b", 1), ("c", 0.909091)]),
        ("(a: 1.5 )", [("a", 1.5)]),
        ("(a:+2)(b:-1)", [("a", 2), ("b", -1)]),
        ("((a:0):5) b", [("a", 0), (" b", 1)]),
        ("(a:-2) (b:(c:-3):-1)", [("a", -2), (" ", 1), ("b:", -1), ("c", 3)]),
        ("16:9 :) (at 12:30)", [("16:9 :) ", 1), ("at 12", MAX_WEIGHT)]),
        ("(a:1000000000)", [("a", MAX_WEIGHT)]),
        ("(a:-1000000000)", [("a", -MAX_WEIGHT)]),
        (
            "(a:1e9) (b:nan) (c:1.2.3) (d:inf)",
            [("a:1e9", 1.1), (" ", 1), ("b:nan", 1.1), (" ", 1), ("c:1.2.3", 1.1), (" ", 1), ("d:inf", 1.1)],
        ),
        ("(a:" + "9" * 5000 + ")", [("a", MAX_WEIGHT)]),
        ("a BREAK b", [("a", 1), "BREAK", ("b", 1)]),
        ("BREAK", ["BREAK"]),
        ("a\nBREAK\n BREAK b", [("a", 1), "BREAK", "BREAK", ("b", 1)]),
        ("a, BREAKFAST, break", [("a, BREAKFAST, break", 1)]),
        ("(a BREAK b:1.2) c", [("a", 1.2), "BREAK", ("b", 1.2), (" c", 1)]),
        ("(a 🟥:1.2) 🏳️‍🌈", [("a 🟥", 1.2), (" 🏳️‍🌈", 1)]),
        ("كلب (قطة:1.3) חתול", [("كلب ", 1), ("قطة", 1.3), (" חתול", 1)]),
    ],
)
def test_golden(text, expected):
    assert read(text) == expected


def test_deep_and_long():
    assert read("(" * 5000 + "a" + ")" * 5000 + "b") == [("a", MAX_WEIGHT), ("b", 1)]
    assert read("[" * 5000 + "a" + "]" * 5000 + "b") == [("a", 0), ("b", 1)]
    assert read("(" * 2000 + "[" * 2000 + "a" + "]" * 2000 + ")" * 2000) == [("a", 1)]
    assert read("(a:2)" * 2000) == [("a" * 2000, 2)]
    word = "".join(chr(0x4E00 + index) for index in range(10_000))
    assert read(word) == [(word, 1)]


def test_equal_products_of_unlike_factors_are_one_piece():
    assert read("((un:1.1):1.2)((broken:1.2):1.1)") == [("unbroken", 1.32)]


@given(st.text())
def test_any_text_is_a_wording_with_bounded_weights(text):
    parts = weighted(text)
    assert hash(parts) == hash(weighted(text))
    for part in parts:
        assert isinstance(part, Break) or (part.text and -MAX_WEIGHT <= part.weight <= MAX_WEIGHT)
    assert size(parts) >= len(plain(parts).replace(" ", "").encode())


@given(st.text(alphabet="()[]:\\.19 aBREK\n"))
def test_any_text_of_signs_keeps_its_letters(text):
    parts = weighted(text)
    said = "".join(part.text if isinstance(part, Fragment) else "BREAK" for part in parts)
    assert [letter for letter in said if letter in "aBREK"] == [letter for letter in text if letter in "aBREK"]
    neighbours = itertools.pairwise(parts)
    assert all(isinstance(a, Break) or isinstance(b, Break) or a.weight != b.weight for a, b in neighbours)


@given(st.text(alphabet="abc ,.'é🟥"))
def test_text_without_signs_is_one_piece_of_itself(text):
    assert weighted(text) == ((Fragment(text),) if text else ())
