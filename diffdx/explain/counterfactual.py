"""Counterfactuals: the same noisy image, denoised as what it is and as what it is not.

    z_start = alpha x + sigma eps         at log-SNR logsnr_start, eps fixed by seed and draw
    x_factual = denoise(z_start, y_src)   x_cf = denoise(z_start, y_cf)
    difference = x_cf - x_factual                                    (paper 2.3, Eq. 5, Fig. 4)

Both start from the same noise and use the same deterministic sampler and guidance, so what the
sampler loses is lost in both and cancels in the difference: with y_cf = y_src it is exactly zero.
"""

from dataclasses import dataclass

from diffdx._device import Precision
from diffdx._tensors import ClassIds, Images
from diffdx.backbones.generation import generation_noise, predictor
from diffdx.backbones.model import DiffusionModel
from diffdx.diffusion.process import diffuse
from diffdx.diffusion.samplers import sample


@dataclass(frozen=True)
class Counterfactuals:
    """Pairs of reconstructions in model range.

    Attributes:
        x_factual: Denoised under the source class.
        x_cf: Denoised under the target class.
        nfe: Network evaluations spent on each image.
    """

    x_factual: Images
    x_cf: Images
    nfe: int

    @property
    def difference(self) -> Images:
        """The class-specific change, x_cf - x_factual."""
        return self.x_cf - self.x_factual


def counterfactuals(
    model: DiffusionModel,
    x: Images,
    y_src: ClassIds,
    y_cf: ClassIds,
    *,
    logsnr_start: float,
    guidance_scale: float = 2.0,
    num_steps: int = 50,
    seed: int = 0,
    precision: Precision = "fp32",
) -> Counterfactuals:
    """Return factual and counterfactual of each image.

    Args:
        model: In eval mode.
        x: Images in model range.
        y_src: Source class of each image.
        y_cf: Target class of each image.
        logsnr_start: Noise level to start from, in nats; lower changes more. Given as log-SNR,
            since a time means another noise level under every schedule.
        guidance_scale: 1 = none.
        num_steps: Sampler steps.
        seed: Seed of the common noise.
        precision: Of network calls.

    Raises:
        ValueError: if logsnr_start is outside the schedule or below -10.
    """
    eps = generation_noise(model, len(x), seed)
    level = eps.new_full((len(x),), logsnr_start)
    z_start = diffuse(model.transform.encode(x.to(eps.device)), eps, level)
    factual, counterfactual = (
        model.transform.decode(
            sample(
                predictor(model, precision),
                model.schedule,
                z_start,
                y.to(eps.device),
                null_label=model.null_label,
                num_steps=num_steps,
                logsnr_start=logsnr_start,
                guidance_scale=guidance_scale,
            )
        )
        for y in (y_src, y_cf)
    )
    calls = 2 * num_steps * (1 if guidance_scale == 1 else 2)
    return Counterfactuals(factual, counterfactual, calls)
