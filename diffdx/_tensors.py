"""Torch tensor shapes, each named once. B images, C channels, H x W pixels."""

from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "B C H W"]
"""Images, noise or predictions, in model range or in the network's coordinates."""
Encoded = Float[Tensor, "B D h w"]
"""Images in the network's coordinates, where it matters that their shape is another."""
Times = Float[Tensor, "B"]
"""Diffusion times in [0, 1], or log-SNRs in nats: one per image."""
Schedule = Float[Tensor, "*grid"]
"""Times or log-SNRs of any shape."""
ClassIds = Int[Tensor, "B"]
"""Class indices 0 .. K-1; K is the null label."""
PerImage = Float[Tensor, "B"]
"""One number per image."""

Rows = Int[Tensor, "rows"]
"""A row is one (noisy image, class) pair of a network call."""
PerRow = Float[Tensor, "rows"]
RowImages = Float[Tensor, "rows C H W"]
