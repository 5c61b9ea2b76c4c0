"""The page as people use it: Debian's Chromium, headless, on a server with a small random model."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from diffdx.data.phantoms import PhantomSpec, draw_phantom

CHROMIUM = shutil.which("chromium")
AXE = Path(os.environ.get("DIFFDX_AXE", "node_modules/axe-core/axe.min.js"))
HOW = "--trials=101 --bank=101 --stop=0.01 --batch-size=8 --device=cpu --precision=fp32"
PATIENCE_MS = 240_000
"""The model is tiny; the machine that runs the tests may be busy."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium"),
]


@pytest.fixture(scope="module")
def address(tiny_model, tmp_path_factory):
    """A server in a process of its own."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    tiny_model("NORMAL", "OPACITY", hears_class=True).save(run)
    words = [sys.executable, "-m", "diffdx", "serve", str(run), "--port=0", *HOW.split()]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found[0]
                break
        else:
            pytest.fail(f"the server did not start: {said}")
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, address):
    """Return a function that opens the page for another user, and check what all pages did."""
    contexts, outside, complaints = [], [], []

    def make(**options):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        own = (address, f"blob:{address}")
        page.on("request", lambda r: None if r.url.startswith(own) else outside.append(r.url))
        # What the content security policy forbids is told here too.
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    make.complaints = complaints
    yield make
    for context in contexts:
        context.close()
    assert outside == []
    assert complaints == []


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images, one with a name that is markup."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / "<img src=x onerror=alert(1)>.png", folder / "b.png"]
    for number, path in enumerate(paths):
        pixels = draw_phantom(PhantomSpec("chest", size=28), number).pixels
        Image.fromarray(pixels).save(path)
    return paths


def classify(page, image):
    page.set_input_files("#file", image)
    page.wait_for_selector("#answer:not([hidden])")


def violations(page):
    """Return what axe finds wrong with the page as it is."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: name its axe.min.js in DIFFDX_AXE")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def test_votes_come_live_and_a_counterfactual_follows_the_sliders(visit, images, tmp_path):
    page = visit()
    page.evaluate(
        "window.told = []; new MutationObserver((records) => records.forEach((record) => told.push("
        "...[...record.addedNodes].map((node) => node.textContent)))).observe("
        "document.getElementById('status'), {childList: true})"
    )
    classify(page, images[0])
    told = page.evaluate("told")
    counts = [int(found[1]) for text in told if (found := re.match(r"(\d+) of at most 101", text))]
    assert counts == sorted(set(counts))
    assert len(counts) > 1
    assert page.inner_text("#prediction") in ("NORMAL", "OPACITY")
    assert f"{counts[-1]} of 101" in page.inner_text("#facts")
    assert page.locator("#vote-chart svg polyline.path").count() == 1
    assert page.locator("#vote-chart svg .edge").count() == 2
    assert "Entropy by noise level" in page.get_attribute("#noise-chart svg", "aria-label")

    for _ in range(4):
        page.press("#level", "ArrowLeft")
    page.press("#guidance", "ArrowLeft")
    level, guidance = page.inner_text("#level-out"), page.inner_text("#guidance-out")
    assert (level, guidance) == ("-1.5", "2.5")
    target = page.input_value("#target")
    page.click("#make")
    page.wait_for_selector("#gallery:not([hidden])")
    # Decoding fails for a picture that is not there.
    decode = "async (all) => { await Promise.all(all.map((i) => i.decode())); return all.length; }"
    assert page.eval_on_selector_all("#gallery img, #over", decode) == 5
    assert page.is_checked("input[value=counterfactual]")
    page.check("input[value=difference]")
    page.press("#opacity", "ArrowLeft")
    assert page.evaluate("document.getElementById('over').style.opacity") == "0.95"

    with page.expect_download() as started:
        page.click("#download")
    with zipfile.ZipFile(io.BytesIO(Path(started.value.path()).read_bytes())) as file:
        case = json.loads(file.read("case.json"))
        assert "explain/counterfactual.png" in file.namelist()
    assert case["explain"]["target"] == target
    assert (case["explain"]["logsnr_start"], case["explain"]["guidance_scale"]) == (-1.5, 2.5)
    assert "onerror" not in json.dumps(case)

    page.click("#forget")
    assert page.is_hidden("#case")


def test_a_file_that_is_no_image_is_refused_and_the_next_one_is_taken(visit, images, tmp_path):
    page = visit()
    wrong = tmp_path / "notes.png"
    wrong.write_bytes(b"PK\3\4" + bytes(500))
    page.set_input_files("#file", wrong)
    page.wait_for_selector("#problem:not(:empty)")
    assert "not an image" in page.inner_text("#problem")
    assert page.is_hidden("#case")
    # The browser itself notes the refused request.
    assert all("415" in text for text in visit.complaints)
    visit.complaints.clear()
    classify(page, images[1])
    assert page.inner_text("#problem") == ""


def test_two_users_at_once_see_their_own_images(visit, images):
    pages = [visit(), visit()]
    for page, image in zip(pages, images, strict=True):
        page.set_input_files("#file", image)
    for page in pages:
        page.wait_for_selector("#answer:not([hidden])")
    archives = [page.get_attribute("#download", "href") for page in pages]
    assert archives[0] != archives[1]
    made = [
        page.request.get(page.url.rstrip("/") + a).body()
        for page, a in zip(pages, archives, strict=True)
    ]
    assert made[0] != made[1]


def test_a_job_can_be_cancelled(visit, images):
    page = visit()
    # The events stay away, so that the job looks unfinished.
    page.route("**/events", lambda route: None)
    page.set_input_files("#file", images[0])
    page.click("#cancel")
    assert page.is_hidden("#progress")
    page.unroute("**/events")
    classify(page, images[1])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(visit, images, scheme):
    page = visit(color_scheme=scheme)
    # By keyboard: the first stop leads past the head, the next one chooses a file.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert violations(page) == []
    classify(page, images[1])
    assert violations(page) == []
    page.click("#make")
    page.wait_for_selector("#gallery:not([hidden])")
    assert violations(page) == []
