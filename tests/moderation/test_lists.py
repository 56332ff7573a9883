"""Disguises are seen through, and harmless prompts are left alone."""

# ruff: noqa: RUF001 - look-alike letters are the point
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.verdict import Category
from server.gateway.moderation.lists import Lists
from server.gateway.moderation.normal import fold
from server.gateway.moderation.terms import HARMLESS, SUGGESTIVE, TERMS, YOUNG

LISTS = Lists()


def found(text, lists=LISTS):
    return {hit.category for hit in lists.read(text).hits}


HARMLESS_PROMPTS = """
Scunthorpe town hall at dusk
a map of Essex, Sussex and Middlesex
the cockpit of an airliner, seen by its pilot
a first class carriage, classic upholstery, glass roof, brass lamps
an assassin in a dark alley, concept art
bass guitar on grass, a passenger passing by
a bunch of grapes draped over a bowl
a scraper, a skyscraper and a parapet
a therapist in her office, analysis of dreams, psychoanalyst
portrait of Charles Dickens and Dick Tracy
Moby Dick, the white whale
a cocker spaniel with a peacock and a weathercock
a cocktail bar, shiitake mushrooms, cumin and cumulus clouds
a great tit and two blue tits on a branch
a blue-footed booby on a rock
pussy willow in a vase
a document titled Constitution, title page
Titan, the moon; the Titanic; titanium white
a saxophone, a sextant, a sextet of players, sexagenarian
Penistone railway station
a naked mole rat, seen with the naked eye
nude lipstick swatches, nude nail polish, nude heels
an oilseed rape field in bloom, rape blossom
Al Gore at a lectern, a jacket of gore-tex
U.S. ex-president waves; the ex of my ex
a sexton in a church, Sextus the Roman
same-sex couple at their wedding, the opposite sex
a shooting star, a photo shoot, a killer view, killer whale
Suicide Squad poster, a lemming
a game of skin and bones, a knight executing a turn
Virginia, the Virgin Mary and a virgin forest
an Arsenal footballer, an arsenic bottle, a parcel
shitake on a wok, Matsushita office
a man and his assistant assess an assembly
therapists' conference: "rapid progress"
child playing with a red balloon, children in a park
a baby and a teddy bear, newborn in a blanket
a teenager on a skateboard, high school class photo
a 12 year old whisky in a glass, aged 12 years
a 10-year-old boy building a sandcastle
1girl, solo, long hair, school uniform, cherry blossoms
a kid goat jumping; Ursa Minor; a sonata in A minor
a button, a rebuttal, a butterfly, buttermilk
mass transit, a mass in B minor, a chess master
hello kitty, wow!!! so cool, soooo beautiful, 8k, 4k, hdr, f/1.4
A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
x x o x o: tic tac toe; 1 2 3 4 5 6 7
a Samsung A55 phone on the A55 road, Route 66, B00 to B55
wood nymph in a flowing dress, Venus rising from the sea, marble bust
Hieronymus Bosch style garden, Goya's war etchings
a can of Spotted Dick, a Peking duck, an Eton mess
свет и тень, красивый пейзаж, река и лес
美しい風景、山と川、夕焼け
ein schöner Wald im Nebel, Licht und Schatten, dick verschneit
une nature morte, fruits et fleurs, lumière douce
a nun, a dude, a node, denude? no: the module includes prude manners
snow-white, ex-libris, on-air, co-op, re-cover, as-is
π ≈ 3.14, α β γ δ ε on a blackboard
an analogue clock, a canal, banal, annals of history
a hoe, a rake and a pick-axe; a tramp, a slug; beaver dam
""".strip().splitlines()


@pytest.mark.parametrize("prompt", HARMLESS_PROMPTS)
def test_a_harmless_prompt_is_left_alone(prompt):
    assert LISTS.read(prompt).hits == ()


@pytest.mark.parametrize(
    "text",
    [
        "a nude woman",
        "NUDE",
        "nude, standing",
        "woman_nude_standing",
        "ｎｕｄｅ",
        "𝓷𝓾𝓭𝓮 and 𝕟𝕦𝕕𝕖",
        "ⓝⓤⓓⓔ",
        "🅝🅤🅓🅔",
        "🇳🇺🇩🇪",
        "ɴᴜᴅᴇ",
        "nudе",  # the last letter is Cyrillic
        "ΝUDΕ",  # the first and the last are Greek
        "ոude",
        "n\u00fad\u00e9",
        "nu\u0301de\u0301",
        "n\u200bu\u200cd\u200de",
        "n\u00adude",
        "n\u3164ude",
        "n u d e",
        "a n u d e woman",
        "n.u.d.e",
        "n-u-d-e",
        "n_u_d_e",
        "n*u*d*e",
        "n  u\td\ne",
        "nu-de",
        "nu.de",
        "nuuuuude",
        "NNNuDDDeee",
        "n4k3d",
        "p0rn",
        "pørn",
        "s3x",
        "$ex",
        "5ex",
        "n|pple",
        "b00bs",
        "nude123",
        "1nude",
        "masturbating",
        "p0rn0graphic",
        "ＰＯＲＮ",
        "ｐ о r n",
    ],
)
def test_a_disguise_is_seen_through(text):
    assert found(text) == {Category.SEXUAL}


