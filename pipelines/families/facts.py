"""What loading a model found, for the server and its users."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.contract.catalog import ModelFacts
from pipelines.contract.family import Family


def facts(
    family: Family,
    network: Any,
    others: Sequence[Any],
    scheduler_config: Mapping[str, Any],
    **more: Any,
) -> ModelFacts:
    """The facts of a checkpoint whose denoising network is ``network``; ``more`` are further fields of `ModelFacts`."""
    modules = (network, *others)
    return ModelFacts(
        family=family,
        prediction_type=str(scheduler_config.get("prediction_type", "epsilon")),
        dtype=str(network.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for module in modules for p in module.parameters()),
        bytes=sum(stored(module) for module in modules),
        **more,
    )


def stored(module: Any) -> int:
    """Bytes that the parameters of ``module`` take up; a quantised one counts for what it is made of."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def _bytes(tensor: Any) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        size: int = tensor.numel() * tensor.element_size()
        return size
    inner, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in inner)
