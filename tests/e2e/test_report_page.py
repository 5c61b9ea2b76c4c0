"""The page in a real browser: nothing asked of anyone, accessible, printable, narrow and dark."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
AXE = Path(os.environ.get("DIFFDX_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
STORED = ROOT / "assets" / "cxr64" / "errors" / "calib"


def ok(*words: object) -> str:
    command = [sys.executable, "-m", "diffdx", *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise named as the stored predictions name their images, each with a sex."""
    folder = tmp_path_factory.mktemp("data")
    table = pd.read_parquet(STORED / "predictions.parquet", columns=["image_id", "label"])
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    for name in table["image_id"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shown.save(folder / name, format="png")
    table["sex"] = np.where(np.arange(len(table)) % 2, "female", "male")
    table.rename(columns={"image_id": "path"}).to_csv(folder / "metadata.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The report of the reference run on its calibration images, by the command."""
    folder = tmp_path_factory.mktemp("report") / "out"
    folder.mkdir()
    for file in STORED.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    run = ROOT / "assets" / "cxr64"
    ok("evaluate", folder, "--resamples=50", "-q")
    shown = ok("report", folder, f"--run={run}", f"--data={data}", "--by=sex", "--json")
    assert json.loads(shown)["pages"] == [str(folder / "report.html")]
    return folder / "report.html"


@pytest.mark.slow
def test_the_command_shows_groups_audit_and_cases(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for wanted in ("By sex", "female", "Audit of the data", "filename rule", "Cases"):
        assert wanted in text
    assert text.count('alt="image, row') == 12
    groups = json.loads((page.parent / "subgroups.json").read_text())["columns"][0]["groups"]
    assert [group["group"] for group in groups] == ["female", "male"]


@pytest.mark.slow
def test_a_browser_finds_nothing_to_object_to(page: Path, tmp_path: Path) -> None:
    browser = which("chromium")
    if browser is None:
        pytest.skip("needs the Debian package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as start:
        chromium = start.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width, scheme in ((1360, "light"), (1360, "dark"), (390, "light")):
            asked: list[str] = []
            view = chromium.new_context(
                viewport={"width": width, "height": 844},
                color_scheme=scheme,
                bypass_csp=True,  # for axe alone: the page itself runs no script
            )
            tab = view.new_page()
            tab.set_default_timeout(200_000)
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(page.as_uri())
            sides = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert sides[0] <= sides[1], "no sideways scrolling"
            assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
            tab.keyboard.press("Tab")
            assert tab.evaluate("document.activeElement.className") == "skip"
            assert _objections(tab) == []
        tab = chromium.new_page()
        tab.goto(page.as_uri())
        tab.pdf(path=tmp_path / "page.pdf", format="A4")
        chromium.close()
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 4


def _objections(tab: Any) -> list[str]:
    if not AXE.is_file():
        pytest.skip(f"needs axe-core: npm install axe-core, or DIFFDX_AXE ({AXE} is absent)")
    tab.add_script_tag(path=AXE)
    found = tab.evaluate("rules => axe.run({runOnly: rules})", RULES)
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]]
