"""The blocks of README, the tutorials, the Python page and the notebooks run, in their order.

Commands run in this process, page by page, in a temporary folder with small drawn images. What is
too large for a test is replaced by the table SMALLER and nothing else; programs other than diffdx
are not run, and each must be known to NOT_EXECUTED.
"""

import logging
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.cli.app import app, repeat_names
from diffdx.data import PhantomSpec, draw_phantom

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_EXECUTED = {"make", "git", "cd", "source"}
"""Make's targets are checked by tests/unit/test_docs.py."""

SMALLER = {
    # as documented: as executed
    "../shared/data/chest-xray": "chest-xray",
    "assets/cxr64": str(ROOT / "assets" / "cxr64"),
    "--minutes 40": "--images-seen 64 --batch-size 16 --set train.validation_images=8"
    " --set train.validation_trials=1 --preset tiny --num-workers 0",
    "--minutes 2": "--steps 4 --trials 3",
    "--minutes 8": "--images-seen 64 --batch-size 16 --set train.validation_images=8"
    " --set train.validation_trials=1 --preset tiny",
    "--trials 21": "--trials 3",
    "--images-seen 135000": "--images-seen 64 --batch-size 16 --set train.validation_images=8"
    " --set train.validation_trials=1 --preset tiny",
    "--image-size 64": "--image-size 16",
    "--trials 101": "--trials 3",
    "--n 16": "--n 2 --steps 2",
    "--to benign": "--to benign --trials 3 --steps 2",
    "--out runs/cnn": "--out runs/cnn --steps 2 --batch-size 8",
    "diffdx reproduce": None,
}
"""None: not executed; tests/e2e/test_reproduce.py makes table and figures."""

PAGES = ["README.md", "docs/own-images.md"]
SLOW_PAGES = ["docs/quickstart.md"]


def smaller(line: str) -> str | None:
    """Return a command as it is executed."""
    for documented, executed in SMALLER.items():
        if documented in line:
            if executed is None:
                return None
            line = line.replace(documented, executed)
    return line


def commands(page: str) -> list[str]:
    """Return the command lines of a page's bash blocks."""
    blocks = [b for kind, b in FENCED.findall((ROOT / page).read_text("utf-8")) if kind == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def draw(path: Path, index: int, size: int = 28) -> None:
    """Write a drawn chest; with these indices half are abnormal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_phantom(PhantomSpec("chest", size=size), index).pixels).save(path)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the images that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for index in range(48):
        draw(Path("my-images", ("benign", "malignant")[index % 2], f"{index}.png"), index)
        name = ("NORMAL", "PNEUMONIA")[index % 2]
        draw(Path("chest-xray", "test" if index > 39 else "train", name, f"{index}.png"), index)
    for index, name in enumerate(("my.png", "new-a.png", "new-b.png")):
        draw(Path(name), 90 + index)
    yield tmp_path
    # The verbs set up logging for a process of their own.
    logging.getLogger().handlers.clear()


def run(line: str) -> None:
    """Run a documented command; audit and doctor may have found something."""
    words = shlex.split(line, comments=True)
    assert words[0] == "diffdx"
    done = CliRunner().invoke(app, repeat_names(words[1:]), catch_exceptions=False)
    allowed = {0, {"audit": 4, "doctor": 1}.get(words[1], 0)}
    assert done.exit_code in allowed, f"{line}\n{done.output}"


@pytest.mark.parametrize(
    "page", [*PAGES, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW_PAGES)]
)
def test_page_runs_in_its_order(page, workplace):
    executed = 0
    for line in commands(page):
        if shlex.split(line, comments=True)[0] in NOT_EXECUTED:
            continue
        if (command := smaller(line)) is not None:
            run(command)
            executed += 1
    assert executed
    if page in PAGES:
        assert "Research use only" in next(Path("out").rglob("report.html")).read_text("utf-8")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["votes", "explain"])
def test_notebook_runs(name, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
    client = pytest.importorskip("nbclient", reason="needs nbclient")
    monkeypatch.setenv("MPLBACKEND", "agg")
    folder = ROOT / "examples" / "notebooks"
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    at = {"metadata": {"path": str(folder)}}
    client.NotebookClient(notebook, timeout=60, resources=at).execute()
    assert any("assert " in cell.source for cell in notebook.cells)


def test_notebooks_are_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        nbformat.validate(nbformat.read(path, as_version=4))
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code), path
        # A sentence or an equation before each piece of code.
        kinds = [cell.cell_type for cell in cells]
        assert all(kinds[i - 1] == "markdown" for i, kind in enumerate(kinds) if kind == "code")
