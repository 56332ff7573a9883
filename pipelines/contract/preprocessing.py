"""Preprocessors: what makes a control image of an ordinary picture, under every name that users know, and what each can be told.

The table lives in the contract because the server lists them and refuses a wrong name or option before any work, without torch.
Who does the work behind an id is `pipelines.preprocessing`; a test holds the two together. Ids are those of A1111's ControlNet
extension where it has one.
"""

import math
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported

Value = int | float
Options = dict[str, Value]
"""What a preprocessor is told, by the names of its parameters."""

MAX_PIXELS = 16_777_216
"""Of a control image: 4096 x 4096."""


class Makes(StrEnum):
    """What the control image shows."""

    EDGES = "edges"
    LINES = "lines"
    SCRIBBLE = "scribble"
    DEPTH = "depth"
    NORMALS = "normals"
    POSE = "pose"
    SEGMENTS = "segments"
    COLOURS = "colours"
    PICTURE = "picture"
    """The picture itself, changed a little."""


class Kind(StrEnum):
    """What values a parameter takes."""

    INTEGER = "integer"
    NUMBER = "number"


class Parameter(msgspec.Struct, frozen=True):
    """One thing that a preprocessor can be told."""

    name: str
    kind: Kind
    default: Value
    meaning: str
    least: float
    most: float


class Weights(msgspec.Struct, frozen=True):
    """What a preprocessor's networks are read from; several preprocessors may share one."""

    name: str
    repo: str
    """Where users get them: a repository of the hub, OWNER/NAME."""
    files: tuple[str, ...]
    """Paths in that repository."""


class PreprocessorSpec(msgspec.Struct, frozen=True):
    """One preprocessor."""

    id: str
    makes: Makes
    summary: str
    aliases: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    """Beside ``resolution``, which all have."""
    weights: Weights | None = None
    """None: it needs none, and always works."""

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """``resolution`` and its own."""
        return (RESOLUTION, *self.parameters)


def _integer(name: str, default: int, least: int, most: int, meaning: str) -> Parameter:
    return Parameter(name, Kind.INTEGER, default, meaning, least, most)


def _number(name: str, default: float, least: float, most: float, meaning: str) -> Parameter:
    return Parameter(name, Kind.NUMBER, default, meaning, least, most)


RESOLUTION = _integer("resolution", 512, 64, 2048, "Pixels of the shorter side: the picture is scaled to it first.")
_SEED = _integer("seed", 0, 0, 2**32 - 1, "The same seed gives the same result.")
_SIGMA = _number("sigma", 6.0, 0.1, 64.0, "Pixels: how far a line may reach.")
_GAMMA = _number("gamma", 1.0, 0.1, 4.0, "Above 1 darkens the middle tones, below 1 lightens them.")
_AUX = "lllyasviel/Annotators"

