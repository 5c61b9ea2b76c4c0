"""What a training run would be: its configuration, its size, its data. Nothing is written."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diffdx.cli.console import Reporter

if TYPE_CHECKING:
    from diffdx.training.run import TrainRequest
    from diffdx.training.run_folder import RunRequest

Size = tuple[list[str], dict[str, Any]]
"""How large a model is: lines of text, and the same as values."""


def describe(reporter: Reporter, request: "RunRequest[Any, Any]", size: Size) -> None:
    """Print the resolved configuration, the model's size and the images of each role."""
    import yaml

    values = request.config.model_dump(mode="json")
    pairs = zip(request.splits.role, request.splits.label, strict=True)
    roles = {f"{role}/{label}": n for (role, label), n in sorted(Counter(pairs).items())}
    lines, facts = size
    text = yaml.safe_dump(values, sort_keys=False) + "\n".join(
        [
            *lines,
            f"device: {request.device}, {request.precision}",
            *(f"{name}: {n} images" for name, n in roles.items()),
        ]
    )
    reporter.result(text, {"config": values, **facts, "counts": roles})


def diffusion_size(request: "TrainRequest") -> Size:
    """Return parameters, cost of a network call, and memory of a diffusion model."""
    from diffdx.backbones.cost import model_cost

    cost = model_cost(request.config.model, len(request.dataset.classes))
    batch = request.config.train.batch_size
    lines = [
        f"parameters: {cost.parameters:,}",
        f"network input: {' x '.join(map(str, cost.input_shape))}",
        f"one call: {cost.gflop_per_call:.4g} GFLOP",
        f"memory: {cost.weights_gib:.3g} GiB to classify; to train {cost.training_gib:.3g} GiB "
        f"and {batch * cost.activations_gib:.3g} GiB for a batch of {batch} (in float32)",
    ]
    return lines, {"parameters": cost.parameters, "cost": asdict(cost)}
