"""Hooks of the site: pages made from the code while it is built, so that they cannot disagree.

    reference/commands.md   every verb, argument and option, from the command line itself
    reference/python.md     what is public of the modules below, from its docstrings (mkdocstrings)

On every page `diffdx/a/b.py` and `diffdx.a.b.name` become links into the latter.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import diffdx
from diffdx.cli.app import app

METHOD = (
    "diffdx.classification.evidence",
    "diffdx.classification.rules",
    "diffdx.classification.stopping.boundary",
    "diffdx.classification.stopping.interval",
    "diffdx.diffusion.guidance",
    "diffdx.diffusion.loss",
    "diffdx.diffusion.process",
    "diffdx.diffusion.samplers",
    "diffdx.diffusion.weighting",
    "diffdx.errors",
    "diffdx.explain.contrast",
    "diffdx.explain.evidence",
    "diffdx.training.style",
    "diffdx.transforms.haar",
    "diffdx.uncertainty.calibrators",
    "diffdx.uncertainty.conformal",
    "diffdx.uncertainty.entropy",
    "diffdx.uncertainty.out_of_distribution",
    "diffdx.uncertainty.selective",
    "diffdx.uncertainty.triage",
)
"""Modules that hold an equation of the method page, beside those of the public names."""
MODULES = sorted({*diffdx._HOME.values(), *METHOD})
NOTICE = "Research use only. Not a medical device."
CODE = re.compile(r"(```.*?^```)|`(diffdx[/.][\w/.]+)`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    for name, text in (("commands", commands_page()), ("python", python_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link what the page names of the code to the reference, outside fenced blocks."""

    def link(match: re.Match[str]) -> str:
        name = (match[2] or "").removesuffix(".py").replace("/", ".")
        # A file may be left out of the reference; an object that is not there stops a strict build.
        known = name in MODULES or "/" not in (match[2] or "/")
        return f"[`{match[2]}`][{name}]" if known else match[0]

    return CODE.sub(link, markdown)


def python_page() -> str:
    """Return the page that mkdocstrings fills."""
    blocks = "\n\n".join(f"::: {module}" for module in MODULES)
    return f"# Python reference\n\n{NOTICE} [How to use it](../python.md).\n\n{blocks}\n"


def commands_page() -> str:
    """Return every verb with its help, arguments and options."""
    parts = [_section(name, command) for name, command in verbs(typer.main.get_command(app), "")]
    start = (
        f"# Commands\n\n{NOTICE}\n\nWhat they write, and their exit codes: [files](../files.md). "
        "Every verb also has `--help`.\n"
    )
    return "\n".join([start, *parts])


def verbs(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the command of every verb, also of those in groups such as `dicom`."""
    for name, command in group.commands.items():
        words = f"{before} {name}".strip()
        if hasattr(command, "commands"):
            yield from verbs(command, words)
        else:
            yield words, command


def _section(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    records = [one.get_help_record(context) for one in command.params if one.name != "help"]
    rows = [f"| `{what}` | {_cell(meaning)} |" for what, meaning in filter(None, records)]
    words = [f"diffdx {name}"]
    for one in command.params:
        if one.param_type_name == "argument":
            words.append(f"{one.name.upper()}..." if one.nargs == -1 else one.name.upper())
        elif one.required:
            words.append(f"{one.opts[0]} {one.opts[0].lstrip('-').upper()}")
    table = ["| | |", "|---|---|", *rows]
    usage = f"    {' '.join([*words, '[OPTIONS]'])}"
    about = inspect.cleandoc(command.help or "")
    return "\n".join([f"## diffdx {name}", "", about, "", usage, "", *table, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
