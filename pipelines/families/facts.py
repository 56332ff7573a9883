"""What loading a model found, for the server and its users."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.contract.catalog import Family, ModelFacts


def facts(
    family: Family,
    network: Any,
    others: Sequence[Any],
    scheduler_config: Mapping[str, Any],
    **more: Any,
) -> ModelFacts:
    """The facts of a checkpoint whose denoising network is ``network``; ``more`` are further fields of `ModelFacts`."""
    tensors = [p for module in (network, *others) for p in module.parameters()]
    return ModelFacts(
        family=family,
        prediction_type=str(scheduler_config.get("prediction_type", "epsilon")),
        dtype=str(network.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in tensors),
        bytes=sum(p.numel() * p.element_size() for p in tensors),
        **more,
    )
