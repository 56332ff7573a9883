"""Changes over the steps: what A1111's documentation shows, and what nobody should write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contract.editing import Plan


def texts(text, steps=10):
    """[(last step, text)], as A1111 writes schedules."""
    plan = Plan(text)
    begins = plan.turns(steps)
    ends = [*(begin - 1 for begin in begins[1:]), steps]
    return [(end, plan.text(begin, steps)) for begin, end in zip(begins, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [(10, "")]),
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [b:3 ]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[fe|]male", [(step, "male" if step % 2 == 0 else "female") for step in range(1, 11)]),
        ("[fe|||]male", [(step, "female" if step % 4 == 1 else "male") for step in range(1, 11)]),
        ("[a|(b:1.1)]", [(step, "(b:1.1)" if step % 2 == 0 else "a") for step in range(1, 11)]),
        ("[a|[b:c:4]]", [(step, "a" if step % 2 else "b" if step <= 4 else "c") for step in range(1, 11)]),
        ("([a:b:3])", [(3, "(a)"), (10, "(b)")]),
        ("[a::5]", [(5, "a"), (10, "")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:0.29]", [(2, "a"), (10, "b")]),
        ("[a:b:-3]", [(10, "b")]),
        ("[a:b:400]", [(10, "a")]),
        ("[a:b:1e999]", [(10, "a")]),
        ("[a:b:" + "9" * 5000 + "]", [(10, "a")]),
        ("[a:b:nan]", [(10, "[a:b:nan]")]),
        ("[a:b:c:5]", [(10, "[a:b:c:5]")]),
        ("[a:b]", [(10, "[a:b]")]),
        (r"\[a:b:5]", [(10, r"\[a:b:5]")]),
        (r"[a\:b:5]", [(5, ""), (10, r"a\:b")]),
        ("x | y: z", [(10, "x | y: z")]),
        ("(x|y)", [(10, "(x|y)")]),
        ("[(a:b:5]", [(10, "[(a:b:5]")]),
        ("[cat :) :dog:5]", [(10, "[cat :) :dog:5]")]),
        ("[🟥:كلب:5] 🏳️‍🌈", [(5, "🟥 🏳️‍🌈"), (10, "كلب 🏳️‍🌈")]),
    ],
)
def test_golden(text, expected):
    assert texts(text) == expected


def test_the_longer_example_of_the_documentation():
    text = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert texts(text, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


def test_deep_and_long():
    deep = "[a:" * 5000 + "b" + ":5]" * 5000
    assert texts(deep) == [(5, "a"), (10, "b")]
    assert [text for _, text in texts("[" * 5000 + "a" + "]" * 5000)] == ["[" * 5000 + "a" + "]" * 5000]
    assert [text for _, text in texts("(" * 10_000)] == ["(" * 10_000]
    assert [text for _, text in texts("[x|" * 5000 + "a" + "]" * 5000, 2)] == ["x", "a"]
    assert len(texts("[a:b:7] " * 2000)) == 2


@given(st.text(alphabet="[]()|:\\.019ab "), st.integers(1, 12))
def test_any_text_is_a_plan(text, steps):
    plan = Plan(text)
    begins = plan.turns(steps)
    assert begins[0] == 1
    assert begins == sorted(set(begins))
    assert begins[-1] <= steps
    for step in range(1, steps + 1):
        latest = max(begin for begin in begins if begin <= step)
        assert plan.text(step, steps) == plan.text(latest, steps)


@given(st.text())
def test_text_without_colon_and_bar_is_itself(text):
    text = text.replace(":", "").replace("|", "")
    assert texts(text) == [(10, text)]
