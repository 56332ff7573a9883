"""Annotators with networks, on random weights on disk: that they are read safely, run, and are kept within bounds."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from random_weights import write
from safetensors.torch import save_file

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.messages import Preprocess
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import PREPROCESSORS, find
from pipelines.preprocessing.checkpoint import tensors
from pipelines.preprocessing.networks import OPENERS
from pipelines.preprocessing.pixels import padded, read
from pipelines.preprocessing.preprocessors import Preprocessors

NOISE = np.random.default_rng(0).integers(0, 255, (100, 150, 3), np.uint8)
PICTURE = Picture(150, 100, "RGB", NOISE.tobytes())
LONG = {"depth_zoe", "segment_anything"}
QUICK = {"softedge_hed", "softedge_pidinet", "softedge_teed", "mlsd", "lineart_coarse"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Written as they are asked for: some take seconds."""
    return tmp_path_factory.mktemp("weights")


def card_for(id_, folder):
    for name in find(id_).weights.files:
        if not (folder / name).exists():
            write(folder, name)
    return PreprocessorCard(id_, f"dir:{folder}")


def work(id_, card, **options):
    return Preprocess("p", id_, card, PICTURE, {"resolution": 96, **options})


def pixels(picture):
    return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)


HUGE = (pytest.mark.slow,)
"""Beside a full-size checkpoint they would not fit 24 GB: one after the other, in the process of those."""


@pytest.mark.parametrize(
    "id_", [pytest.param(spec.id, marks=HUGE if spec.id in LONG else ()) for spec in PREPROCESSORS if spec.weights is not None]
)
@pytest.mark.timeout(900)
def test_each_runs_on_its_networks(id_, folder):
    preprocessors = Preprocessors()
    card = card_for(id_, folder)
    first = preprocessors.run(work(id_, card))
    assert (first.width, first.height, first.mode) == (144, 96, "RGB")
    assert preprocessors.opened == (find(id_).weights.name,)
    if id_ in QUICK:
        assert preprocessors.run(work(id_, card)) == first


def test_hed_is_controlnet_auxs(folder):
    from pipelines.preprocessing.annotators import annotator

    card = card_for("softedge_hed", folder)
    theirs = annotator("hed").HEDdetector.from_pretrained(str(folder))
    expected = theirs(padded(read(PICTURE, 96)), 128, 128, output_type="np")[:96, :144]
    assert np.array_equal(pixels(Preprocessors().run(work("softedge_hed", card))), expected)
    assert not np.array_equal(pixels(Preprocessors().run(work("softedge_hedsafe", card))), expected)


def test_pidinet_is_controlnet_auxs(folder):
    from pipelines.preprocessing.annotators import annotator

    card = card_for("softedge_pidinet", folder)
    theirs = annotator("pidi").PidiNetDetector.from_pretrained(str(folder))
    expected = theirs(padded(read(PICTURE, 96)), 128, 128, output_type="np")[:96, :144]
    assert np.array_equal(pixels(Preprocessors().run(work("softedge_pidinet", card))), expected)


def test_hands_and_faces_have_all_that_their_constructors_give_them(folder):
    card_for("openpose_full", folder)
    files = find("openpose_full").weights.files
    detector = OPENERS["openpose_full"]([tensors(folder / name) for name in files]).detector
    theirs = type(detector).from_pretrained(str(folder))
    noise = torch.rand(1, 3, 64, 64)
    for part in ("body_estimation", "hand_estimation", "face_estimation"):
        own, other = getattr(detector, part), getattr(theirs, part)
        assert {name: value for name, value in vars(own).items() if name != "model"} == {
            name: value for name, value in vars(other).items() if name != "model"
        }
        with torch.no_grad():
            assert all(torch.equal(mine, there) for mine, there in zip(own.model(noise), other.model(noise), strict=True))


def test_a_safetensors_file_does_as_well_as_a_pickle(folder, tmp_path):
    card = card_for("softedge_hed", folder)
    save_file(state_of_hed(folder), tmp_path / "ControlNetHED.safetensors")
    expected = Preprocessors().run(work("softedge_hed", card))
    for source in (f"dir:{tmp_path}", f"file:{tmp_path / 'ControlNetHED.safetensors'}"):
        assert Preprocessors().run(work("softedge_hed", PreprocessorCard("hed", source))) == expected