HED = Weights("hed", _AUX, ("ControlNetHED.pth",))
PIDINET = Weights("pidinet", _AUX, ("table5_pidinet.pth",))
LINEART = Weights("lineart", _AUX, ("sk_model.pth",))
LINEART_COARSE = Weights("lineart_coarse", _AUX, ("sk_model2.pth",))
LINEART_ANIME = Weights("lineart_anime", _AUX, ("netG.pth",))
MIDAS = Weights("midas", _AUX, ("dpt_hybrid-midas-501f0c75.pt",))
ZOE = Weights("zoe", _AUX, ("ZoeD_M12_N.pt",))
LERES = Weights("leres", _AUX, ("res101.pth",))
NORMAL_BAE = Weights("normal_bae", _AUX, ("scannet.pt",))
MLSD = Weights("mlsd", _AUX, ("mlsd_large_512_fp32.pth",))
BODY = Weights("openpose", _AUX, ("body_pose_model.pth",))
BODY_HAND = Weights("openpose_hand", _AUX, ("body_pose_model.pth", "hand_pose_model.pth"))
BODY_FACE = Weights("openpose_face", _AUX, ("body_pose_model.pth", "facenet.pth"))
BODY_FULL = Weights("openpose_full", _AUX, ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"))
TEED = Weights("teed", "fal-ai/teed", ("5_model.pth",))
ANYLINE = Weights("anyline", "TheMistoAI/MistoLine", ("Anyline/MTEED.pth",))
SAM = Weights("sam", "ybelkada/segment-anything", ("checkpoints/sam_vit_b_01ec64.pth",))

PREPROCESSORS: tuple[PreprocessorSpec, ...] = (
    PreprocessorSpec(
        "canny",
        Makes.EDGES,
        "Thin white edges on black (Canny 1986).",
        parameters=(
            _integer("low_threshold", 100, 1, 255, "Weaker edges are dropped."),
            _integer("high_threshold", 200, 1, 255, "Stronger edges are kept; those between only where they touch one."),
        ),
    ),
    PreprocessorSpec("sobel", Makes.EDGES, "Soft edges: the length of the gradient, by Sobel's kernel."),
    PreprocessorSpec("scharr", Makes.EDGES, "Soft edges: the length of the gradient, by Scharr's kernel."),
    PreprocessorSpec(
        "outlines",
        Makes.EDGES,
        "White outlines of what is lighter than a threshold.",
        parameters=(
            _integer("threshold", 127, 0, 255, "Lightness at which light begins."),
            _integer("width", 2, 1, 32, "Pixels of the outline's width."),
        ),
    ),
    PreprocessorSpec(
        "lineart_standard",
        Makes.LINES,
        "White lines on black, from dark lines on a lighter ground.",
        ("lineart", "standard_lineart"),
        (_SIGMA, _integer("intensity_threshold", 8, 0, 16, "Fainter lines do not count in the overall strength.")),
    ),
    PreprocessorSpec("lineart_realistic", Makes.LINES, "A fine line drawing.", ("lineart_detail",), weights=LINEART),
    PreprocessorSpec("lineart_coarse", Makes.LINES, "A coarse line drawing.", weights=LINEART_COARSE),
    PreprocessorSpec("lineart_anime", Makes.LINES, "A line drawing of an anime picture.", weights=LINEART_ANIME),
    PreprocessorSpec("softedge_hed", Makes.EDGES, "Soft edges by HED.", ("hed", "softedge"), weights=HED),
    PreprocessorSpec("softedge_hedsafe", Makes.EDGES, "HED in few grey levels.", ("hed_safe", "softedge_hed_safe"), weights=HED),
    PreprocessorSpec("softedge_pidinet", Makes.EDGES, "Soft edges by PiDiNet.", ("pidinet", "pidi"), weights=PIDINET),
    PreprocessorSpec(
        "softedge_pidisafe",
        Makes.EDGES,
        "PiDiNet in few grey levels.",
        ("pidinet_safe", "softedge_pidsafe", "softedge_pidinet_safe"),
        weights=PIDINET,
    ),
    PreprocessorSpec("softedge_teed", Makes.EDGES, "Soft edges by TEED.", ("teed",), weights=TEED),
    PreprocessorSpec("softedge_anyline", Makes.LINES, "TEED's edges and fine lines together.", ("anyline",), weights=ANYLINE),
    PreprocessorSpec(
        "scribble_hed", Makes.SCRIBBLE, "Thick strokes from HED's edges.", ("scribble", "fake_scribble"), weights=HED
    ),
    PreprocessorSpec("scribble_hedsafe", Makes.SCRIBBLE, "Thick strokes from HED in few grey levels.", weights=HED),
    PreprocessorSpec(
        "scribble_pidinet", Makes.SCRIBBLE, "Thick strokes from PiDiNet's edges.", ("t2ia_sketch_pidi",), weights=PIDINET
    ),
    PreprocessorSpec(
        "scribble_pidsafe",
        Makes.SCRIBBLE,
        "Thick strokes from PiDiNet in few grey levels.",
        ("scribble_pidisafe",),
        weights=PIDINET,
    ),
    PreprocessorSpec(
        "scribble_xdog",
        Makes.SCRIBBLE,
        "White strokes where the picture darkens sharply (extended difference of Gaussians).",
        ("xdog",),
        (_integer("threshold", 32, 1, 64, "Lower draws more."),),
    ),
    PreprocessorSpec("depth_midas", Makes.DEPTH, "Near is light; MiDaS (DPT hybrid).", ("midas", "depth"), weights=MIDAS),
    PreprocessorSpec("depth_zoe", Makes.DEPTH, "Near is light; ZoeDepth.", ("zoe", "zoedepth"), weights=ZOE),
    PreprocessorSpec(
        "depth_leres",
        Makes.DEPTH,
        "Near is light; LeReS.",
        ("leres",),
        (
            _number("remove_near", 0.0, 0.0, 100.0, "Per cent of the range: what is nearer is flattened."),
            _number("remove_background", 0.0, 0.0, 100.0, "Per cent of the range: what is farther turns black."),
        ),
        LERES,
    ),
    PreprocessorSpec(
        "normal_bae", Makes.NORMALS, "Directions of surfaces as colours.", ("normalbae", "normal"), weights=NORMAL_BAE
    ),
    PreprocessorSpec(
        "normal_midas",
        Makes.NORMALS,
        "Directions of surfaces as colours, from MiDaS' depth.",
        ("normal_map",),
        (_number("background_threshold", 0.4, 0.0, 1.0, "What is farther counts as flat background."),),
        MIDAS,
    ),
    PreprocessorSpec("openpose", Makes.POSE, "Skeletons of people.", ("pose", "openpose_body"), weights=BODY),
    PreprocessorSpec("openpose_hand", Makes.POSE, "Skeletons with hands.", weights=BODY_HAND),
    PreprocessorSpec("openpose_face", Makes.POSE, "Skeletons with faces.", weights=BODY_FACE),
    PreprocessorSpec("openpose_faceonly", Makes.POSE, "Faces only.", weights=BODY_FACE),
    PreprocessorSpec("openpose_full", Makes.POSE, "Skeletons with hands and faces.", weights=BODY_FULL),
    PreprocessorSpec(
        "mlsd",
        Makes.LINES,
        "Straight lines, for rooms and buildings.",
        ("m_lsd", "straight_lines"),
        (
            _number("score_threshold", 0.1, 0.01, 1.0, "Less certain lines are dropped."),
            _number("distance_threshold", 0.1, 0.01, 20.0, "Pixels: shorter lines are dropped."),
        ),
        MLSD,
    ),
    PreprocessorSpec("segment_anything", Makes.SEGMENTS, "A flat colour for each thing.", ("sam", "segment"), (_SEED,), SAM),
    PreprocessorSpec("shuffle", Makes.COLOURS, "The colours, stirred.", ("content_shuffle",), (_SEED,)),
    PreprocessorSpec(
        "color_grid",
        Makes.COLOURS,
        "Squares in their mean colour.",
        ("t2ia_color_grid", "colour_grid", "color"),
        (_integer("cell", 64, 8, 256, "Pixels along a side of a square."),),
    ),
    PreprocessorSpec(
        "recolor_luminance",
        Makes.PICTURE,
        "The luminance alone, to be coloured anew.",
        ("recolour_luminance", "recolor"),
        (_GAMMA,),
    ),
    PreprocessorSpec(
        "recolor_intensity", Makes.PICTURE, "The brightest of red, green and blue alone.", ("recolour_intensity",), (_GAMMA,)
    ),
    PreprocessorSpec("grey", Makes.PICTURE, "The picture without its colours.", ("gray", "grayscale", "greyscale")),
    PreprocessorSpec("invert", Makes.PICTURE, "The negative: white lines of black ones.", ("inverted",)),
    PreprocessorSpec(
        "threshold",
        Makes.PICTURE,
        "White where the picture is lighter than a threshold, black elsewhere.",
        ("binary",),
        (_integer("threshold", 127, 0, 255, "Lightness at which white begins."),),
    ),
    PreprocessorSpec(
        "blur_gaussian",
        Makes.PICTURE,
        "The picture out of focus.",
        ("blur",),
        (_number("sigma", 9.0, 0.1, 64.0, "Pixels: how far each one is spread."),),
    ),
    PreprocessorSpec(
        "tile_resample",
        Makes.PICTURE,
        "The picture with its details taken away, for models that invent new ones.",
        ("tile",),
        (_number("factor", 1.0, 1.0, 8.0, "How many times smaller it is made before it is enlarged again."),),
    ),
)

_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("dw_openpose", "dw_openpose_full", "dwpose"), "it needs mmpose, which no longer installs: use 'openpose_full'"
    ),
    **dict.fromkeys(("mediapipe_face", "face"), "mediapipe has dropped what it is built on: use 'openpose_faceonly'"),
    **dict.fromkeys(("depth_leres_pp", "leres_pp"), "only plain LeReS is built in: use 'depth_leres'"),
    **dict.fromkeys(
        ("depth_anything", "depth_anything_v2", "depth_anything_v3", "depth_hand_refiner"),
        "it is not part of controlnet-aux: use 'depth_midas' or 'depth_zoe', or send its depth image without a preprocessor",
    ),
    **dict.fromkeys(
        ("seg", "seg_ofade20k", "seg_ofcoco", "seg_ufade20k", "seg_anime_face", "segmentation", "oneformer"),
        "it is not part of controlnet-aux: use 'segment_anything', or send its image without a preprocessor",
    ),
    **dict.fromkeys(("densepose", "animal_openpose"), "it is not part of controlnet-aux: use 'openpose'"),
    **dict.fromkeys(("tile_colorfix", "tile_colorfix_sharp"), "it changes the sampling, not the picture: use 'tile_resample'"),
    **dict.fromkeys(("inpaint_only", "inpaint_only_lama", "inpaint_global_harmonious"), "send a mask with the request"),
    **dict.fromkeys(
        (
            "reference_only",
            "reference_adain",
            "reference_adain_attn",
            "ip_adapter",
            "clip_vision",
            "t2ia_style_clipvision",
            "revision",
        ),
        "send the picture as a reference instead of a control",
    ),
}
"""Names that users know, and what to do instead."""


