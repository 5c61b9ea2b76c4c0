"""Counterfactuals: the same noisy image, denoised as what it is and as what it is not.

    z_start                               at log-SNR logsnr_start, one for both
    x_factual = denoise(z_start, y_src)   x_cf = denoise(z_start, y_cf)
    difference = x_cf - x_factual                                    (paper 2.3, Eq. 5, Fig. 4)

    noise     z_start = alpha x + sigma eps, eps fixed by seed, image content and draw (paper)
    ddim      z_start = DDIM inversion of x under y_src, unguided: no noise, so no draws
    contrast  as ddim, but guided between the two classes, up and down (`diffdx.explain.contrast`)

Both start from the same z_start and use the same deterministic sampler and guidance, so what the
sampler loses is lost in both and cancels in the difference: with y_cf = y_src it is exactly zero.
Two controls say what an edit is worth: the null edit x_null, x denoised as y_src unguided, and the
return x_back, x_cf turned into y_src by the same method from noise of its own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdx._device import Precision
from diffdx._random import EDIT, RETURN, content_key, philox_normal
from diffdx._tensors import ClassIds, Encoded, Images, Times
from diffdx.backbones.generation import predictor
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.denoising_errors import evaluating
from diffdx.diffusion.loss import VPredictor
from diffdx.diffusion.process import diffuse
from diffdx.diffusion.samplers import invert, logsnr_grid, sample
from diffdx.diffusion.schedule import NoiseSchedule
from diffdx.errors import ConfigError
from diffdx.explain.contrast import contrasted

EditMethod = Literal["noise", "ddim", "contrast"]
Keys = Int[Tensor, "B"]

DEFAULT_LOGSNR_START = -2.5
"""In nats; with the other defaults chosen on validation images of `assets/cxr64` (see
`benchmarks/scorecard.py`). The paper's t of 0.5 (chest X-ray) and 0.3 (dermoscopy) are -4.16 and
-2.81 in its release."""
MAX_GUIDANCE = 20.0
"""Above, samples leave the range of images; the paper's release uses 4.5 and 5.5."""


@dataclass(frozen=True)
class EditSettings:
    """How an image is turned into another class.

    Attributes:
        logsnr_start: Noise level to start from, in nats; lower changes more. Given as log-SNR,
            since a time means another noise level under every schedule.
        guidance_scale: In (0, 20]; 1 = none.
        method: `noise`, `ddim` inversion, or inversion guided between the classes: `contrast`.
        num_steps: Sampler steps.
        iterations: Of each step's fixed point going up, unless noise is added: with 5 an edit comes
            back to within a tenth of a grey level of 255, with 2 to within one.
        draws: Independent noises whose results are averaged; 1 without `noise`, where there is
            none.
        seed: Seed of the noise.
        precision: Of network calls.
    """

    logsnr_start: float = DEFAULT_LOGSNR_START
    guidance_scale: float = 3.0
    method: EditMethod = "contrast"
    num_steps: int = 20
    iterations: int = 5
    draws: int = 1
    seed: int = 0
    precision: Precision = "fp32"

    @classmethod
    def of(cls, model: DiffusionModel, **given: Any) -> "EditSettings":
        """Return these settings, else what the model's recipe says, else the defaults.

        Args:
            model: One trained with a contrastive term asks for guidance 1.
            given: Attributes; None is not given.
        """
        asked = {name: value for name, value in given.items() if value is not None}
        return cls(**(model.config.edit.model_dump(exclude_none=True) | asked))

    def __post_init__(self) -> None:
        if not 0 < self.guidance_scale <= MAX_GUIDANCE:
            raise ConfigError(
                f"--guidance {self.guidance_scale:g}: use more than 0, which would ignore the "
                f"class, and at most {MAX_GUIDANCE:g}; 1 is none"
            )
        if min(self.num_steps, self.iterations, self.draws) < 1:
            raise ConfigError(
                f"--steps {self.num_steps} --draws {self.draws}, iterations {self.iterations}: "
                "use at least 1 of each"
            )
        if self.method != "noise" and self.draws > 1:
            raise ConfigError(
                f"--method {self.method} --draws {self.draws}: inversion has no noise to draw; "
                "use --draws 1, or --method noise"
            )

    def check(self, schedule: NoiseSchedule) -> None:
        """Check that the schedule reaches the noise level.

        Raises:
            ConfigError: if it does not.
        """
        try:
            logsnr_grid(schedule, self.num_steps, self.logsnr_start)
        except ValueError as error:
            raise ConfigError(
                f"--t-start {self.logsnr_start:g}: {error}; it is a log-SNR, not a time"
            ) from None


@dataclass(frozen=True)
class Counterfactuals:
    """Pairs of reconstructions in model range, averaged over the draws, and their controls.

    Attributes:
        x_factual: Denoised under the source class.
        x_cf: Denoised under the target class.
        nfe: Network evaluations spent on each image.
        factual_draws: x_factual of each draw.
        cf_draws: x_cf of each draw.
        x_null: Denoised under the source class at guidance 1; None unless asked for.
        x_back: x_cf turned back into the source class; None unless asked for.
        trajectory: What each step of the first draw's counterfactual expects the end to be, from
            noisy to clean; None unless asked for.
    """

    x_factual: Images
    x_cf: Images
    nfe: int
    factual_draws: Float[Tensor, "D B C H W"]
    cf_draws: Float[Tensor, "D B C H W"]
    x_null: Images | None = None
    x_back: Images | None = None
    trajectory: Float[Tensor, "S B C H W"] | None = None

    @property
    def difference(self) -> Images:
        """The class-specific change, x_cf - x_factual."""
        return self.x_cf - self.x_factual

    @property
    def spread(self) -> Images:
        """Standard deviation over the draws of the difference; 0 if there is one draw."""
        return (self.cf_draws - self.factual_draws).std(dim=0, correction=0)