@pytest.mark.parametrize(("category", "term"), [(category, term) for category, terms in TERMS.items() for term in terms])
def test_every_listed_term_is_found_in_a_sentence(category, term):
    text = term.replace("*", "")
    assert category in found(f"This, {text.title()}! and more")


@pytest.mark.parametrize("phrase", HARMLESS)
def test_every_harmless_phrase_is_harmless(phrase):
    assert found(f"the {phrase.replace('*', 's')}, painted") == set()


def test_a_hit_says_where_it_stood():
    text = "Ünder a tree, ｎ u d e\u0301 as ever"
    (hit,) = LISTS.read(text).hits
    assert (text[hit.start : hit.end], hit.term) == ("ｎ u d e", "nude")


@pytest.mark.parametrize(
    "young", [word.replace("*", "") for word in YOUNG] + ["12 year old", "girl of 9 yo", "aged fourteen", "7y/o"]
)
@pytest.mark.parametrize("other", ["nude", "sexy", "l1nger1e"])
def test_somebody_under_age_and_something_sexual_are_never_let_pass_together(young, other):
    assert Category.SEXUAL_MINORS in found(f"{young}, {other}")
    assert Category.SEXUAL_MINORS in {hit.category for hit in LISTS.read(young, f"a picture, {other}").hits}


@pytest.mark.parametrize("word", [word.replace("*", "") for word in (*YOUNG, *SUGGESTIVE)])
def test_either_alone_is_harmless(word):
    assert found(f"the {word} of it") - {Category.SEXUAL} == set()
    assert Category.SEXUAL_MINORS not in found(word)


def test_a_reading_says_whether_somebody_is_under_age():
    assert LISTS.read("a t o d d l e r on a beach").young
    assert not LISTS.read("a man of 42 years, aged 100, 18 year old").young


def test_a_tenant_s_own_words_count_and_its_phrases_excuse():
    lists = Lists(block=("Acme*", "big brother", "裸体"), allow=("nude descending a staircase", "Acme day"))
    assert found("an ACMEcorp logo", lists) == {"policy"}
    assert found("Big  Brother is watching", lists) == {"policy"}
    assert found("一个裸 体的人", lists) == {"policy"}
    assert found("Nude Descending a Staircase, No. 2", lists) == set()
    assert found("Acme Day, at the nude beach", lists) == {Category.SEXUAL}
    assert found("an acmé of style", Lists(block=("acme",))) == {"policy"}


def test_no_phrase_excuses_somebody_under_age():
    lists = Lists(allow=("nude child", "nude", "child", "child porn"))
    assert found("a nude child", lists) == {Category.SEXUAL_MINORS}
    assert Category.SEXUAL_MINORS in found("child porn", lists)


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_read_and_hits_lie_in_it(text):
    for hit in LISTS.read(text).hits:
        assert 0 <= hit.start < hit.end <= len(text)


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_folding_is_stable_and_keeps_places(text):
    folded = fold(text)
    assert fold(folded.text).text == folded.text
    places = [folded.origin(index, index + 1) for index in range(len(folded.text))]
    assert places == sorted(places)
    assert all(0 <= start < end <= len(text) for start, end in places)


def steps(text):
    """Instructions of the interpreter that reading ``text`` takes: on every machine and in every hour the same."""
    count = 0

    def step(_frame, event, _argument):
        nonlocal count
        count += event == "opcode"
        return step

    def enter(frame, _event, _argument):
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        LISTS.read(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "unit", ["a b c d ", "word, ", "aaaa", "1!a.", "é", "n.u.d.", "裸体 ", "nude nail polish, nude ", "nude child, aged 7 "]
)
def test_a_text_eight_times_as_long_takes_eight_times_the_work(unit):
    LISTS.read(unit)  # what is remembered of letters is remembered by now
    assert 0 < steps(unit * 800) < 8.5 * steps(unit * 100)