def find(name: str) -> PreprocessorSpec:
    """The preprocessor that a client means by ``name``, in any spelling.

    Raises `InvalidRequest` for a name that nobody knows and `Unsupported` for one that others have.
    """
    wanted = _normal(name)
    spec = _spec(wanted)
    if spec is not None:
        return spec
    if wanted in _REFUSED:
        msg = f"The preprocessor {name!r} is not available: {_REFUSED[wanted]}."
        raise Unsupported(msg, param="preprocessor")
    msg = f"There is no preprocessor {name!r}; there are {', '.join(spec.id for spec in PREPROCESSORS)}."
    raise InvalidRequest(msg, param="preprocessor")


def settle(spec: PreprocessorSpec, options: Mapping[str, object]) -> Options:
    """``options`` with the defaults of all that they leave out.

    Raises `InvalidRequest` for an option that ``spec`` does not have, or a value that it cannot have.
    """
    known = {parameter.name: parameter for parameter in spec.all_parameters}
    for name in options:
        if name not in known:
            msg = f"The preprocessor {spec.id!r} has no option {name!r}; it has {', '.join(known)}."
            raise InvalidRequest(msg, param=f"options.{name}")
    found = {name: _value(parameter, options.get(name, parameter.default)) for name, parameter in known.items()}
    if spec.id == "canny" and found["low_threshold"] > found["high_threshold"]:
        msg = "'low_threshold' must not be above 'high_threshold'."
        raise InvalidRequest(msg, param="options.low_threshold")
    return found


