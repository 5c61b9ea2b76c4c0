"""The HTML page: all numbers are the files', no server is asked, every text is escaped."""

import base64
import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffdx.errors import ConfigError, DataError
from diffdx.evaluation import evaluate_predictions, read_predictions
from diffdx.evaluation.subgroups import evaluate_subgroups
from diffdx.report import (
    Counterfactual,
    curve_figures,
    explanation_figures,
    figures,
    gather_facts,
    make_cases,
    write_report,
)
from diffdx.report.cases import Explanations, choose_cases

Make = Callable[..., Path]
MARKED = re.compile(r'<span data-file="([^"]*)" data-key="([^"]*)">([^<]*)</span>')


def report(folder: Path, *, title: str = "Predictions", **options: object) -> str:
    evaluate_predictions(folder, n_resamples=20)
    facts = gather_facts([folder])
    cases = {run.name: make_cases(run) for run in facts.runs}
    page = write_report(facts, folder / "report.html", title=title, cases=cases, **options)
    return page.read_text(encoding="utf-8")


def entries(page: str) -> list[tuple[str, list[str | int], str]]:
    """File, place and text of every number or word that the page quotes."""
    return [
        (html.unescape(file), json.loads(html.unescape(key)), html.unescape(text))
        for file, key, text in MARKED.findall(page)
    ]


def assert_quoted(page: str, contents: dict[str, object]) -> None:
    """Every quoted entry is the one in its file, as far as its digits go."""
    for file, place, shown in entries(page):
        found = contents[file]
        for key in place:
            found = found[key]
        if isinstance(found, float | np.floating):
            digits = shown.replace(",", "")
            assert float(digits) == pytest.approx(float(found), rel=0.06, abs=6e-4), (file, place)
        elif isinstance(found, list):
            assert shown == ", ".join(found)
        else:
            assert shown.replace(",", "") == str(found).replace(",", ""), (file, place)


def rows_of(folder: Path) -> dict[int, dict[str, object]]:
    """The prediction table by its rows in a spreadsheet."""
    table = pd.read_parquet(folder / "predictions.parquet")
    return {i + 2: row for i, row in enumerate(table.to_dict("records"))}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty noisy pictures, named as the predictions of the fixture name them."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{i:03d}.png")
    return folder


def test_every_number_is_the_one_in_its_file(predictions_folder: Make, mixed_labels) -> None:
    folder = predictions_folder(mixed_labels, failed=2)
    page = report(folder, title="Chest X-rays")
    summary = json.loads((folder / "summary.json").read_text())
    assert_quoted(page, {"0/summary.json": summary, "0/predictions.csv": rows_of(folder)})
    assert len(entries(page)) > 120
    # Outside the marked spans, figures, styles and captions no number with a point is written.
    rest = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<footer.*", "", page, flags=re.S)
    assert not re.search(r"\d\.\d", re.sub(MARKED, "", re.sub(r'style="[^"]*"', "", rest)))


def test_the_page_stands_alone_and_says_what_it_is_not(
    predictions_folder: Make, mixed_labels
) -> None:
    page = report(predictions_folder(mixed_labels))
    assert page.count("Research use only. Not a medical device.") == 2
    tags = Tags(page)
    names = {tag for tag, _ in tags.tags}
    assert not {"script", "link", "iframe", "object", "base", "form"} & names
    for attrs in (attrs for _, attrs in tags.tags):
        for name in ("src", "href", "xlink:href", "srcset", "poster"):
            assert re.match(r"data:image/png;base64,|#", attrs.get(name) or "#")
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert len(tags.named("svg")) == 7
    ids = [str(attrs["id"]) for _, attrs in tags.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:xlink:)?href="#([^"]+)"|url\(#([^)]+)\)', page):
        assert "".join(reference) in ids


def test_whoever_hears_the_page_finds_everything(predictions_folder: Make, mixed_labels) -> None:
    tags = Tags(report(predictions_folder(mixed_labels)))
    landmarks = {"header", "nav", "main", "footer"} & {tag for tag, _ in tags.tags}
    assert landmarks == {"header", "nav", "main", "footer"}
    assert tags.named("html")[0]["lang"] == "en"
    order = [tag for tag, _ in tags.tags if tag in {"h1", "h2", "h3", "table", "caption"}]
    assert order[0] == "h1"
    assert order.count("h1") == 1
    assert order.count("table") == order.count("caption") > 5
    assert all(attrs["scope"] in {"row", "col"} for attrs in tags.named("th"))
    assert all(attrs["alt"] for attrs in tags.named("img"))
    assert all(attrs["aria-label"] and attrs["role"] == "img" for attrs in tags.named("svg"))
    first = next(attrs for tag, attrs in tags.tags if tag == "a")
    assert (first["class"], first["href"]) == ("skip", "#content")


