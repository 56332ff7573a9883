import pytest

from server.catalog.loading import parse
from server.catalog.moderation import ModerationPolicy
from server.catalog.positions import CatalogError
from server.domain.verdict import Action, Category, Stage
from server.gateway.moderation.deciding import Finding, decide

MODELS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake}}
tenants:
  default: {moderation: {images: flag, block: [acme]}}
  art: {moderation: {prompt: flag, images: blur, categories: {sexual: off, violence: block}, fail: open}}
  free: {moderation: {prompt: off, images: off}}
"""


def policy(tenant):
    return parse(MODELS, name="models.yaml", folder=None).policy(tenant).moderation


def found(category, stage=Stage.PROMPT):
    return Finding(stage, "lists", {category: 1.0})


def test_entries_build_on_the_default():
    assert policy("other").block == policy("art").block == ("acme",)
    assert policy("free").images is False  # YAML's off


@pytest.mark.parametrize(
    ("tenant", "stage", "category", "action"),
    [
        ("other", Stage.PROMPT, "sexual", Action.BLOCK),
        ("other", Stage.PROMPT, "violence", Action.FLAG),
        ("other", Stage.PROMPT, "policy", Action.BLOCK),
        ("other", Stage.OUTPUT, "sexual", Action.FLAG),
        ("art", Stage.PROMPT, "hate", Action.FLAG),
        ("art", Stage.PROMPT, "sexual", Action.ALLOW),
        ("art", Stage.OUTPUT, "sexual", Action.ALLOW),
        ("art", Stage.OUTPUT, "violence", Action.BLUR),
        ("art", Stage.OUTPUT, "harassment", Action.FLAG),
        ("art", Stage.INPUT, "violence", Action.FLAG),
        ("free", Stage.PROMPT, "hate", Action.ALLOW),
        ("free", Stage.OUTPUT, "sexual", Action.ALLOW),
        ("free", Stage.PROMPT, "sexual/minors", Action.BLOCK),
        ("art", Stage.OUTPUT, "sexual/minors", Action.BLOCK),
    ],
)
def test_a_category_goes_as_far_as_policy_and_stage_let_it(tenant, stage, category, action):
    assert decide(policy(tenant), found(category, stage)).action is action


def test_the_worst_category_decides_and_those_let_pass_are_not_told():
    verdict = decide(policy("art"), Finding(Stage.OUTPUT, "x", {"sexual": 0.9, "violence": 0.8, "hate": 0.7}))
    assert (verdict.action, verdict.categories, verdict.scores) == (
        Action.BLUR,
        ("hate", "violence"),
        {"hate": 0.7, "violence": 0.8},
    )


def test_every_category_has_a_level():
    assert {ModerationPolicy().action(Stage.PROMPT, category.value) for category in Category} == {Action.BLOCK, Action.FLAG}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{prompt: on}", "say block or flag"),
        ("{prompt: maybe}", "prompt"),
        ("{categories: {sexual/minors: off}}", "cannot be switched off"),
        ("{categories: {sexual/minors: flag}}", "cannot be switched off"),
        ("{categories: {rude: block}}", "rude"),
        ("{threshold: 0}", "threshold"),
        ("{timeout: 600}", "timeout"),
        ("{block: ['*']}", "star"),
        ("{block: ['a*b']}", "star"),
        ("{block: ['!!']}", "no word"),
        ("{blok: [a]}", "blok"),
    ],
)
def test_a_wrong_section_is_refused_with_its_line(section, told):
    text = MODELS + f"  wrong: {{moderation: {section}}}\n"
    with pytest.raises(CatalogError, match=f"models.yaml:8: .*{told}"):
        parse(text, name="models.yaml", folder=None)