def counterfactuals(
    model: DiffusionModel,
    x: Images,
    y_src: ClassIds,
    y_cf: ClassIds,
    settings: EditSettings | None = None,
    *,
    controls: bool = False,
    trajectory: bool = False,
) -> Counterfactuals:
    """Return factual and counterfactual of each image.

    The result of an image depends on its pixels and the settings, not on the rest of the batch.
    The model's mode, gradients and global random states stay as they are.

    Args:
        model: With its weights on the device to compute on.
        x: Images in model range.
        y_src: Source class of each image.
        y_cf: Target class of each image; any.
        settings: How; None takes `EditSettings.of(model)`.
        controls: Make the null edit and the return too.
        trajectory: Keep what each step expects.

    Raises:
        ConfigError: if the schedule does not reach the noise level.
    """
    settings = settings or EditSettings.of(model)
    settings.check(model.schedule)
    editor = _Editor(model, settings)
    device = editor.device
    x, y_src, y_cf = x.to(device), y_src.to(device), y_cf.to(device)
    keys = torch.tensor([content_key(image, settings.seed) for image in x], dtype=torch.int64)
    steps: list[Encoded] = []
    watch = steps.append if trajectory else None
    with torch.no_grad(), evaluating(model.denoiser):
        starts = editor.starts(x, y_src, y_cf, keys, EDIT)
        factual = torch.stack([editor.denoise(z, y_src, y_cf) for z in starts])
        edited = [
            # Only the first draw is watched.
            editor.denoise(z, y_cf, y_src, watch=None if i else watch)
            for i, z in enumerate(starts)
        ]
        cf = torch.stack(edited)
        null = back = None
        if controls:
            plain = _Editor(model, dataclasses.replace(settings, guidance_scale=1.0))
            if settings.method == "contrast":  # its start is guided as well
                starts = plain.starts(x, y_src, y_cf, keys, EDIT)
            null = editor.mean([plain.denoise(z, y_src, y_cf) for z in starts])
            returns = editor.starts(cf.mean(dim=0), y_cf, y_src, keys, RETURN)
            back = editor.mean([editor.denoise(z, y_src, y_cf) for z in returns])
            editor.rows += plain.rows
        expected = [model.transform.decode(step) for step in steps]
    return Counterfactuals(
        x_factual=factual.mean(dim=0),
        x_cf=cf.mean(dim=0),
        nfe=editor.rows // max(len(x), 1),
        factual_draws=factual,
        cf_draws=cf,
        x_null=null,
        x_back=back,
        trajectory=torch.stack(expected) if trajectory else None,
    )


class _Editor:
    """The two halves of an edit, up into noise and down again, with a count of network rows."""

    def __init__(self, model: DiffusionModel, settings: EditSettings) -> None:
        self.model, self.settings = model, settings
        self.device = next(model.parameters()).device
        self.rows = 0
        self._predict = predictor(model, settings.precision)

    def predict_v(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """The model's call, counted."""
        self.rows += len(z_t)
        return self._predict(z_t, logsnr, y)

    def _guided(self, y_other: ClassIds) -> VPredictor:
        """The call that the sampler is given: guided here, if it is against a class."""
        scale = self.settings.guidance_scale
        if self.settings.method != "contrast" or scale == 1:
            return self.predict_v
        return contrasted(self.predict_v, y_other, scale)

    def starts(
        self, x: Images, y: ClassIds, y_other: ClassIds, keys: Keys, stream: int
    ) -> list[Encoded]:
        """Return the noisy image of each draw; y_other is the class to be told apart from."""
        z, settings = self.model.transform.encode(x), self.settings
        if settings.method != "noise":
            inverted = invert(
                self._guided(y_other),
                self.model.schedule,
                z,
                y,
                logsnr_start=settings.logsnr_start,
                num_steps=settings.num_steps,
                iterations=settings.iterations,
            )
            return [inverted]
        logsnr = z.new_full((len(z),), settings.logsnr_start)
        draws = (torch.full_like(keys, draw) for draw in range(settings.draws))
        return [
            diffuse(z, philox_normal(keys, draw, z.shape[1:], self.device, stream), logsnr)
            for draw in draws
        ]

    def denoise(
        self,
        z_start: Encoded,
        y: ClassIds,
        y_other: ClassIds,
        *,
        watch: Callable[[Images], None] | None = None,
    ) -> Images:
        """Return images in model range, with the guidance of the settings."""
        settings = self.settings
        z = sample(
            self._guided(y_other),
            self.model.schedule,
            z_start,
            y,
            null_label=self.model.null_label,
            num_steps=settings.num_steps,
            logsnr_start=settings.logsnr_start,
            guidance_scale=1.0 if settings.method == "contrast" else settings.guidance_scale,
            watch=watch,
        )
        return self.model.transform.decode(z)

    @staticmethod
    def mean(draws: list[Images]) -> Images:
        """Return the mean over the draws."""
        return torch.stack(draws).mean(dim=0)
