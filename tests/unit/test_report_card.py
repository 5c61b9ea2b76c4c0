"""Model and card: what a run folder adds to a page, and what measuring adds to its card."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffdx.errors import ConfigError, DataError
from diffdx.evaluation import evaluate_predictions, read_predictions
from diffdx.evaluation.subgroups import evaluate_subgroups
from diffdx.report import gather_facts, write_report
from diffdx.report.card import BEGINNING, write_card
from diffdx.report.limits import limits, warnings

Make = Callable[..., Path]


def make_run(folder: Path, sha256: str = "ab" * 32) -> Path:
    """A run folder with what a page reads of it."""
    best = folder / "checkpoints" / "best"
    best.mkdir(parents=True)
    data = {"image_size": 64, "channels": 1, "resize": "squash"}
    (best / "model.json").write_text(json.dumps({"sha256": sha256, "model": {"data": data}}))
    check = {"name": "pixel_rule", "verdict": "warn", "value": 0.75, "detail": "border <b>"}
    audit = {"verdict": "warn", "line": "warn (pixel_rule 0.750)", "checks": [check]}
    (folder / "audit.json").write_text(json.dumps(audit))
    record = {"dataset": "chest|x", "counts": {"train/NORMAL": 5}, "versions": {"diffdx": "0"}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "model_card.md").write_text("# Model\n\nTrained.\n")
    return folder


@pytest.fixture
def predictions(predictions_folder: Make, mixed_labels: list[str]) -> Path:
    folder = predictions_folder(mixed_labels, warnings=["Audit before training: warn"])
    evaluate_predictions(folder, n_resamples=20)
    return folder


def test_the_run_folder_brings_its_audit(predictions: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    facts = gather_facts([predictions], [run])
    page = write_report(facts, tmp_path / "page.html").read_text()
    assert "pixel rule" in page
    assert "border &lt;b&gt;" in page
    assert "64 x 64 pixels" in page
    assert "none is known" not in page


def test_without_it_the_warning_of_the_results_is_shown(predictions: Path, tmp_path: Path) -> None:
    page = write_report(gather_facts([predictions]), tmp_path / "page.html").read_text()
    assert "Audit: <span" in page
    summary = json.loads((predictions / "summary.json").read_text())
    (predictions / "summary.json").write_text(json.dumps(summary | {"audit": None}))
    page = write_report(gather_facts([predictions]), tmp_path / "page.html").read_text()
    assert "none is known" in page


def test_a_run_that_made_nothing_here_is_refused(predictions: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="made none of these predictions"):
        gather_facts([predictions], [make_run(tmp_path / "run", "cd" * 32)])
    with pytest.raises(DataError, match="name a run folder"):
        gather_facts([predictions], [predictions])


def test_the_card_quotes_the_results_and_is_replaced(predictions: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (facts,) = gather_facts([predictions], [run]).runs
    card = write_card([facts])
    text = card.read_text()
    value = json.loads((predictions / "summary.json").read_text())["auroc"]
    assert f"| {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}) |" in text
    assert text.startswith("# Model\n\nTrained.\n")
    assert "Research use only" in text
    assert r"chest\|x: warn" in text
    assert "not calibrated" in text
    assert all(line in text for line in limits(gather_facts([predictions], [run])))
    assert write_card([facts]).read_text() == text
    assert text.count(BEGINNING) == 1
    columns = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(columns)) == 1

    metadata = {f"i{i:03d}": {"sex": "f|x" if i % 2 else "m"} for i in range(40)}
    evaluate_subgroups(read_predictions(predictions), metadata, n_resamples=5)
    (facts,) = gather_facts([predictions], [run]).runs
    assert r"| sex | f\|x | 20 " in write_card([facts]).read_text()
    card.unlink()
    with pytest.raises(DataError, match="finished run"):
        write_card([facts])


def test_warnings_name_their_runs_only_where_they_differ(predictions: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in predictions.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    summary = json.loads((other / "summary.json").read_text())
    summary["warnings"] += ["only here"]
    (other / "summary.json").write_text(json.dumps(summary))
    found = dict(warnings(gather_facts([predictions, other])))
    assert found["Audit before training: warn"] == []
    assert found["only here"] == ["other"]
