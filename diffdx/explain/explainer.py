"""Explain images: classify each, turn it into another class, classify the result.

    image -> errors under every class -> y_src and evidence map
          -> factual, counterfactual, null edit, return -> difference map
          -> errors of the counterfactual -> does the model itself call it y_cf?

Network calls are reported, those of the classifications apart from those of the edits. Research use
only, not a medical device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffdx._typing import Space
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.evidence import ErrorMaps, EvidenceCollector, part_edges
from diffdx.classification.predictions import Rule
from diffdx.classification.rules import apply_rule, rule_name
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.classification.weighted import LogSNRWeights
from diffdx.classification.work import ImageErrors
from diffdx.data.dataset import Record
from diffdx.errors import ConfigError
from diffdx.explain.counterfactual import Counterfactuals, EditSettings, counterfactuals
from diffdx.explain.difference import significance
from diffdx.explain.evidence import EvidenceParts, evidence_parts, over_pixels, vote_agrees
from diffdx.explain.explained import Explained, Mask, PixelMap

Item = tuple[Record, Tensor, Mask | None]
"""An image to explain, preprocessed (C, H, W) in [-1, 1], and where its finding is, if known."""


@dataclass(frozen=True)
class ExplainSettings:
    """How images are explained.

    Attributes:
        y_cf: Class index to turn each image into.
        edit: How images are turned into another class; `EditSettings.of(model)` follows its recipe.
        y_src: Class index to explain each image as; None takes what the model calls it.
        num_trials: Trials of each classification, the first of the bank.
        bank_size: Trials in the bank.
        rule: `vote`, `mean` or `weighted`: what calls an image.
        space: Space of the mean errors and of the evidence.
        weights: Of the weighted rule.
        batch_size: Network rows per call.
        keep_trajectory: Keep what each sampler step expects.
    """

    y_cf: int
    edit: EditSettings
    y_src: int | None = None
    num_trials: int = 101
    bank_size: int = 501
    rule: Rule = "vote"
    space: Space = "v"
    weights: LogSNRWeights | None = None
    batch_size: int = 64
    keep_trajectory: bool = False

    def __post_init__(self) -> None:
        self.bank.require(self.num_trials)

    @property
    def bank(self) -> TrialBank:
        """The bank of the classifications."""
        return TrialBank(self.edit.seed, self.bank_size)

    @property
    def images_per_call(self) -> int:
        """Images edited together; with guidance each is two rows of a call."""
        return max(1, self.batch_size // 2)


@dataclass(frozen=True)
class Judged:
    """One image classified: its errors, and the maps of where they come from."""

    errors: Float[np.ndarray, "K N"]
    logsnr: Float[np.ndarray, "N"]
    maps: ErrorMaps
    nfe: int


@dataclass(frozen=True)
class Explanation:
    """One image explained.

    Attributes:
        explained: The images, and the evidence for y_src against y_cf.
        y_hat: What the model calls the image.
        y_hat_cf: What it calls the counterfactual.
        share: Vote shares of the image.
        share_cf: Vote shares of the counterfactual.
        evidence: In parts by log-SNR, noisy to clean.
        margin: Sum of the evidence.
        vote_agrees: Whether the votes lean to the side of the margin.
        significance: z of the difference map; None with one draw.
        trajectory: (S, C, H, W), what each sampler step expected; None unless asked for.
        forced: Of a control (its label is y_cf, and it is called so): explained once more as if it
            were the other of two classes.
        nfe_classify: Network evaluations of the two classifications; `explained.nfe` are those of
            the edit.
    """

    explained: Explained
    y_hat: int
    y_hat_cf: int
    share: Float[np.ndarray, "K"]
    share_cf: Float[np.ndarray, "K"]
    evidence: EvidenceParts
    margin: float
    vote_agrees: bool
    significance: PixelMap | None
    trajectory: Float[np.ndarray, "S C H W"] | None
    forced: Explained | None
    nfe_classify: int

    def facts(self, edit: EditSettings) -> dict[str, Any]:
        """Return what a table says of it, and of how it was made, in numbers."""
        one = self.explained
        return {
            "evidence_margin": self.margin,
            "vote_agrees": self.vote_agrees,
            "mean_change": float(np.abs(one.difference).mean()),
            "mean_null_edit": float(np.abs(one.x_null - one.x).mean()),
            "logsnr_start": edit.logsnr_start,
            "guidance_scale": edit.guidance_scale,
            "method": edit.method,
        }


class Explainer:
    """A model and how it explains.

    Attributes:
        model: Its weights lie on the device to compute on.
        settings: How.
    """

    def __init__(self, model: DiffusionModel, settings: ExplainSettings) -> None:
        """Keep both.

        Raises:
            ConfigError: if a class does not exist, or the schedule does not reach the noise level.
        """
        for y in (settings.y_cf, settings.y_src):
            if y is not None and not 0 <= y < len(model.classes):
                raise ConfigError(f"class {y} is none of 0 .. {len(model.classes) - 1}")
        settings.edit.check(model.schedule)
        self.model, self.settings = model, settings

    def explain(
        self, items: Sequence[Item], judged: Sequence[Judged | Exception] | None = None
    ) -> list[Explanation | Exception]:
        """Return the explanation of each image, or what kept it from being judged.

        Args:
            items: Images with what is known of them; all are edited together.
            judged: Their classifications, if they are known already; these cost nothing.
        """
        found = self.judge([x for _, x, _ in items]) if judged is None else judged
        known = [one for one in found if isinstance(one, Judged)]
        chosen = [item for item, one in zip(items, found, strict=True) if isinstance(one, Judged)]
        if not known:
            return [one for one in found if isinstance(one, Exception)]
        y_src = [
            self._call(one) if self.settings.y_src is None else self.settings.y_src for one in known
        ]
        edits, forced = self._edit(chosen, y_src), self._forced(chosen, y_src)
        after = self.judge(list(edits.x_cf.cpu()))
        made = iter(
            then
            if isinstance(then, Exception)
            else self._explanation(chosen[n], edits, n, known[n], then, y_src[n], forced)
            for n, then in enumerate(after)
        )
        return [one if isinstance(one, Exception) else next(made) for one in found]

    def judge(self, images: Sequence[Tensor]) -> list[Judged | Exception]:
        """Classify images with evidence maps; an image that cannot be judged gives its error."""
        model, settings = self.model, self.settings
        maps: dict[int, ErrorMaps] = {}
        collector = EvidenceCollector(
            maps.__setitem__,
            part_edges(model.schedule),
            model.transform.wavelet,
            settings.space,
            settings.weights,
        )
        results = denoising_errors(
            model.denoiser,
            model.schedule,
            images,
            settings.bank,
            num_trials=settings.num_trials,
            encode=model.transform.encode,
            batch_size=settings.batch_size,
            device=next(model.parameters()).device,
            precision=settings.edit.precision,
            evidence=collector,
        )
        return [self._judged(result, maps) for result in results]

    @staticmethod
    def _judged(result: ImageErrors, maps: dict[int, ErrorMaps]) -> Judged | Exception:
        if result.failure is not None:
            return result.failure
        return Judged(result.errors, result.logsnr, maps.pop(result.index), result.calls)

    def _call(self, one: Judged) -> int:
        name = rule_name(self.settings.rule, self.settings.space)
        weights = self.settings.weights
        decided = apply_rule(name, one.errors[None], one.logsnr[None], weights=weights)
        return int(decided.y_hat[0])

    def _edit(self, items: Sequence[Item], y_src: Sequence[int]) -> Counterfactuals:
        y = torch.tensor(y_src)
        return counterfactuals(
            self.model,
            torch.stack([x for _, x, _ in items]),
            y,
            torch.full_like(y, self.settings.y_cf),
            self.settings.edit,
            controls=True,
            trajectory=self.settings.keep_trajectory,
        )

    def _forced(self, items: Sequence[Item], y_src: Sequence[int]) -> dict[str, Explained]:
        """Return the controls among the items, explained as the other of two classes."""
        y_cf, classes = self.settings.y_cf, self.model.classes
        controls = [
            item
            for item, y in zip(items, y_src, strict=True)
            if len(classes) == 2 and y == y_cf and item[0].label == classes[y_cf]
        ]
        if not controls:
            return {}
        edits = self._edit(controls, [1 - y_cf] * len(controls))
        return {
            item[0].image_id: self._explained(item, edits, n, 1 - y_cf, None)
            for n, item in enumerate(controls)
        }

    def _explained(
        self, item: Item, edits: Counterfactuals, n: int, y_src: int, evidence: PixelMap | None
    ) -> Explained:
        record, x, mask = item
        assert edits.x_null is not None
        assert edits.x_back is not None
        return Explained(
            image_id=record.image_id,
            group=record.patient_id or record.image_id,
            label=None if record.label is None else self.model.classes.index(record.label),
            y_src=y_src,
            y_cf=self.settings.y_cf,
            x=x.numpy(),
            x_factual=edits.x_factual[n].cpu().numpy(),
            x_cf=edits.x_cf[n].cpu().numpy(),
            x_null=edits.x_null[n].cpu().numpy(),
            x_back=edits.x_back[n].cpu().numpy(),
            evidence=evidence,
            mask=mask,
            nfe=edits.nfe,
        )

    def _explanation(
        self,
        item: Item,
        edits: Counterfactuals,
        n: int,
        before: Judged,
        after: Judged,
        y_src: int,
        forced: dict[str, Explained],
    ) -> Explanation:
        y_cf = self.settings.y_cf
        parts = over_pixels(evidence_parts(before.maps, y_src, y_cf), *item[1].shape[1:])
        margin = float(parts.sum(dtype=np.float64))
        shares = [vote_share(majority_vote(one.errors[None]))[0] for one in (before, after)]
        draws = (edits.cf_draws[:, n].cpu().numpy(), edits.factual_draws[:, n].cpu().numpy())
        trajectory = None if edits.trajectory is None else edits.trajectory[:, n].cpu().numpy()
        return Explanation(
            explained=self._explained(item, edits, n, y_src, parts.sum(axis=-1)),
            y_hat=self._call(before),
            y_hat_cf=self._call(after),
            share=shares[0],
            share_cf=shares[1],
            evidence=parts,
            margin=margin,
            vote_agrees=vote_agrees(before.errors[None], margin, y_src, y_cf),
            significance=significance(*draws) if len(draws[0]) > 1 else None,
            trajectory=trajectory,
            forced=forced.get(item[0].image_id),
            nfe_classify=before.nfe + after.nfe,
        )