def state_of_hed(folder):
    return torch.load(folder / "ControlNetHED.pth", weights_only=True)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "ControlNetHED.pth"
    if form == "bare":
        path.write_bytes(pickle.dumps({"norm": Bomb()}))
    else:
        torch.save({"norm": Bomb()}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelLoadFailed) as told:
        Preprocessors().run(work("softedge_hed", PreprocessorCard("hed", f"dir:{tmp_path}")))
    assert told.value.param == "preprocessor"
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))  # noqa: S301 - that is the point
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ControlNetHED.pth", b"", "no safetensors file"),
        ("ControlNetHED.pth", b"hello", "no safetensors file"),
        ("ControlNetHED.pth", b"PK\x03\x04 cut short", "cannot be loaded"),
        ("other.pth", b"", "has none of ControlNetHED.safetensors, ControlNetHED.pth"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_words(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=says):
        Preprocessors().run(work("softedge_hed", PreprocessorCard("hed", f"dir:{tmp_path}")))


def test_the_weights_of_something_else_are_refused(folder):
    write(folder, "table5_pidinet.pth")
    with pytest.raises(ModelLoadFailed, match="no weights for HED"):
        Preprocessors().run(work("softedge_hed", PreprocessorCard("hed", f"file:{folder / 'table5_pidinet.pth'}")))


def test_a_wrong_shape_is_named(folder, tmp_path):
    card_for("softedge_hed", folder)
    state = state_of_hed(folder)
    state["norm"] = torch.zeros(3)
    torch.save(state, tmp_path / "ControlNetHED.pth")
    with pytest.raises(ModelLoadFailed, match=r"'norm' has shape \(3,\)"):
        Preprocessors().run(work("softedge_hed", PreprocessorCard("hed", f"dir:{tmp_path}")))


def test_one_file_is_not_enough_for_several(folder):
    card_for("openpose_full", folder)
    path = folder / "body_pose_model.pth"
    with pytest.raises(ModelLoadFailed, match=r"hand_pose_model\.pth"):
        Preprocessors().run(work("openpose_full", PreprocessorCard("openpose_full", f"file:{path}")))


def test_nothing_is_downloaded_when_downloads_are_off(monkeypatch):
    monkeypatch.delenv("AQUATINT_DOWNLOADS", raising=False)
    card = PreprocessorCard("hed", "hf:lllyasviel/Annotators")
    with pytest.raises(ModelLoadFailed, match="not in the cache, and downloads are off"):
        Preprocessors().run(work("softedge_hed", card))


def test_what_was_used_least_recently_leaves_first(folder):
    cards = {id_: card_for(id_, folder) for id_ in ("softedge_teed", "softedge_pidinet", "mlsd", "lineart_coarse")}
    preprocessors = Preprocessors(kept_bytes=10_000_000)  # teed 0.2 MB, pidinet 2.8, mlsd 6.4, lineart 17
    for id_ in ("softedge_teed", "softedge_pidinet", "mlsd", "softedge_teed"):
        preprocessors.run(work(id_, cards[id_]))
    assert preprocessors.opened == ("pidinet", "mlsd", "teed")
    preprocessors.run(work("lineart_coarse", cards["lineart_coarse"]))
    assert preprocessors.opened == ("lineart_coarse",), "the last one stays, whatever it takes"


def test_seeds_colour_the_segments():
    """The masks are given: finding them takes a minute on a CPU."""
    from pipelines.preprocessing.networks import RUNNERS, Opened

    class Masks:
        def generate(self, _pixels):
            large, small = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
            large[:48], small[8:16, 8:16] = True, True
            return [{"segmentation": small, "area": 64}, {"segmentation": large, "area": 48 * 64}]

    blank = np.zeros((64, 64, 3), np.uint8)
    first, again, other = (RUNNERS["segment_anything"](Opened(Masks(), ()), blank, {"seed": seed}) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) == 3
    assert (first[48:] == 0).all()
    assert (first[10, 10] != first[0, 0]).any(), "the smaller lies on top"


def test_the_heavy_package_is_never_imported(folder):
    card_for("softedge_hed", folder)
    program = f"""
import sys
from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.messages import Preprocess
from pipelines.contract.picture import Picture
from pipelines.preprocessing.preprocessors import Preprocessors
import torch
before = torch.get_num_threads()
import threading
def side():
    run = Preprocessors(threads=1).run
    dot = Picture(64, 64, "L", bytes(4096))
    run(Preprocess("p", "softedge_hed", PreprocessorCard("hed", "dir:{folder}"), dot, {{"resolution": 64}}))
    print("side", torch.get_num_threads())
thread = threading.Thread(target=side)
thread.start()
thread.join()
thread = threading.Thread(target=lambda: print("new", torch.get_num_threads() == before))
thread.start()
thread.join()
print("main", torch.get_num_threads() == before)
print("heavy", [name for name in ("mediapipe", "controlnet_aux", "timm", "skimage") if name in sys.modules])
"""
    environment = os.environ | {"OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["side 1", "new True", "main True", "heavy []"]
    assert done.stderr == ""