def test_names_from_folders_and_tables_are_escaped(predictions_folder: Make) -> None:
    hostile = "<script>alert(1)</script>"
    classes = (hostile, 'b" onload="x$')
    folder = predictions_folder(
        [hostile, classes[1]] * 10, classes=classes, warnings=[hostile], device=hostile
    )
    flat = np.full((8, 8), 100, np.uint8)
    twin = Counterfactual(hostile, classes[1], flat, flat, flat, np.zeros((8, 8)))
    page = report(folder, title=hostile, counterfactuals=[twin])
    tags = Tags(page)
    assert "script" not in {tag for tag, _ in tags.tags}
    assert all("onload" not in attrs for _, attrs in tags.tags)
    assert page.count("&lt;script&gt;") >= 8


def test_cases_show_the_pixels_where_they_are(
    predictions_folder: Make, mixed_labels, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = predictions_folder(mixed_labels, failed=1)
    (images / "i002.png").unlink(missing_ok=True)
    assert "cannot be read where it was" in report(folder)
    monkeypatch.chdir(images)
    evaluate_predictions(folder, n_resamples=20)
    (run,) = gather_facts([folder]).runs
    cases = make_cases(run, each=40)
    assert len(cases) == 40
    for case in cases:
        number = case.row - 2
        if number == 2:
            assert (case.pictures, case.missing[:9]) == ([], "The image")
            continue
        (picture,) = case.pictures
        shown = np.asarray(Image.open(BytesIO(picture.data)))[8::16, 8::16]
        np.testing.assert_array_equal(shown, np.asarray(Image.open(f"i{number:03d}.png")))


def test_the_telling_images_are_chosen(predictions_folder: Make) -> None:
    shares = [0, 3, 10, 11, 18, 21]  # votes for PNEUMONIA out of 21
    votes = np.arange(21) < np.array(shares)[:, None]
    values = np.where(np.stack([~votes, votes], axis=1), 0.9, 1.0).astype(np.float32)
    labels = ["NORMAL", "PNEUMONIA", "NORMAL", "NORMAL", "PNEUMONIA", "NORMAL"]
    stored = read_predictions(
        predictions_folder(labels, errors=(values, np.zeros((6, 21), np.float32)))
    )
    assert choose_cases(stored, each=1) == [("wrong", 5), ("right", 0), ("unsure", 2)]
    assert sorted(i for _, i in choose_cases(stored, each=6)) == list(range(6))


def test_explained_images_bring_their_pictures(
    predictions_folder: Make, mixed_labels, tmp_path: Path
) -> None:
    folder = predictions_folder(mixed_labels)
    evaluate_predictions(folder, n_resamples=20)
    explained = tmp_path / "explained"
    (explained / "0000").mkdir(parents=True)
    row = {"image_id": "i007", "status": "ok", "folder": "0000", "y_src": "A", "y_cf": "B"}
    pd.DataFrame([row]).to_parquet(explained / "explanations.parquet")
    for name in ("factual", "counterfactual", "difference"):
        Image.new("L", (8, 8)).save(explained / "0000" / f"{name}.png")
    (run,) = gather_facts([folder]).runs
    cases = make_cases(run, explained=Explanations([explained]), each=1)
    (case,) = (case for case in cases if case.row == 9)
    assert case.kind == "explained"
    assert [picture.name for picture in case.pictures] == ["as A", "as B", "what changed"]
    page = write_report(gather_facts([folder]), tmp_path / "p.html", cases={run.name: cases})
    assert 'alt="as B, row 9"' in page.read_text()
    with pytest.raises(DataError, match="that `diffdx explain --out` wrote"):
        Explanations([folder])


def test_unlabelled_predictions_still_get_a_page(predictions_folder: Make) -> None:
    folder = predictions_folder([None] * 5)
    page = report(folder)
    assert "not defined" in page
    assert "at least two labelled classes" in page
    assert page.count('<li class="case') == 4


def test_several_classes_get_a_page(predictions_folder: Make) -> None:
    page = report(predictions_folder(["a", "b", "c$"] * 8, classes=("a", "b", "c$")))
    assert "called c$" in page
    assert len(Tags(page).named("svg")) == 7


def test_no_patient_and_no_file_is_named(predictions_folder: Make, mixed_labels) -> None:
    folder = predictions_folder(mixed_labels, patient_ids=["CANARY"] * 40)
    page = report(folder)
    assert "CANARY" not in page
    assert not re.search(r"i0\d\d", re.sub(r"base64,[^\"]*", "", page))


def test_several_runs_stand_side_by_side(
    predictions_folder: Make, mixed_labels, tmp_path: Path
) -> None:
    first = predictions_folder(mixed_labels)
    evaluate_predictions(first, n_resamples=20)
    second = first.rename(tmp_path / "first")
    other = predictions_folder(mixed_labels, seed=7)
    evaluate_predictions(other, n_resamples=10)
    facts = gather_facts([second, other])
    assert [run.name for run in facts.runs] == ["first", "out"]
    page = write_report(facts, tmp_path / "both.html").read_text()
    contents = {
        f"{i}/summary.json": json.loads((folder / "summary.json").read_text())
        for i, folder in enumerate((second, other))
    }
    assert_quoted(page, contents)
    assert {file for file, _, _ in entries(page)} == set(contents)
    assert page.count('<th scope="col">first</th>') >= 3
    nested = other.rename(tmp_path / "deep")
    (tmp_path / "x").mkdir()
    again = second.rename(tmp_path / "x" / "deep")
    named = [run.name for run in gather_facts([nested, again]).runs]
    assert named == [str(nested), str(again)]


def test_groups_are_shown_as_they_were_measured(predictions_folder: Make, mixed_labels) -> None:
    folder = predictions_folder(mixed_labels)
    metadata = {f"i{i:03d}": {"sex": "<f>" if i % 2 else "m"} for i in range(40)}
    evaluate_subgroups(read_predictions(folder), metadata, n_resamples=20)
    page = report(folder)
    found = json.loads((folder / "subgroups.json").read_text())
    contents = {"0/subgroups.json": found, "0/predictions.csv": rows_of(folder)}
    contents["0/summary.json"] = json.loads((folder / "summary.json").read_text())
    assert_quoted(page, contents)
    assert "&lt;f&gt;" in page
    assert sum(file == "0/subgroups.json" for file, _, _ in entries(page)) > 20


def test_a_page_needs_an_evaluation_first(predictions_folder: Make, mixed_labels) -> None:
    folder = predictions_folder(mixed_labels)
    with pytest.raises(DataError, match="run `diffdx evaluate"):
        gather_facts([folder])
    (folder / "summary.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        gather_facts([folder])
    (folder / "summary.json").write_text('{"kind": "diffusion"}')
    with pytest.raises(DataError, match=r"no calibration, audit, .* earlier version"):
        gather_facts([folder])


def test_one_comparison_fits_on_a_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "comparison.json").write_text("{}")
    with pytest.raises(ConfigError, match="both hold a comparison"):
        gather_facts([tmp_path / "a", tmp_path / "b"])


def test_curves_drawn_are_the_curves_computed(predictions_folder: Make, mixed_labels) -> None:
    folder = predictions_folder(mixed_labels)
    stored = read_predictions(folder)
    summary = evaluate_predictions(folder, n_resamples=10)
    chance, curve, dot = curve_figures.roc_figure({"one": stored}).axes[0].lines
    area = np.trapezoid(curve.get_ydata(), curve.get_xdata())
    assert area == pytest.approx(summary["auroc"]["value"])
    recall = summary["recall"]["PNEUMONIA"]["value"]
    assert dot.get_ydata() == pytest.approx([recall])  # the rule's own threshold
    assert list(chance.get_xdata()) == [0, 1]
    lines = curve_figures.precision_recall_figure({"one": stored}).axes[0].lines
    confusion = summary["confusion"]
    found = confusion["PNEUMONIA"]["PNEUMONIA"]
    precision = found / (found + confusion["NORMAL"]["PNEUMONIA"])
    assert (lines[1].get_xdata()[0], lines[1].get_ydata()[0]) == pytest.approx((recall, precision))
    trials = {
        line.get_label(): line.get_ydata()[-1]
        for line in figures.trials_figure(stored).axes[0].lines
    }
    assert trials["accuracy, vote"] == pytest.approx(summary["accuracy"]["value"])
    assert trials["AUROC, vote"] == pytest.approx(summary["auroc"]["value"])
    (kept,) = curve_figures.selective_figure({"one": stored}).axes[0].lines
    answered = dict(zip(kept.get_xdata(), kept.get_ydata(), strict=True))
    assert answered[1.0] == pytest.approx(summary["accuracy"]["value"])
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
    predictions_folder: Make, mixed_labels
) -> None:
    folder = predictions_folder(mixed_labels)
    page = report(folder)
    right = pd.read_parquet(folder / "predictions.parquet").eval("label == prediction").mean()
    assert f"{right:.3f}" in page


def test_a_picture_that_is_embedded_is_a_picture(
    predictions_folder: Make, mixed_labels, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    sources = [
        attrs["src"] for attrs in Tags(report(predictions_folder(mixed_labels))).named("img")
    ]
    assert sources
    for source in sources:
        picture = Image.open(BytesIO(base64.b64decode(str(source).partition(",")[2])))
        assert picture.info == {}, "no metadata"
        assert np.asarray(picture.convert("L")).std() > 5
