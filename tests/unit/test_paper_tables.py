"""Table 1 in words and HTML: every number is that of `table1.json`, and nothing is fetched."""

import re

import pytest

from diffdx.report.paper_tables import NONE, table_html, table_markdown


def row(method, dataset, metric, **more):
    published = {"accuracy": 0.909, "f1": 0.910}.get(metric)
    return {
        "method": method, "dataset": dataset, "metric": metric, "published": published,
        "value": 0.7654, "low": 0.7123, "high": 0.8321, "n": 236, "status": "smoke", "guess": 0.5,
        "interval_includes_guess": False, "pretrained": False, "network": "small-unet",
        "parameters": 5_500_000, "trained_steps": 300, "images_seen": 9600, "image_size_px": 64,
    } | more  # fmt: skip


@pytest.fixture
def found():
    absent = {"value": None, "low": None, "high": None, "n": None, "status": "absent"}
    rows = [row("unet", "isic", metric) for metric in ("accuracy", "f1", "auroc")]
    rows[1] |= {"interval_includes_guess": True, "low": None}
    rows += [
        {"method": "unet", "dataset": "chexpert", "metric": metric, "published": 0.8, **absent}
        | {"reason": "failed: <b>no</b> | luck"}
        for metric in ("accuracy", "f1", "auroc")
    ]
    title = {"name": "unet", "title": "UNet", "here": "small UNet", "family": "DM"}
    return {
        "scale": "smoke",
        "images": {"chexpert": "chest-xray", "isic": "isic-melanoma"},
        "settings": {"trials": 31, "limit": 240},
        "rows": rows,
        "methods": [title | {"pretrained": False}],
        "audit": {
            "isic": {"paper": 0.938, "here": 0.512},
            "chexpert": {"paper": None, "here": None},
        },
    }


def test_markdown_shows_published_beside_measured(found):
    text = table_markdown(found)
    line = next(line for line in text.splitlines() if line.startswith("| UNet"))
    cells = [part.strip() for part in line.strip("|").split(" | ")]
    assert cells[0] == "UNet (diffusion; here: small UNet)"
    assert cells[1] == "no / no"
    assert cells[2] == f"80.0 / {NONE}"
    assert cells[5] == "90.9 / 76.5 (71.2 to 83.2)"
    assert cells[6] == f"0.910 / 0.765† ({NONE} to 0.832)", "a guess is marked"
    assert cells[7] == f"{NONE} / 0.765 (0.712 to 0.832)", "the paper prints no AUROC"
    assert cells[8] == "CheXpert: absent; ISIC: smoke"
    audited = next(line for line in text.splitlines() if "source-only" in line)
    assert "| 93.8 / 51.2 |" in audited
    columns = {line.count(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert len(columns) == 1


def test_the_notes_say_what_stands_for_what(found):
    text = table_markdown(found)
    assert "Scaled down: 64 px" in text
    assert "31 trials; at most 240 test images" in text
    assert (
        "unet on ISIC: small-unet, 5.5 M parameters, 300 steps, 9,600 images seen, n = 236" in text
    )
    assert "unet on CheXpert: failed: <b>no</b> | luck" in text
    assert "Scaled down" not in table_markdown(found | {"scale": "full"})


def test_the_page_quotes_the_same_and_asks_no_server(found):
    page = table_html(found)
    for text in (
        "76.5",
        "71.2 to 83.2",
        "here: isic-melanoma",
        "90.9",
        "93.8",
        "0.765†",
        "here: small UNet",
    ):
        assert text in page, text
    assert "<b>no</b>" not in page, "words of others are text, not markup"
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|<script""", page)
    assert page.count('scope="row"') == 2
    assert "Research use only" in page
