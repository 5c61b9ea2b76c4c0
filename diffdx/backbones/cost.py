"""What a model costs before it is built: parameters, operations, memory.

Measured on the meta device, where tensors have shapes and no storage: seconds for the paper's
networks, whatever the machine.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffdx.backbones.model import DiffusionModel
from diffdx.config import ModelConfig

_COPIES = 5
"""Of the weights while training: themselves, gradients, two moments of Adam, the average."""


@dataclass(frozen=True)
class Cost:
    """Cost of one model in float32.

    Attributes:
        input_shape: (C, H, W) of one image in the network's coordinates.
        parameters: All of them.
        gflop_per_call: Operations of one network call on one image, a multiplication with its
            addition counted as two, in units of 10^9.
        weights_gib: To hold the model.
        training_gib: To hold weights, gradients, optimiser and average.
        activations_gib: What the backward pass keeps of one image, on top; gradient checkpointing
            needs much less.
    """

    input_shape: tuple[int, int, int]
    parameters: int
    gflop_per_call: float
    weights_gib: float
    training_gib: float
    activations_gib: float


def model_cost(config: ModelConfig, num_classes: int) -> Cost:
    """Return the cost of the model that a configuration describes, for K = `num_classes`."""
    classes = tuple(map(str, range(num_classes)))
    with torch.device("meta"):
        model = DiffusionModel(config, classes)
        call = torch.empty(1, *model.shape), torch.empty(1), torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            kept = _kept_for_backward(model, *call)
    parameters = sum(p.numel() for p in model.parameters())
    gib = 4 * parameters / 2**30
    return Cost(
        model.shape, parameters, counter.get_total_flops() / 1e9, gib, _COPIES * gib, kept / 2**30
    )


def _kept_for_backward(model: DiffusionModel, z_t: Tensor, logsnr: Tensor, y: Tensor) -> int:
    """Return the bytes that autograd keeps of one call, weights left out."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Views share a storage: it is kept once, and a weight's is there anyway.
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(z_t, logsnr, y)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
