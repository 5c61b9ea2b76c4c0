"""Make the pictures of README and the documentation, from drawn phantoms and the built-in browser.

    make demo
    python benchmarks/pictures.py out/demo/run

RUN is a run on 32 px chest phantoms, as the demo leaves it. Writes into docs/images:

    explained-phantoms.png   three drawn chests with a lesion, turned NORMAL (`diffdx explain`)
    serve.png                the page of `diffdx serve` with a finished case
    report.png               the page of `diffdx report`

The last two are screenshots by Chromium through playwright (`pip install playwright`; the browser
is the program `chromium`), in its light theme. Drawings, not patients.

docs/images/explained-chest.jpg and explained-dermoscopy.jpg show real images and are not made here:
they are `sheet.png` of the two `diffdx explain` commands in docs/explain.md, saved as JPEG.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

from PIL import Image
from running import diffdx

from diffdx.data import PhantomSpec, draw_phantom
from diffdx.data.phantoms import is_abnormal

IMAGES = Path(__file__).parent.parent / "docs" / "images"
DATA = "phantoms:chest?n=2400&size=32"
NEW = PhantomSpec("chest", size=32)
UNSEEN = 2400
"""Phantoms from this number on are none of the demo's, so none that its model was trained on."""
PATIENCE_MS = 300_000
LARGEST_BYTES = 200_000


def keep(picture: Path, name: str, *, width: int, height: int | None = None) -> None:
    """Write a picture into the documentation: no wider, cut below, in 256 colours at most."""
    image: Image.Image = Image.open(picture).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)))
    if height is not None and image.height > height:
        image = image.crop((0, 0, image.width, height))
    path = IMAGES / name
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(f"{path} has {size} bytes, more than {LARGEST_BYTES}: make it smaller")
    print(f"{path}: {image.width} x {image.height}, {size // 1024} KiB")


def explained(run: Path, work: Path) -> None:
    """Turn three drawn chests with a lesion NORMAL."""
    folder = work / "images"
    folder.mkdir()
    ill = (number for number in count(UNSEEN) if is_abnormal(number))
    for number in islice(ill, 3):
        Image.fromarray(draw_phantom(NEW, number).pixels).save(folder / f"{number}.png")
    out = work / "explained"
    words = ["--from", "OPACITY", "--to", "NORMAL", "--t-start", "-1.5", "--trials", "101"]
    diffdx("explain", run, folder, *words, "--out", out)
    keep(out / "sheet.png", "explained-phantoms.png", width=1000)


@contextmanager
def server(run: Path) -> Iterator[str]:
    """Yield the address of a server that ends with the block."""
    words = [sys.executable, "-m", "diffdx", "serve", str(run), "--port=0", "--stop=none"]
    with subprocess.Popen([*words, "--trials=201"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        found = next(m for line in lines if (m := re.search(r"http://[\d.]+:\d+/", line)))
        try:
            yield found[0]
        finally:
            process.terminate()
            process.communicate(timeout=60)


def served(browser: Any, run: Path, work: Path) -> None:
    """Photograph a finished case: votes, evidence, counterfactual."""
    upload = work / "drawn chest.png"
    ill = next(number for number in count(UNSEEN) if is_abnormal(number))
    Image.fromarray(draw_phantom(NEW, ill).pixels).save(upload)
    with server(run) as address:
        page = browser.new_page(viewport={"width": 1240, "height": 1000}, color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#file", upload)
        page.wait_for_selector("#answer:not([hidden])")
        page.click("#make")
        page.wait_for_selector("#gallery:not([hidden])")
        page.wait_for_load_state("networkidle")
        page.check("input[value=evidence]")
        # The image stays beside what is read: back to the top.
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=work / "serve.png", full_page=True)
    keep(work / "serve.png", "serve.png", width=1240, height=1700)


def reported(browser: Any, run: Path, work: Path) -> None:
    """Photograph the head of a report on phantoms that the run set aside."""
    out = work / "predictions"
    few = ["--split", "test", "--limit", "200", "--trials", "51", "--evidence"]
    diffdx("classify", run, DATA, *few, "--out", out)
    diffdx("evaluate", out)
    diffdx("report", out, "--run", run, "--data", DATA, "--title", "Drawn chests, not patients")
    page = browser.new_page(viewport={"width": 1240, "height": 1820}, color_scheme="light")
    page.set_default_timeout(PATIENCE_MS)
    page.goto((out / "report.html").as_uri())
    page.screenshot(path=work / "report.png")
    keep(work / "report.png", "report.png", width=1240)


def main() -> None:
    """Make all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="Run folder of the demo.")
    parser.add_argument("--only", choices=["explained", "serve", "report"], action="append")
    given = parser.parse_args()
    wanted = given.only or ["explained", "serve", "report"]
    chromium = shutil.which("chromium")
    if chromium is None and wanted != ["explained"]:
        sys.exit("needs the program chromium; --only explained goes without")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "explained" in wanted:
            explained(given.run, work)
        if wanted == ["explained"]:
            return
        from playwright.sync_api import sync_playwright

        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, photograph in (("serve", served), ("report", reported)):
                if name in wanted:
                    photograph(browser, given.run, work)
            browser.close()


if __name__ == "__main__":
    main()
