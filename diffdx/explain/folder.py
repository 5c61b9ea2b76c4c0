"""A folder of explanations: arrays and a table row of each image.

    NNNN/arrays.npz         x, x_factual, x_cf, x_null, x_back: (C, H, W) float32 in model range;
                            evidence (H, W, 4), noisy to clean; where there are any: significance
                            (H, W), mask (H, W), trajectory (S, C, H, W), forced_x_factual, ...
    explanations.parquet    a row per image, in the order of the folders; .csv the same
    explanations.json       the settings and the counts

An image that failed has a row with status `error` and no folder.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffdx._files import atomic_path, write_json
from diffdx._notice import NOTICE
from diffdx.classification.predictions import write_csv
from diffdx.data.dataset import Record
from diffdx.explain.explained import Explained
from diffdx.explain.explainer import Explainer, Explanation
from diffdx.explain.judges import RememberedJudge

TABLE_FILE = "explanations"
ARRAYS_FILE = "arrays.npz"
_PICTURES = ("x", "x_factual", "x_cf", "x_null", "x_back")
_FORCED = "forced_"


class ExplanationFolder:
    """Writes explanations as they are made.

    Attributes:
        path: The folder.
        rows: Rows of the table so far.
        explained: What was explained, for the scorecard.
        forced: The controls explained as the other class.
        self_judge: What the model itself called the images and their counterfactuals.
    """

    def __init__(self, path: Path, explainer: Explainer) -> None:
        """Start an empty folder."""
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.explained: list[Explained] = []
        self.forced: list[Explained] = []
        self.self_judge = RememberedJudge(len(explainer.model.classes))
        self._model, self._settings = explainer.model, explainer.settings

    def add(self, record: Record, result: Explanation | Exception) -> Path | None:
        """Write one image; return its folder, or None if it failed."""
        number = len(self.rows)
        row: dict[str, Any] = {
            "image_id": record.image_id,
            "path": record.path,
            "patient_id": record.patient_id,
            "label": record.label,
            "status": "ok",
            "error": None,
        }
        self.rows.append(row)
        if isinstance(result, Exception):
            row |= {"status": "error", "error": " ".join(str(result).split())}
            return None
        folder = self.path / f"{number:04d}"
        _write_arrays(folder / ARRAYS_FILE, result)
        self.explained.append(result.explained)
        self.self_judge.remember(result.explained.x, result.y_hat)
        self.self_judge.remember(result.explained.x_cf, result.y_hat_cf)
        if result.forced is not None:
            self.forced.append(result.forced)
        row |= {"folder": folder.name, **self._facts(result)}
        return folder

    def _facts(self, result: Explanation) -> dict[str, Any]:
        classes, edit, one = self._model.classes, self._settings.edit, result.explained
        return {
            "y_src": classes[one.y_src],
            "y_cf": classes[one.y_cf],
            "prediction": classes[result.y_hat],
            "prediction_cf": classes[result.y_hat_cf],
            **{f"vote_share_{name}": result.share[k] for k, name in enumerate(classes)},
            **{f"vote_share_cf_{name}": result.share_cf[k] for k, name in enumerate(classes)},
            **result.facts(edit),
            "draws": edit.draws,
            "nfe": one.nfe,
            "nfe_classify": result.nfe_classify,
        }

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the table and `explanations.json`; return the content of the latter.

        Args:
            facts: What else it says.
        """
        table = pd.DataFrame(self.rows).convert_dtypes()
        with atomic_path(self.path / f"{TABLE_FILE}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        write_csv(table, self.path / f"{TABLE_FILE}.csv")
        settings = self._settings
        ok = table[table["status"] == "ok"]
        info = {
            "notice": NOTICE,
            "n": len(table),
            "n_failed": len(table) - len(ok),
            "n_same_class": int((ok["y_src"] == ok["y_cf"]).sum()) if len(ok) else 0,
            "n_vote_disagrees": int((~ok["vote_agrees"].astype(bool)).sum()) if len(ok) else 0,
            "classes": list(self._model.classes),
            "positive": self._model.positive,
            "target": self._model.classes[settings.y_cf],
            **dataclasses.asdict(settings.edit),
            "trials": settings.num_trials,
            "bank": settings.bank_size,
            "rule": settings.rule,
            "space": settings.space,
            "nfe": self._calls(),
            "model_sha256": self._model.sha256,
            **facts,
        }
        write_json(self.path / f"{TABLE_FILE}.json", info)
        return info

    def _calls(self) -> int:
        """Return all network evaluations, those of the controls' second edits too."""
        rows = sum(row.get("nfe", 0) + row.get("nfe_classify", 0) for row in self.rows)
        return int(rows + sum(one.nfe for one in self.forced))


def _write_arrays(path: Path, result: Explanation) -> None:
    one, arrays = result.explained, {"evidence": result.evidence}
    arrays |= {name: getattr(one, name) for name in _PICTURES}
    if result.forced is not None:
        arrays |= {_FORCED + name: getattr(result.forced, name) for name in _PICTURES[1:]}
    others = {
        "mask": one.mask,
        "significance": result.significance,
        "trajectory": result.trajectory,
    }
    arrays |= {name: array for name, array in others.items() if array is not None}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
