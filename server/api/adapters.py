"""LoRAs, control networks and IP-Adapters of a request: names into cards, tags into uses. Pure.

A LoRA may be asked for in four places. Where two of them name the same one, the later of this list wins: the style's tags, the
prompt's, the negative prompt's, and the ``loras`` of the body, which says it most plainly. Of two tags in one text the last wins,
as what was typed last is what was meant; two entries of ``loras`` for one name are refused, as a program sent them. A LoRA whose
weights are all 0 is left out.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pipelines.contract.adapters import ControlCard, ControlKind, LoraCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.control import Balance, ControlUse, LoraUse, ReferenceUse
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.contract.loras import MAX_WEIGHT, extract
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.preprocessing import Options, find, settle
from pipelines.contract.request import Style
from server.api.checks import few, number, span
from server.api.options import ControlOption, LoraOption, ReferenceOption
from server.catalog.catalog import Catalog

MAX_LORAS, MAX_CONTROLS, MAX_REFERENCES, MAX_REFERENCE_IMAGES = 8, 4, 4, 8
MAX_ADAPTER_WEIGHT = 2.0
READY_MADE = "none"
"""The preprocessor of a picture that is a control image already."""


class Worded(msgspec.Struct, frozen=True):
    """The words of a request without tags, and the LoRAs that the tags and the body ask for."""

    prompt: str
    negative_prompt: str
    style: Style | None
    loras: tuple[LoraUse, ...]


def worded(
    prompt: str,
    negative_prompt: str,
    style: Style | None,
    *,
    keys: Sequence[LoraOption | str] | str | None,
    catalog: Catalog,
    card: ModelCard,
) -> Worded:
    """Take the tags out of all texts. What ``emphasis`` the model has makes no difference: a tag is no weight of a word."""
    uses: dict[str, LoraUse] = {}

    def without(text: str, param: str) -> str:
        kept, tags = extract(text)
        for tag in tags:
            found = catalog.lora(tag.name, card.family, param)
            unet = found.weight if tag.unet_weight is None else tag.unet_weight
            uses[found.name] = LoraUse(found, unet, found.weight if tag.text_weight is None else tag.text_weight)
        return kept

    if style is not None:
        style = Style(style.name, without(style.prompt, "style_preset"), without(style.negative, "style_preset"))
    kept = Worded(without(prompt, "prompt"), without(negative_prompt, "negative_prompt"), style, ())
    for use in _keyed(keys, catalog, card):
        uses[use.card.name] = use
    found = tuple(use for use in uses.values() if use.weight or use.text_weight)
    few(len(found), "loras", MAX_LORAS)
    return msgspec.structs.replace(kept, loras=found)


def controls(
    options: Sequence[ControlOption] | None, pictures: Sequence[Picture], catalog: Catalog, card: ModelCard
) -> tuple[ControlUse, ...]:
    """The uses of control networks; ``pictures`` are those of ``options``, in order."""
    few(len(options or ()), "controls", MAX_CONTROLS)
    found: list[ControlUse] = []
    for index, (option, picture) in enumerate(zip(options or (), pictures, strict=True)):
        where = f"controls[{index}]"
        network = catalog.controlnet(option.name, card.family, f"{where}.name")
        start, end = span(option.start, option.end, where)
        preprocessor, parameters = _prepared(option, network, where)
        found.append(
            ControlUse(
                network,
                picture,
                preprocessor=preprocessor,
                preprocessor_options=parameters,
                weight=number(option.weight, f"{where}.weight", 1.0, 0.0, MAX_ADAPTER_WEIGHT),
                start=start,
                end=end,
                balance=option.balance or Balance.BALANCED,
                resize=option.resize or Resize.CROP,
                mode=_mode(option.mode, network, f"{where}.mode"),
            )
        )
    return tuple(found)


def references(
    options: Sequence[ReferenceOption] | None, pictures: Sequence[Sequence[Picture]], catalog: Catalog, card: ModelCard
) -> tuple[ReferenceUse, ...]:
    """The uses of IP-Adapters; ``pictures`` are those of ``options``, in order."""
    few(len(options or ()), "references", MAX_REFERENCES)
    found: list[ReferenceUse] = []
    for index, (option, shown) in enumerate(zip(options or (), pictures, strict=True)):
        where = f"references[{index}]"
        adapter = catalog.ip_adapter(option.name, card.family, f"{where}.name")
        start, end = span(option.start, option.end, where)
        weight = number(option.weight, f"{where}.weight", 0.6, 0.0, MAX_ADAPTER_WEIGHT)
        found.append(ReferenceUse(adapter, tuple(shown), weight, start, end))
    return tuple(found)


def _keyed(keys: Sequence[LoraOption | str] | str | None, catalog: Catalog, card: ModelCard) -> Iterable[LoraUse]:
    """Of what the body itself lists."""
    listed = [each for each in keys.split(",") if each.strip()] if isinstance(keys, str) else keys or ()
    few(len(listed), "loras", MAX_LORAS)
    seen: dict[str, LoraCard] = {}
    for index, option in enumerate(listed):
        where = f"loras[{index}]"
        said = _read(option, where) if isinstance(option, str) else option
        found = catalog.lora(said.name, card.family, f"{where}.name")
        if found.name in seen:
            msg = f"LoRA {found.name!r} is listed twice; say one weight."
            raise InvalidRequest(msg, param=f"{where}.name")
        seen[found.name] = found
        weight = number(said.weight, f"{where}.weight", found.weight, -MAX_WEIGHT, MAX_WEIGHT)
        text_weight = number(said.text_weight, f"{where}.text_weight", weight, -MAX_WEIGHT, MAX_WEIGHT)
        yield LoraUse(found, weight, text_weight)


def _read(text: str, where: str) -> LoraOption:
    """``name``, ``name:weight`` or ``name:text:unet``, in the order of tags."""
    name, *weights = (part.strip() for part in text.split(":"))
    try:
        numbers = [float(each) for each in weights]
    except ValueError:
        numbers = []
    if not name or len(weights) > 2 or len(numbers) != len(weights):  # noqa: PLR2004 - text encoders and UNet
        msg = f"{text!r} is no LoRA: write 'name', 'name:0.8' or {{\"name\": ..., \"weight\": ...}}."
        raise InvalidRequest(msg, param=where)
    if len(numbers) == 2:  # noqa: PLR2004 - text encoders and UNet
        return LoraOption(name, numbers[1], numbers[0])
    return LoraOption(name, *numbers)


def _prepared(option: ControlOption, network: ControlCard, where: str) -> tuple[str | None, Options]:
    """The preprocessor's id and those of its parameters that are given; None for a picture that is a control image already."""
    asked = network.preprocessor if option.preprocessor is None else option.preprocessor
    given = option.preprocessor_options or {}
    if asked is None or asked.strip().lower() in ("", READY_MADE):
        if given:
            msg = "The picture is a control image already: there is no preprocessor to take options."
            raise InvalidRequest(msg, param=f"{where}.preprocessor_options")
        return None, {}
    try:
        spec = find(asked)
        settled = settle(spec, given)
    except InvalidRequest as error:
        named = (error.param or "preprocessor").replace("options", "preprocessor_options", 1)
        raise type(error)(error.message, param=f"{where}.{named}") from None
    return spec.id, {name: settled[name] for name in given}


def _mode(asked: str | None, network: ControlCard, param: str) -> str | None:
    modes: Mapping[str, int] = network.modes
    if network.kind is not ControlKind.UNION:
        if asked is not None:
            msg = f"ControlNet {network.name!r} is for one kind of control image and has no modes."
            raise Unsupported(msg, param=param)
        return None
    if asked is None or asked not in modes:
        said = "must say what kind of control image it is" if asked is None else f"{asked!r} is not known to it"
        msg = f"For {network.name!r}, 'mode' {said}: {', '.join(modes)}."
        raise InvalidRequest(msg, param=param)
    return asked
