"""The network's coordinates: Haar bands, each scaled to the training set's unit variance.

    encode: x -> (haar_dwt(x) - mean) / std          decode: the exact inverse

mean is that of the LL bands only (the others are zero-mean by symmetry). In raw coefficients the
HH band of an X-ray is some 20 times weaker than LL, so at nearly every noise level it is pure
noise; with unit variance every band carries signal at the same log-SNR. The statistics are buffers:
they travel inside the checkpoint. Other scalings have mean 0: `none` has std 1, so that white noise
stays white in pixels; `halved` has std 2, as the paper's release, where a log-SNR means
2 log 2 = 1.39 nats less in pixels.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from diffdx._tensors import Encoded, Images
from diffdx.transforms.haar import BANDS, haar_dwt, haar_idwt

Wavelet = Literal["haar", "none"]
BandScaling = Literal["unit_variance", "halved", "none"]


class Transform(nn.Module, ABC):
    """Map between images in model range and the network's coordinates.

    Attributes:
        channels: Of the network's coordinates.
        wavelet: `haar` if they are wavelet bands.
    """

    channels: int
    wavelet: Wavelet

    def fit(self, x: Images) -> None:
        """Measure on training images whatever the map depends on; nothing by default."""

    @abstractmethod
    def encode(self, x: Images) -> Encoded:
        """Return the network's coordinates of images in model range [-1, 1]."""

    @abstractmethod
    def decode(self, z: Encoded) -> Images:
        """Return the images in model range; generated values may lie slightly outside [-1, 1]."""


class Coordinates(Transform):
    """Invertible map between images in model range and the network's coordinates."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, wavelet: Wavelet, scaling: BandScaling) -> None:
        """Start with mean 0 and the scaling's own standard deviation; `fit` may replace them."""
        super().__init__()
        self.wavelet = wavelet
        self.scaling = scaling
        self.channels = channels * (len(BANDS) if wavelet == "haar" else 1)
        """Channels of the network's coordinates."""
        self.low_pass_channels = channels
        self.register_buffer("mean", torch.zeros(self.channels, 1, 1))
        std = 2.0 if scaling == "halved" else 1.0
        self.register_buffer("std", torch.full((self.channels, 1, 1), std))

    def fit(self, x: Images) -> None:
        """Measure mean and standard deviation per channel on training images, for unit variance.

        Raises:
            ValueError: if a band has no variation, so that it cannot be scaled to unit variance.
        """
        if self.scaling != "unit_variance":
            return
        coefficients = self._analyse(x).double()
        std = coefficients.std(dim=(0, 2, 3), unbiased=False)
        if not bool((std > 0).all()):
            raise ValueError("a wavelet band of the training images is constant; scaling: none")
        mean = coefficients.mean(dim=(0, 2, 3))
        mean[self.low_pass_channels :] = 0
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))

    def encode(self, x: Images) -> Encoded:
        """Return the scaled bands (or pixels) of images in model range [-1, 1]."""
        return (self._analyse(x) - self.mean) / self.std

    def decode(self, z: Encoded) -> Images:
        """Return the images whose scaled bands (or pixels) these are: the exact inverse."""
        coefficients = z * self.std + self.mean
        return haar_idwt(coefficients) if self.wavelet == "haar" else coefficients

    def _analyse(self, x: Images) -> Encoded:
        return haar_dwt(x) if self.wavelet == "haar" else x
