"""The page of calibrated predictions: its sections appear with their data, and tell the same."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from diffdx.evaluation import evaluate_predictions, read_predictions
from diffdx.report import calibration_figures, curve_figures, gather_facts, write_report
from diffdx.uncertainty.annotate import annotate
from diffdx.uncertainty.calibration import CalibrationFile
from diffdx.uncertainty.fit import CalibrationImages, fit_calibration

Make = Callable[..., Path]


@pytest.fixture
def folder(predictions_folder: Make, mixed_labels: list[str], tmp_path: Path) -> Path:
    """120 images of 120 patients, calibrated on themselves."""
    made = predictions_folder(mixed_labels * 3, patient_ids=[f"p{i}" for i in range(120)])
    stored = read_predictions(made)
    images = CalibrationImages(
        stored.errors,
        stored.logsnr,
        stored.labels,
        stored.patients,
        tuple(stored.classes),
        stored.settings["positive"],
    )
    run = tmp_path / "run"
    run.mkdir()
    entry = fit_calibration(images, stop="none")
    CalibrationFile(
        stored.settings["model_sha256"], images.classes, images.positive, {"none": entry}
    ).write(run)
    annotate(made, run)
    return made


def test_the_calibrated_numbers_are_those_of_the_summary(folder: Path) -> None:
    evaluate_predictions(folder, n_resamples=20)
    page = write_report(gather_facts([folder]), folder / "report.html").read_text(encoding="utf-8")
    found = json.loads((folder / "summary.json").read_text())["calibration"]
    marked = re.findall(r'<span data-file="0/summary.json" data-key="([^"]*)">([^<]*)</span>', page)
    shown = {tuple(json.loads(unescape(key))): unescape(text) for key, text in marked}
    for place, value in {
        ("ece",): found["ece"],
        ("brier", "low"): found["brier"]["low"],
        ("coverage", "marginal"): found["coverage"]["marginal"],
        ("coverage", "per_class", "NORMAL"): found["coverage"]["per_class"]["NORMAL"],
        ("selective", "accuracy_at", "0.55"): found["selective"]["accuracy_at"]["0.55"],
        ("triage", "answered"): found["triage"]["answered"],
        **{("triage", "n", name): n for name, n in found["triage"]["n"].items() if n},
        ("ood", "flagged"): found["ood"]["flagged"],
    }.items():
        assert float(shown["calibration", *place]) == pytest.approx(value, abs=6e-4)
    assert page.count("<svg") == 10
    assert "exchangeable" in page
    # A share of nobody is a dash, not a zero.
    if found["triage"]["ppv"] is None:
        assert ("calibration", "triage", "ppv") not in shown


def test_without_calibration_its_sections_are_absent(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    plain = predictions_folder(mixed_labels)
    evaluate_predictions(plain, n_resamples=20)
    page = write_report(gather_facts([plain]), plain / "report.html").read_text(encoding="utf-8")
    assert "Probabilities</h2>" not in page
    assert "Net benefit" not in page
    assert "A run that is not calibrated has no probabilities" in page


def test_figures_draw_what_the_table_holds(folder: Path) -> None:
    stored = read_predictions(folder)
    p, y = stored.table["prob_PNEUMONIA"].to_numpy(), stored.labels
    diagram, behind = calibration_figures.reliability_figure(stored).axes
    claimed, observed = diagram.lines[1].get_data()
    assert min(p) - 1e-12 <= min(claimed) <= max(claimed) <= max(p) + 1e-12
    assert all(0 <= share <= 1 for share in observed)
    assert sum(bar.get_height() for bar in behind.patches) == 120

    by_probability, everyone, nobody = calibration_figures.decision_figure(stored).axes[0].lines
    t = by_probability.get_xdata()
    np.testing.assert_allclose(
        everyone.get_ydata(), y.mean() - (1 - y.mean()) * t / (1 - t), atol=1e-12
    )
    middle = np.abs(t - 0.5).argmin()
    acted = p >= t[middle]
    assert by_probability.get_ydata()[middle] == pytest.approx(
        (acted & (y == 1)).mean() - (acted & (y == 0)).mean() * t[middle] / (1 - t[middle])
    )
    assert set(nobody.get_ydata()) == {0}

    gate = calibration_figures.gate_figure(stored).axes[0]
    assert sum(bar.get_height() for bar in gate.patches) == 120
    expected, limit = gate.lines
    assert (expected.get_ydata()[0], limit.get_xdata()[0]) == (120 / 20, 0.05)

    curves = curve_figures.selective_figure({"one": stored}).axes[0].lines
    all_answered = {line.get_label(): line.get_ydata()[0] for line in curves}
    assert all_answered["by calibrated probability"] == pytest.approx(
        ((p > 0.5) == (y == 1)).mean()
    )
    assert len(all_answered) == 2
