"""Every fault of the double, through our server, with the official client: what it saw, how often was asked, what was charged."""

import openai
import pytest

from tests.conftest import abandoned

FAULTS = {
    # fault (with markers): what the client sees, attempts, charge
    "429*2": ("a picture", 3, 1),
    "429": (503, "upstream_busy", 4, 0),
    "500*2": ("a picture", 3, 1),
    "500": (503, "upstream_unavailable", 4, 0),
    "504": (504, "upstream_ambiguous", 1, 1),
    "503-no-retry": (502, "upstream_failure", 1, 0),
    "slow": ("a picture", 1, 1),
    "cut": (504, "upstream_ambiguous", 1, 1),
    "json": (504, "upstream_ambiguous", 1, 1),
    "type": (504, "upstream_ambiguous", 1, 1),
    "reset": (504, "upstream_ambiguous", 1, 1),
    "hang": (504, "upstream_ambiguous", 1, 1),
    "empty": (504, "upstream_ambiguous", 1, 1),
    "not-a-picture": (504, "upstream_ambiguous", 1, 1),
    "moderation": (400, "moderation_blocked", 1, 0),
    "billing": (502, "upstream_misconfigured", 1, 0),
    "quota": (502, "upstream_misconfigured", 1, 0),
    "key": (502, "upstream_misconfigured", 1, 0),
}
STREAMED = {
    "429*1": ("a picture", 2, 1),
    "500*1": ("a picture", 2, 1),
    "504": ("upstream_ambiguous", 1, 1),
    "cut": ("upstream_ambiguous", 1, 1),
    "json": ("upstream_ambiguous", 1, 1),
    "empty": ("upstream_ambiguous", 1, 1),
    "reset": ("upstream_ambiguous", 1, 1),
    "type": ("upstream_ambiguous", 1, 1),
    "moderation": ("moderation_blocked", 1, 0),
    "chatter": ("a picture", 1, 1),
}


def seen(ask):
    """What came of it: a picture, or status and code."""
    try:
        return ("a picture",) if ask() else ("nothing",)
    except openai.APIStatusError as error:
        return error.status_code, error.code if "secret" not in str(error) else "our key"
    except openai.APIError as error:
        return (error.code,)


@pytest.fixture
def account(fresh, record_property):
    """Writes a row of the table at the end of the run; what was seen, attempts, charge."""

    def write(name, found):
        ledger = fresh.double.ledger
        row = {
            "fault": name,
            "the client saw": " ".join(map(str, found)),
            "attempts": ledger["attempts"],
            "charge": ledger["charged"],
        }
        record_property("table: faults of an upstream", row)
        assert ledger["charged"] <= 1, "no picture is paid for twice"
        return *found, ledger["attempts"], ledger["charged"]

    return write


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_survived_and_accounted_for(fresh, account, fault):
    road = "hasty" if fault == "hang" else "openai"
    found = seen(lambda: fresh.client.images.generate(prompt=f"a cat [fault:{fault}]", model=road).data[0].b64_json)
    assert account(fault, found) == FAULTS[fault]


@pytest.mark.parametrize("fault", STREAMED)
def test_every_fault_of_a_stream(fresh, account, fault):
    def ask():
        events = fresh.client.images.generate(prompt=f"[fault:{fault}]", model="openai", stream=True, partial_images=1)
        return [event for event in events if event.type == "image_generation.completed"]

    assert account(f"{fault}, streamed", seen(ask)) == STREAMED[fault]


def test_a_retired_model_has_a_successor(fresh, account):
    fresh.double.tell("faults", faults=["gone"])
    answer = fresh.client.images.with_raw_response.generate(prompt="a cat", model="openai")
    assert answer.parse().data[0].b64_json
    asked = [each["model"] for each in fresh.double.ledger["requests"]]
    assert asked == ["gpt-image-2.6-flare", "gpt-image-2.6-sunburst"]
    assert account("gone", ("a picture",)) == ("a picture", 2, 1)
    assert fresh.server.ready()["upstreams"][0]["model"] == "gpt-image-2.6-sunburst"
    assert fresh.server.metric('aquatint_upstream_model_days_left{model="gpt-image-2.6-flare",road="openai"}') == 0


def test_a_model_that_a_client_names_is_that_model_or_an_error(fresh, account):
    found = seen(lambda: fresh.client.images.generate(prompt="[fault:gone]", model="openai/gpt-image-1.5").data)
    assert account("gone, named", found) == (502, "upstream_model_gone", 1, 0)


def test_a_client_that_leaves_cancels_and_is_not_retried(fresh, until):
    with abandoned(fresh.server.url, "/v1/images/generations", {"prompt": "[fault:hang]", "model": "openai"}):
        until(lambda: fresh.double.ledger["attempts"] == 1, 30, "the attempt")
    name = 'aquatint_upstream_attempts_total{outcome="cancelled",road="openai"}'
    until(lambda: fresh.server.metric(name) >= 1, 30, "the attempt's end")
    assert fresh.double.ledger["attempts"] == 1


def test_a_broken_upstream_is_left_alone(fresh):
    for _ in range(2):
        seen(lambda: fresh.client.images.generate(prompt="[fault:500]", model="openai"))
    before = fresh.double.ledger["attempts"]
    found = seen(lambda: fresh.client.images.generate(prompt="a cat", model="openai"))
    assert (found, fresh.double.ledger["attempts"]) == ((503, "upstream_unavailable"), before)
    assert fresh.server.metric('aquatint_upstream_circuit{road="openai",state="open"}') == 1
    other = fresh.client.images.generate(prompt="a cat", model="hasty")
    assert other.data[0].b64_json, "the circuit of another upstream is another"
