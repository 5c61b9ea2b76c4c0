"""The training of a diffusion model: the loss of a batch and the average of the weights.

    loss = mean_n (w(logsnr_n) e_n + c contrastive_n),   e_n = |v_hat - v|^2 / dim

with c = `train.contrastive_weight`, of images whose label is not dropped; see `diffusion.loss`.
Times, noise, dropped labels and wrong classes are drawn with the generator of the step; see
`training.loop`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from ema_pytorch import EMA
from torch import Tensor, nn

from diffdx._device import Precision, autocast
from diffdx._tensors import ClassIds, Encoded, Images, RowImages, Rows, Times
from diffdx.backbones.model import DiffusionModel
from diffdx.config import EMAConfig, RunConfig
from diffdx.diffusion.loss import (
    contrastive_losses,
    drop_labels,
    errors_under,
    other_labels,
    stratified_times,
    v_errors,
)
from diffdx.diffusion.weighting import v_weight
from diffdx.training.images import ImageTable
from diffdx.training.loop import TrainingLoop
from diffdx.transforms.augment import augment


class Trainer(TrainingLoop[DiffusionModel, RunConfig]):
    """Trains one diffusion model; see `TrainingLoop` for the loop and its files.

    The best checkpoint is that of the vote's AUROC. With a contrastive term it is that of the mean
    of v: votes become unanimous while the ranking still gets better, and theirs falls.
    """

    def __init__(
        self,
        model: DiffusionModel,
        images: ImageTable,
        config: RunConfig,
        run: Path,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        """Prepare optimiser and average; nothing is written yet."""
        train = config.train
        model = model.to(device).train()
        if train.gradient_checkpointing:
            model.denoiser.checkpoint_gradients()
        self.chosen_by = "auroc_mean_v" if train.contrastive_weight else "auroc"
        trained = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
        super().__init__(
            model,
            images,
            config,
            run,
            device=device,
            precision=precision,
            optimizer=torch.optim.Adam(trained, lr=train.learning_rate),
            ema=_average(model, train.ema),
        )

    def _augmented(self, x: Images, generator: torch.Generator) -> Images:
        return augment(x, self.config.train.augment, generator)

    def _encoded(self, x: Images) -> Encoded:
        return self.model.transform.encode(x)

    def _losses_of(
        self, x: Images, y: ClassIds, generator: torch.Generator
    ) -> Callable[[slice], Tensor]:
        """Draw times, noise, dropped labels; return what a part adds to the batch's mean loss."""
        train = self.config.train
        logsnr = self.model.schedule.logsnr(stratified_times(len(x), generator))
        weight = v_weight(logsnr, train.weighting, gamma=train.min_snr_gamma)
        true_y, y = y, drop_labels(y, self.model.null_label, train.label_dropout, generator)
        eps = torch.randn(len(x), *self.model.shape, generator=generator)
        contrasted = train.contrastive_weight > 0
        other = other_labels(true_y, len(self.model.classes), generator) if contrasted else true_y

        def part_loss(part: slice) -> Tensor:
            x_part, y_part, logsnr_part, eps_part, weight_part = (
                tensor[part].to(self.device) for tensor in (x, y, logsnr, eps, weight)
            )
            clean = self._encoded(x_part)
            if not contrasted:
                errors = v_errors(self._predict_v, clean, y_part, logsnr_part, eps_part)
                return (weight_part * errors).sum() / len(x)
            # Only of images whose label is not dropped is the error under another class needed.
            told = (y_part != self.model.null_label).nonzero().flatten()
            owner = torch.cat([torch.arange(len(y_part), device=self.device), told])
            rows = torch.cat([y_part, other[part].to(self.device)[told]])
            errors = errors_under(self._v_under, clean, rows, owner, logsnr_part, eps_part)
            right, wrong = errors[: len(y_part)], errors[len(y_part) :]
            contrastive = contrastive_losses(right[told], wrong, train.contrastive_scale)
            total = (weight_part * right).sum() + train.contrastive_weight * contrastive.sum()
            loss: Tensor = total / len(x)
            return loss

        return part_loss

    def _predict_v(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        with autocast(self.device, self.precision):
            v_hat: Images = self.model(z_t, logsnr, y)
        return v_hat

    def _v_under(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        with autocast(self.device, self.precision):
            return self.model.denoiser.under_classes(z_t, logsnr, y, owner)


def _average(model: DiffusionModel, config: EMAConfig) -> EMA:
    """Return the average of a model's weights, in eval mode; frozen ones are left out."""
    raw = {
        f"denoiser.{name}.weight"
        for name, module in model.denoiser.named_modules()
        if isinstance(module, nn.Embedding) and not config.class_embedding
    }
    ema = EMA(
        model,
        include_online_model=False,
        use_foreach=True,
        param_or_buffer_names_no_ema=raw,
        ignore_names={name for name, p in model.named_parameters() if not p.requires_grad},
        **config.model_dump(exclude={"class_embedding"}),
    )
    ema.ema_model.eval()
    return ema
