"""A real worker on the CPU with room for two of three checkpoints: the pictures are those that unlimited memory makes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from test_worker import Process

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import (
    Completed,
    Failed,
    Generate,
    ImageDone,
    KnowModel,
    LoadModel,
    Memory,
    ModelFailed,
    ModelLoaded,
    ModelUnloaded,
)
from pipelines.contract.request import ImageRequest, Sampling

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Three SD checkpoints with a UNet of their own; VAE and text encoder are the same in all of them."""
    import torch
    from tiny import Tiny

    tiny, found = Tiny(), []
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        for tensor in tiny.unet.parameters():
            torch.nn.init.normal_(tensor, std=0.05)
        folder = tmp_path_factory.mktemp(name)
        tiny.pipeline("txt2img").save_pretrained(folder)
        found.append(ModelCard(id=name, source=f"dir:{folder}", family=Family.SD))
    return found


def requests():
    """Twenty-four of them, in bursts that change the model, with unlike samplers, steps and guidance."""
    order = "aabccabbcaacbabcbacccbac"
    for number, model in enumerate(order):
        sampling = Sampling(
            sampler=("euler", "ddim", "dpmpp_2m")[number % 3], steps=3 + number % 4, guidance_scale=4.0 if number % 2 else 1.0
        )
        yield ImageRequest(f"r{number}", model, f"picture {number}", 64, 64, (number,), sampling)


def bursts():
    """Three at a time; the next three come when they are done."""
    every = list(requests())
    return [every[first : first + 3] for first in range(0, len(every), 3)]


def start(*arguments):
    worker = Process("--device", "cpu", "--threads", "1", *arguments)
    worker.sock.settimeout(200)  # it imports torch and diffusers first
    return worker


def play(cards, *arguments):
    worker = start(*arguments)
    try:
        for card in cards:
            worker.send(KnowModel(card))
        events = []
        for burst in bursts():
            for request in burst:
                worker.send(Generate(request))
            ended = 0
            while ended < len(burst):
                event = worker.receive()
                assert event is not None, events
                events.append(event)
                ended += isinstance(event, (Completed, Failed))
    finally:
        worker.sock.close()
        worker.child.wait(timeout=60)
    assert not [event for event in events if isinstance(event, (Failed, ModelFailed))]
    return events


def pictures(events):
    done = [event for event in events if isinstance(event, ImageDone)]
    return {event.id: np.frombuffer(event.picture.data, np.uint8).astype(int) for event in done}


def loads(events):
    return [event.model for event in events if isinstance(event, ModelLoaded)]


@pytest.fixture(scope="module")
def unlimited(cards):
    events = play(cards)
    assert sorted(loads(events)) == list(NAMES)
    return events


def test_what_three_checkpoints_share_is_held_once(cards, unlimited):
    sizes = {event.model: event.facts.bytes for event in unlimited if isinstance(event, ModelLoaded)}
    held = [event for event in unlimited if isinstance(event, Memory)][-1]
    assert set(held.resident) == set(NAMES)
    assert held.device_bytes < 0.9 * sum(sizes.values())


@pytest.mark.parametrize("ram", [0, 4])
def test_pictures_are_the_same_while_models_come_and_go(cards, unlimited, ram):
    room = [event for event in unlimited if isinstance(event, Memory)]
    most = room[-1].device_bytes
    budget = most // 1_000_000
    assert room[1].device_bytes <= budget * 1_000_000 < most, "the budget in whole MB must hold two and not three"
    events = play(cards, "--memory-mb", str(budget), "--ram-mb", str(ram))
    made, wanted = pictures(events), pictures(unlimited)
    assert made.keys() == wanted.keys()
    # One level is the engine's promise: who shares a tick with whom depends on when requests arrive, and with it the last bit.
    assert max(np.abs(made[name] - wanted[name]).max() for name in made) <= 1
    evicted = [event for event in events if isinstance(event, ModelUnloaded)]
    assert evicted
    assert all(event.evicted for event in evicted)
    assert all(event.device_bytes <= budget * 1_000_000 for event in events if isinstance(event, Memory))
    assert 4 <= len(loads(events)) <= 24
    print(f"ram={ram}: {len(loads(events))} arrivals for 24 requests: {loads(events)}")


def test_a_checkpoint_that_can_never_fit_fails_at_once(cards):
    worker = start("--memory-mb", "0")
    worker.send(LoadModel(cards[0]))
    error = worker.until(ModelFailed)[-1].error
    worker.sock.close()
    worker.child.wait(timeout=60)
    assert error.code == "model_too_large"
    assert "this device has 0.0 MB" in error.message
