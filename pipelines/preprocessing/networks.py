"""Annotators with weights: controlnet-aux's networks, filled by us.

Its own ``from_pretrained`` asks the hub and unpickles; neither happens here. Each opener takes the tensors of each of the files
that `pipelines.contract.preprocessing` lists, and gives what its runner needs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import torch

from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.preprocessing import Options
from pipelines.preprocessing.annotators import annotator
from pipelines.preprocessing.checkpoint import Tensors, fill
from pipelines.preprocessing.pixels import Pixels

_POINTS = 16
"""Along a side, at which Segment Anything looks for things: half of its default, which takes minutes on a CPU."""


class Opened(msgspec.Struct, frozen=True):
    """Networks ready to run."""

    detector: Any
    networks: tuple[Any, ...]

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(tensor.nbytes for network in self.networks for tensor in network.state_dict().values())


def _hed(files: Sequence[Tensors]) -> Opened:
    module = annotator("hed")
    network = fill(module.ControlNetHED_Apache2(), files[0], "HED")
    return Opened(module.HEDdetector(network), (network,))


def _pidinet(files: Sequence[Tensors]) -> Opened:
    module = annotator("pidi")
    network = fill(module.pidinet(), files[0], "PiDiNet")
    return Opened(module.PidiNetDetector(network), (network,))


def _lineart(files: Sequence[Tensors]) -> Opened:
    module = annotator("lineart")
    network = fill(module.Generator(3, 1, 3), files[0], "line art")
    return Opened(module.LineartDetector(network, network), (network,))


def _lineart_anime(files: Sequence[Tensors]) -> Opened:
    module = annotator("lineart_anime")
    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    network = fill(module.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False), files[0], "line art of anime")
    return Opened(module.LineartAnimeDetector(network), (network,))


def _midas(files: Sequence[Tensors]) -> Opened:
    model = annotator("midas.midas.dpt_depth").DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)
    network = fill(model, files[0], "MiDaS (DPT hybrid)")
    return Opened(annotator("midas").MidasDetector(network), (network,))


def _zoe(files: Sequence[Tensors]) -> Opened:
    module = annotator("zoe")
    model = module.ZoeDepth.build_from_config(module.get_config("zoedepth", "infer"))
    # The index of relative positions follows from the size; newer releases of timm do not save it.
    network = fill(model, files[0], "ZoeDepth", derived=("relative_position_index",))
    return Opened(module.ZoeDetector(network), (network,))


def _leres(files: Sequence[Tensors]) -> Opened:
    module = annotator("leres")
    network = fill(module.RelDepthModel(backbone="resnext101"), files[0], "LeReS")
    return Opened(module.LeresDetector(network, None), (network,))


def _normal_bae(files: Sequence[Tensors]) -> Opened:
    module = annotator("normalbae")
    told = SimpleNamespace(mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7)
    network = fill(module.NNET(told), files[0], "NormalBae")
    return Opened(module.NormalBaeDetector(network), (network,))


def _mlsd(files: Sequence[Tensors]) -> Opened:
    network = fill(annotator("mlsd").MobileV2_MLSD_Large(), files[0], "M-LSD")
    return Opened(network, (network,))


def _teed(files: Sequence[Tensors]) -> Opened:
    network = fill(annotator("teed.ted").TED(), files[0], "TEED")
    return Opened(annotator("teed").TEEDdetector(network), (network,))


def _anyline(files: Sequence[Tensors]) -> Opened:
    network = fill(annotator("teed.ted").TED(), files[0], "AnyLine's TEED")
    return Opened(annotator("anyline").AnylineDetector(network), (network,))


def _sam(files: Sequence[Tensors]) -> Opened:
    module = annotator("segment_anything")
    size = files[0].get("image_encoder.pos_embed")
    tiny = "image_encoder.patch_embed.seq.0.c.weight" in files[0]
    kind = "vit_t" if tiny else {1280: "vit_h", 1024: "vit_l", 768: "vit_b"}.get(0 if size is None else size.shape[-1])
    if kind is None:
        msg = "These are no weights for Segment Anything: its image encoder is missing, or of a size that is not known here."
        raise ModelLoadFailed(msg)
    network = fill(module.sam_model_registry[kind](), files[0], f"Segment Anything ({kind})", derived=("attention_bias_idxs",))
    generator = module.SamAutomaticMaskGenerator(network, points_per_side=_POINTS, points_per_batch=_POINTS)
    return Opened(generator, (network,))


def _openpose(files: Sequence[Tensors], *, hand: bool = False, face: bool = False) -> Opened:
    """Body, and then hand and face; the constructors of its parts unpickle, so they are not called."""
    module, models = annotator("open_pose"), annotator("open_pose.model")
    left = list(files)
    body = _part(module.Body, models.bodypose_model(), left.pop(0), "OpenPose's body")
    hands = _part(module.Hand, models.handpose_model(), left.pop(0), "OpenPose's hand") if hand else None
    faces = None
    if face:
        parts = annotator("open_pose.face")
        faces = object.__new__(module.Face)
        faces.inference_size, faces.sigma, faces.threshold = (
            parts.params[key] for key in ("inference_img_size", "gaussian_sigma", "heatmap_peak_thresh")
        )
        faces.model = fill(parts.FaceNet(), left.pop(0), "OpenPose's face")
    found = tuple(part.model for part in (body, hands, faces) if part is not None)
    return Opened(module.OpenposeDetector(body, hands, faces), found)


def _part(kind: Any, network: Any, weights: Tensors, what: str) -> Any:
    part = object.__new__(kind)
    # The files have the layers without the blocks that the network keeps them in.
    blocks = {name.partition(".")[2]: name for name in network.state_dict()}
    part.model = fill(network, {blocks.get(name, name): tensor for name, tensor in weights.items()}, what)
    return part


OPENERS: Mapping[str, Callable[[Sequence[Tensors]], Opened]] = {
    "hed": _hed,
    "pidinet": _pidinet,
    "lineart": _lineart,
    "lineart_coarse": _lineart,
    "lineart_anime": _lineart_anime,
    "midas": _midas,
    "zoe": _zoe,
    "leres": _leres,
    "normal_bae": _normal_bae,
    "mlsd": _mlsd,
    "teed": _teed,
    "anyline": _anyline,
    "sam": _sam,
    "openpose": _openpose,
    "openpose_hand": partial(_openpose, hand=True),
    "openpose_face": partial(_openpose, face=True),
    "openpose_full": partial(_openpose, hand=True, face=True),
}
"""By the names of `pipelines.contract.preprocessing.Weights`."""


def _detect(opened: Opened, pixels: Pixels, _options: Options, **more: Any) -> Any:
    """The detector at the size of ``pixels``, whose sides are such that it changes nothing about it."""
    side = min(pixels.shape[:2])
    return opened.detector(pixels, detect_resolution=side, image_resolution=side, output_type="np", **more)


def _own_size(opened: Opened, pixels: Pixels, _options: Options) -> Any:
    return opened.detector(pixels, detect_resolution=min(pixels.shape[:2]), output_type="np")


def _nearness(opened: Opened, pixels: Pixels, options: Options) -> Any:
    return _detect(opened, pixels, options, thr_a=options["remove_near"], thr_b=options["remove_background"])


def _normals(opened: Opened, pixels: Pixels, options: Options) -> Any:
    return _detect(opened, pixels, options, bg_th=options["background_threshold"], depth_and_normal=True)[1]


def _straight(opened: Opened, pixels: Pixels, options: Options) -> Any:
    """Like its detector, which takes every error for a picture without lines."""
    canvas = np.zeros(pixels.shape, np.uint8)
    with torch.no_grad():
        try:
            lines = annotator("mlsd.utils").pred_lines(
                pixels, opened.detector, list(pixels.shape[:2]), options["score_threshold"], options["distance_threshold"]
            )
        except IndexError:  # it found none
            return canvas
    for ends in lines:
        x0, y0, x1, y1 = (int(value) for value in ends)
        cv2.line(canvas, (x0, y0), (x1, y1), (255, 255, 255), 1)
    return canvas


def _segments(opened: Opened, pixels: Pixels, options: Options) -> Any:
    """The larger first, each in a colour drawn from the seed."""
    with torch.no_grad():
        masks = opened.detector.generate(pixels)
    canvas = np.zeros(pixels.shape, np.uint8)
    colours = np.random.default_rng(int(options["seed"]))
    for mask in sorted(masks, key=lambda each: int(each["area"]), reverse=True):
        canvas[mask["segmentation"]] = colours.integers(0, 256, size=3, dtype=np.uint8)
    return canvas


RUNNERS: Mapping[str, Callable[[Opened, Pixels, Options], Any]] = {
    "lineart_realistic": _detect,
    "lineart_coarse": _detect,
    "lineart_anime": _detect,
    "softedge_hed": _detect,
    "softedge_hedsafe": partial(_detect, safe=True),
    "softedge_pidinet": _detect,
    "softedge_pidisafe": partial(_detect, safe=True),
    "softedge_teed": _own_size,
    "softedge_anyline": _own_size,
    "scribble_hed": partial(_detect, scribble=True),
    "scribble_hedsafe": partial(_detect, scribble=True, safe=True),
    "scribble_pidinet": partial(_detect, scribble=True),
    "scribble_pidsafe": partial(_detect, scribble=True, safe=True),
    "depth_midas": _detect,
    "depth_zoe": _detect,
    "depth_leres": _nearness,
    "normal_bae": _detect,
    "normal_midas": _normals,
    "openpose": _detect,
    "openpose_hand": partial(_detect, include_hand=True),
    "openpose_face": partial(_detect, include_face=True),
    "openpose_faceonly": partial(_detect, include_body=False, include_face=True),
    "openpose_full": partial(_detect, include_hand=True, include_face=True),
    "mlsd": _straight,
    "segment_anything": _segments,
}
"""By the ids of `pipelines.contract.preprocessing`."""
