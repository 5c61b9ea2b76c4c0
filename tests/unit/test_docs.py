"""The documentation says what is true: links, commands, options, make targets and file formats."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from diffdx.baseline_config import resolve_baseline
from diffdx.cli.app import app, repeat_names
from diffdx.config import PRESETS, resolve_config
from diffdx.data.phantoms import parse_phantoms
from diffdx.data.splits import COLUMNS
from diffdx.evaluation import evaluate_predictions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
FENCED = re.compile(r"^```(\w*).*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def bash_lines(page: Path) -> list[list[str]]:
    """The words of each command in a page's bash blocks, or in a script."""
    text = page.read_text(encoding="utf-8")
    blocks = (
        [text]
        if page.suffix == ".sh"
        else [b for kind, b in FENCED.findall(text) if kind == "bash"]
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def invocations(program: str) -> list[tuple[str, list[str]]]:
    """(file, arguments) of every documented call of a program; a call ends where a pipe begins."""
    found = []
    for page in [*PAGES, *sorted((ROOT / "examples").glob("*.sh"))]:
        for words in bash_lines(page):
            if Path(words[0]).name == program:
                ends = [i for i, word in enumerate(words) if word in ("|", "||", "&&", ";", ">")]
                found.append((page.name, words[1 : min(ends, default=len(words))]))
    return found


@pytest.mark.parametrize(("page", "arguments"), invocations("diffdx"))
def test_documented_command_is_understood(page, arguments):
    if arguments in (["--help"], ["--version"]):
        return
    verb, *rest = repeat_names(arguments)
    assert verb in COMMANDS, f"{page}: no verb {verb}"
    if "--help" in rest:
        return
    context = COMMANDS[verb].make_context(verb, rest)  # raises on an option or value it rejects
    assignments = tuple(context.params.get("set_") or ())
    if verb == "baseline":
        resolve_baseline("paper", "resnet18", channels=1, assignments=assignments)
    else:
        resolve_config("small", assignments=assignments)
    assert context.params.get("preset") in {None, *PRESETS}
    for text in filter(lambda word: word.startswith("phantoms:") and "$" not in word, rest):
        parse_phantoms(text.removeprefix("phantoms:"))


def test_every_verb_is_documented():
    assert {arguments[0] for _, arguments in invocations("diffdx")} >= COMMANDS.keys()


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for _, words in invocations("make") for word in words if "=" not in word}
    assert asked >= {"demo", "test", "lint", "types", "docs"}
    assert asked <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles}


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    written = set(re.findall(r" ([\w-]+\.md)", contents))
    assert written == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_modules_named_in_the_pages_exist():
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"`(diffdx/[\w/.]+)`", page.read_text(encoding="utf-8"))
    }
    assert named
    assert [entry for entry in sorted(named) if not (ROOT / entry[1]).exists()] == []


def test_site_builds_without_a_warning_and_asks_nobody(tmp_path):
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    commands = (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    assert 'id="diffdx-dicom-listen"' in commands
    assert set(re.findall(r'id="diffdx-(\w+)', commands)) == COMMANDS.keys()
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert 'id="diffdx.classification.voting.majority_vote"' in python
    method = (tmp_path / "method.html").read_text(encoding="utf-8")
    assert 'href="reference/python.html#diffdx.diffusion.process.diffuse"' in method
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"'](?:https?:)?//[^>]*>",
            page.read_text(encoding="utf-8"),
        )
        assert fetched == [], page.name
    for sheet in tmp_path.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), sheet.name


def test_every_summary_key_and_split_column_is_documented(predictions_folder, mixed_labels):
    text = FENCED.sub("", (ROOT / "docs" / "files.md").read_text(encoding="utf-8"))
    documented = set(re.findall(r"`([^`]+)`", text))
    summary = evaluate_predictions(predictions_folder(mixed_labels), n_resamples=5)
    nested = {key for name in ("by_rule", "nfe", "bootstrap", "auroc") for key in summary[name]}
    assert (summary.keys() | nested | set(COLUMNS)) - documented == set()


def test_pages_show_what_the_commands_printed():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for page in module.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- output: " in text
        assert module.filled(text) == text, "run python benchmarks/readme.py"
