"""The exact denoiser of Gaussian classes: an oracle without weights.

For classes x ~ N(mu_k, s^2 I) the posterior mean of the noise is

    eps_hat = sigma (z_t - alpha mu_k) / (alpha^2 s^2 + sigma^2)

and therefore v_hat = (eps_hat - sigma z_t) / alpha, which simplifies to the form below, free of the
division by alpha. With it a diffusion classifier must give the Bayes label, and one trial at
log-SNR lambda votes for class A against class B with probability

    Phi( exp(-lambda / 2) (|x - mu_B|^2 - |x - mu_A|^2) / (2 s^2 |mu_A - mu_B|) ).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from diffdx._tensors import ClassIds, Images, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.diffusion.process import alpha_sigma


class GaussianClasses(Denoiser):
    """Exact v prediction for classes N(mu_k, s^2 I).

    The null label stands for N(mean of the mu_k, s^2 I), which is exact only if all means agree.
    """

    means: Tensor

    def __init__(self, means: Float[Tensor, "K C H W"], std: float) -> None:
        """Keep the class means and their common standard deviation s > 0.

        Raises:
            ValueError: if s is not positive, where the classes have no density.
        """
        super().__init__()
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        self.num_classes = means.shape[0]
        self.std = std
        self.register_buffer("means", torch.cat([means, means.mean(0, keepdim=True)]))

    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat = (alpha sigma (1 - s^2) z_t - sigma mu_y) / (alpha^2 s^2 + sigma^2).

        This is (eps_hat - sigma z_t) / alpha after cancelling alpha.
        """
        alpha, sigma = (a.view(-1, 1, 1, 1) for a in alpha_sigma(logsnr))
        mu = self.means[y]
        variance = alpha**2 * self.std**2 + sigma**2
        return (alpha * sigma * (1 - self.std**2) * z_t - sigma * mu) / variance
