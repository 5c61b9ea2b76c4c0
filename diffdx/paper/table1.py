"""Table 1 from what its cells left behind: published beside measured, and what stands for what.

`table1.json`: `rows`, one for each method, set and metric: `{method, dataset, metric, published,
value, low, high, n, status, ...}`.

    done      made at full scale
    smoke     made in miniature, or no better than a guess where the paper's is: no reproduction
    absent    not made: `reason` says why

    guess     what naming one class without looking reaches: the share of the most frequent label
              (accuracy), 2p / (1 + p) with p the share of the positive one (F1), 1/2 (AUROC)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from diffdx._files import write_json
from diffdx._notice import NOTICE
from diffdx.data.audit.findings import read_audit
from diffdx.data.audit.run import run_audit
from diffdx.data.audit.subject import subject_of_lists
from diffdx.paper.carry_out import FAILED_FILE, is_finished
from diffdx.paper.cells import CELLS, Cell
from diffdx.paper.plan import STABLE_DIFFUSION, Plan
from diffdx.paper.published import DATASETS, METHODS, METRICS, DatasetName
from diffdx.paper.scales import SPLITS_FOLDER

Json = dict[str, Any]
Status = Literal["done", "smoke", "absent"]

TABLE_FILE = "table1.json"
SHOWN_METRICS = (*METRICS, "auroc")
_TABLE_2020 = "ISIC_2020_Training_GroundTruth.csv.gz"
_GUESS_OF_THE_PAPER = {"accuracy": 0.5, "f1": 2 / 3}
"""Its sets are balanced."""


def build_table(plan: Plan, cells: Sequence[Cell] = CELLS) -> Json:
    """Return the content of `table1.json`, and write it."""
    found = {
        "scale": plan.scale.name,
        "settings": plan.settings(),
        "rows": [row for cell in cells for row in cell_rows(plan, cell)],
        "methods": [
            {
                "name": m.name,
                "title": m.title,
                "here": plan.scale.titles.get(m.name, m.title),
                "family": m.family,
                "pretrained": m.pretrained,
            }
            for m in METHODS
            if any(cell.method is m for cell in cells)
        ],
        "images": {name: plan.scale.sources[name].folder for name in DATASETS},
        "audit": {name: source_only(plan, cells, name) for name in DATASETS},
        "research_use_only": NOTICE,
    }
    write_json(plan.out / TABLE_FILE, found)
    return found


def cell_rows(plan: Plan, cell: Cell) -> list[Json]:
    """Return the rows of a cell, one a metric."""
    common = {"method": cell.method.name, "dataset": cell.dataset}
    commands = [str(step) for step in plan.steps_of(cell)]
    if not is_finished(plan, cell):
        missing: Json = {"value": None, "low": None, "high": None, "n": None, "status": "absent"}
        missing |= {"reason": _reason(plan, cell), "commands": commands}
        return [
            {**common, "metric": m, "published": cell.method.value(cell.dataset, m), **missing}
            for m in SHOWN_METRICS
        ]
    folder = plan.folder(cell)
    summary = _read(folder / "predictions" / "summary.json")
    is_public = cell.method.name in STABLE_DIFFUSION and plan.scale.base is None
    facts = _facts(folder / "run", is_public=is_public)
    rows = []
    for metric in SHOWN_METRICS:
        scored, guess = summary[metric] or {}, _guess(summary, metric)
        published, low = cell.method.value(cell.dataset, metric), scored.get("low")
        is_guess = low is None or low <= guess
        rows.append(
            {
                **common,
                "metric": metric,
                "published": published,
                **{name: scored.get(name) for name in ("value", "low", "high")},
                "n": summary["n"] - summary["n_failed"] - summary["n_unlabelled"],
                "status": _status(plan, metric, published, is_guess=is_guess),
                "guess": guess,
                "interval_includes_guess": is_guess,
                "trials": summary["trials"],
                **facts,
                "commands": commands,
            }
        )
    return rows


def _status(plan: Plan, metric: str, published: float | None, *, is_guess: bool) -> Status:
    """Say what a row is worth; the paper's zero-shot row is itself a guess, and may be one here."""
    if plan.scale.name != "full":
        return "smoke"
    expected = published is not None and published <= _GUESS_OF_THE_PAPER[metric]
    return "smoke" if is_guess and not expected else "done"


def _guess(summary: Json, metric: str) -> float:
    counts = {name: sum(row.values()) for name, row in summary["confusion"].items()}
    total = sum(counts.values())
    if metric == "auroc":
        return 0.5
    if metric == "accuracy":
        return float(max(counts.values()) / total)
    share = counts[summary["positive"]] / total
    return float(2 * share / (1 + share))


def _facts(run: Path, *, is_public: bool) -> Json:
    """Return what was trained, from the run's own files; `is_public`: from public weights on."""
    record = _read(run / "run.json")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    model = config["model"]
    return {
        "pretrained": is_public or bool(model.get("pretrained", False)),
        "network": record.get("architecture") or config["preset"],
        "parameters": record["parameters"],
        "trained_steps": record["steps"],
        "images_seen": record["images_seen"],
        "train_seconds": record["train_seconds"],
        "image_size_px": model["data"]["image_size"],
        "recipe": config["recipe"],
        "model_sha256": record["model_sha256"],
    }


def _reason(plan: Plan, cell: Cell) -> str:
    failed = plan.folder(cell) / FAILED_FILE
    if failed.is_file():
        return f"failed: {failed.read_text(encoding='utf-8').strip()}"
    return plan.missing(cell) or "not made yet"


def source_only(plan: Plan, cells: Sequence[Cell], name: DatasetName) -> Json:
    """Return how well the publisher alone, without any pixel, tells a set's classes apart.

    `paper`: accuracy on the published test list, if the lists are there. `here`: that of the set
    used, from the audit of one of its runs; null where its images have one publisher.
    """
    runs = (plan.folder(cell) / "run" for cell in cells if cell.dataset == name)
    audits = (audit for run in runs if (audit := read_audit(run)) is not None)
    audit = next(audits, {"checks": []})
    here = next((c for c in audit["checks"] if c["name"] == "source_rule"), None)
    return {
        "paper": _published_source_rule(plan.root / SPLITS_FOLDER) if name == "isic" else None,
        "here": None if here is None else here["value"],
        "verdict_here": None if here is None else here["verdict"],
    }


def _published_source_rule(folder: Path) -> float | None:
    lists = [folder / f"isic-{role}.csv" for role in ("train", "valid", "test")]
    if not all(file.is_file() for file in (*lists, folder / _TABLE_2020)):
        return None
    checks = run_audit(subject_of_lists(lists, folder / _TABLE_2020)).checks
    value = next(check.value for check in checks if check.name == "source_rule")
    return None if value is None else float(value)


def _read(path: Path) -> Json:
    content: Json = json.loads(path.read_text(encoding="utf-8"))
    return content
