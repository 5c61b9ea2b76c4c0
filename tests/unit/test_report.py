"""The HTML page: all numbers are the summary's, no server is asked, every text is escaped."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffdx.errors import DataError
from diffdx.evaluation import evaluate_predictions, read_predictions
from diffdx.report import Counterfactual, explanation_figures, figures, pick_gallery, write_report

Make = Callable[..., Path]


def _report(folder: Path, **options: object) -> str:
    evaluate_predictions(folder, n_resamples=20)
    return write_report(folder, **options).read_text(encoding="utf-8")


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_every_number_is_the_one_in_the_summary(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels, failed=2)
    page = _report(folder, title="Chest X-rays")
    summary = json.loads((folder / "summary.json").read_text())
    marked = re.findall(r'<span data-key="([^"]*)">([^<]*)</span>', page)
    assert len(marked) > 80
    for key, shown in marked:
        value = summary
        for name in json.loads(unescape(key)):
            value = value[name]
        if isinstance(value, float):
            assert float(shown) == pytest.approx(value, abs=6e-4, rel=6e-4)
        else:
            assert unescape(shown) == (", ".join(value) if isinstance(value, list) else str(value))
    # Outside the marked spans, captions, styles and pictures no metric is written.
    rest = re.sub(r"<style>.*?</style>|<span data-key.*?</span>|<img[^>]*>", "", page, flags=re.S)
    assert not re.search(r"\d\.\d", rest)


def test_the_page_stands_alone_and_says_what_it_is_not(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    page = _report(predictions_folder(mixed_labels))
    assert "Research use only. Not a medical device." in page
    tags = _Tags(page).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    sources = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(sources) == 5
    assert all(source and source.startswith("data:image/png;base64,") for source in sources)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    for source in sources:
        picture = Image.open(BytesIO(base64.b64decode(str(source).partition(",")[2])))
        assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_names_from_folders_and_tables_are_escaped(predictions_folder: Make) -> None:
    hostile = "<script>alert(1)</script>"
    classes = (hostile, 'b" onload="x')
    folder = predictions_folder(
        [hostile, classes[1]] * 10, classes=classes, warnings=[hostile], device=hostile
    )
    flat = np.full((8, 8), 100, np.uint8)
    twin = Counterfactual(hostile, classes[1], flat, flat, flat, np.zeros((8, 8)))
    page = _report(folder, title=hostile, gallery=[(hostile, flat)], counterfactuals=[twin])
    tags = _Tags(page).tags
    assert "script" not in {tag for tag, _ in tags}
    assert all("onload" not in attrs for _, attrs in tags)
    assert page.count("&lt;script&gt;") >= 8


def test_gallery_takes_pixels_and_png_bytes(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    page = _report(
        predictions_folder(mixed_labels), gallery=[("one", pixels), ("two", stream.getvalue())]
    )
    shown = [attrs["src"] for tag, attrs in _Tags(page).tags if tag == "img"][-2:]
    for source in shown:
        picture = Image.open(BytesIO(base64.b64decode(str(source).partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_gallery_shows_the_telling_images(predictions_folder: Make) -> None:
    shares = [0, 3, 10, 11, 18, 21]  # votes for PNEUMONIA out of 21
    votes = np.arange(21) < np.array(shares)[:, None]
    values = np.where(np.stack([~votes, votes], axis=1), 0.9, 1.0).astype(np.float32)
    labels = ["NORMAL", "PNEUMONIA", "NORMAL", "NORMAL", "PNEUMONIA", "NORMAL"]
    stored = read_predictions(
        predictions_folder(labels, errors=(values, np.zeros((6, 21), np.float32)))
    )
    picked = pick_gallery(stored, each=1)
    assert [row for _, row in picked] == [5, 0, 2]
    assert picked[0][0] == "Certain but wrong: PNEUMONIA, labelled NORMAL; 100% of the votes"
    assert picked[1][0].startswith("Certain and right: NORMAL")
    assert picked[2][0].startswith("Most uncertain: NORMAL")
    everything = [row for _, row in pick_gallery(stored, each=6)]
    assert sorted(everything) == list(range(6))


def test_unlabelled_predictions_still_get_a_page(predictions_folder: Make) -> None:
    folder = predictions_folder([None] * 5)
    page = _report(folder)
    assert "&ndash;" in page
    assert "at least two labelled classes" in page
    assert [caption for caption, _ in pick_gallery(read_predictions(folder))] != []


def test_several_classes_get_a_page(predictions_folder: Make) -> None:
    page = _report(predictions_folder(["a", "b", "c$"] * 8, classes=("a", "b", "c$")))
    assert "predicted c$" in page


def test_patients_are_not_on_the_page(predictions_folder: Make, mixed_labels: list[str]) -> None:
    folder = predictions_folder(mixed_labels, patient_ids=["CANARY"] * 40)
    assert "CANARY" not in _report(folder)


def test_a_page_needs_an_evaluation_first(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    with pytest.raises(DataError, match="run `diffdx evaluate"):
        write_report(predictions_folder(mixed_labels))


def test_curves_drawn_are_the_curves_computed(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels)
    stored = read_predictions(folder)
    summary = evaluate_predictions(folder, n_resamples=10)
    roc = figures.roc_figure(stored).axes[0]
    drawn = {line.get_label(): line for line in roc.lines}
    assert np.trapezoid(drawn["vote"].get_ydata(), drawn["vote"].get_xdata()) == pytest.approx(
        summary["auroc"]["value"]
    )
    recall = summary["recall"]["PNEUMONIA"]["value"]
    assert roc.lines[1].get_ydata() == pytest.approx([recall])  # the dot: vote's own threshold
    accuracy, area = (axes.lines[0].get_ydata()[-1] for axes in figures.trials_figure(stored).axes)
    assert (accuracy, area) == pytest.approx(
        (summary["accuracy"]["value"], summary["auroc"]["value"])
    )
    assert figures.uncertainty_figure(stored).axes[0].lines[0].get_ydata()[0] == pytest.approx(
        accuracy
    )
    heights = sum(bar.get_height() for bar in figures.share_figure(stored).axes[0].patches)
    assert heights == 40


def test_difference_maps_share_one_symmetric_scale(tmp_path: Path) -> None:
    flat = np.full((4, 4), 100, np.uint8)
    drawn = []
    for largest in (0.3, 1.0):
        difference = np.zeros((4, 4), np.float32)
        difference[0] = (0.2, -0.2, largest, -largest)
        shown = Counterfactual("a", "b", flat, flat, flat, difference)
        explanation_figures.write_pictures(tmp_path, shown)
        drawn.append(np.asarray(Image.open(tmp_path / "difference.png"))[::128, ::128].astype(int))
    np.testing.assert_array_equal(drawn[0][0, :2], drawn[1][0, :2])
    red, blue = drawn[0][0, 0], drawn[0][0, 1]
    assert red[0] > red[2] + 20
    assert blue[2] > blue[0] + 20
    assert (drawn[0][1:] == 100).all(), "where nothing changes, the image shows through"


def test_an_explained_image_has_five_panels_and_its_significant_change_a_line() -> None:
    rng = np.random.default_rng(0)
    flat, z = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8), np.float32)
    z[2:5, 2:5] = -3
    evidence = rng.normal(size=(8, 8, 4)).astype(np.float32)
    maps = {"difference": z / 10, "evidence": evidence, "significance": z}
    shown = Counterfactual("a", "b", flat, flat, flat, **maps, caption="labelled $a")
    figure = explanation_figures.sheet_figure([shown, shown])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 10
    assert len(panels[3].collections) == 1
    assert [text.get_text() for text in panels[0].texts] == [r"labelled \$a"]
    with pytest.raises(ValueError, match="no evidence map"):
        explanation_figures.parts_figure(replace(shown, evidence=None))


def test_pandas_reads_the_folder_that_the_page_describes(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels)
    page = _report(folder)
    right = pd.read_parquet(folder / "predictions.parquet").eval("label == prediction").mean()
    assert f"{right:.3f}" in page