def scaled(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Width and height of the control image: those of the picture, scaled until the shorter is ``resolution``.

    Raises `TooLarge` for a picture so long that this would be more than `MAX_PIXELS`.
    """
    factor = resolution / min(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size[0] * size[1] > MAX_PIXELS:
        msg = f"A control image of {size[0]}x{size[1]} is over the limit of {MAX_PIXELS} pixels; lower 'resolution'."
        raise TooLarge(msg, param="options.resolution")
    return size


def card_for(spec: PreprocessorSpec, cards: Mapping[str, PreprocessorCard]) -> PreprocessorCard | None:
    """The entry of models.yaml with the weights of ``spec``: its own, or that of one which shares them; None if it needs none.

    ``cards`` may be keyed by any of a preprocessor's names. Raises `Unsupported`, with the entry to write, where it is missing.
    """
    if spec.weights is None:
        return None
    sharing = {name: other for name in cards if (other := _spec(name)) is not None}
    own = next((name for name, other in sharing.items() if other.id == spec.id), None)
    name = own or next((name for name, other in sharing.items() if _covers(other, spec)), None)
    if name is None:
        raise Unsupported(missing(spec), param="preprocessor")
    return cards[name]


def missing(spec: PreprocessorSpec) -> str:
    """What to do so that ``spec`` can work."""
    weights = spec.weights
    if weights is None:
        return ""
    files = ", ".join(weights.files)
    other = "file:/PATH/TO/IT" if len(weights.files) == 1 else "dir:/FOLDER/WITH/THEM"
    return (
        f"The preprocessor {spec.id!r} needs weights ({files}). Add to models.yaml, under 'preprocessors:', the entry "
        f"'{spec.id}: {{source: hf:{weights.repo}}}', or source '{other}' if you have downloaded them."
    )


def _covers(other: PreprocessorSpec, spec: PreprocessorSpec) -> bool:
    """Whether an entry for ``other`` has all files of ``spec``."""
    if other.weights is None or spec.weights is None:
        return False
    return other.weights.repo == spec.weights.repo and set(other.weights.files) >= set(spec.weights.files)


def _spec(name: str) -> PreprocessorSpec | None:
    wanted = _normal(name)
    return next((spec for spec in PREPROCESSORS if wanted == spec.id or wanted in spec.aliases), None)


def _value(parameter: Parameter, given: object) -> Value:
    param = f"options.{parameter.name}"
    whole = parameter.kind is Kind.INTEGER
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not math.isfinite(given)
        or (whole and given != int(given))
    ):
        msg = f"{parameter.name!r} must be {'a whole number' if whole else 'a number'}, not {given!r}."
        raise InvalidRequest(msg, param=param)
    least, most = parameter.least, parameter.most
    if not least <= given <= most:
        msg = f"{parameter.name!r} must be from {least:g} to {most:g}, not {given:g}."
        raise InvalidRequest(msg, param=param)
    return int(given) if whole else float(given)


def _normal(name: str) -> str:
    """Small letters, words joined by ``_``, without the module's suffixes such as A1111's bracketed hints."""
    plain = name.strip().lower().partition("(")[0].replace("++", "_pp").replace("+", "_")
    return "_".join(plain.replace("-", "_").split()).replace("__", "_")
