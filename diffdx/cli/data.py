"""`diffdx data list`: the public sets that can be named as NAME:ROOT."""

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter

app = typer.Typer(name="data", help="Public sets that can be read as published.")


@app.callback()
def root() -> None:
    """Keep `list` a verb of its own."""


@app.command("list")
def list_layouts(as_json: options.Json = False) -> None:
    """List the public sets with counts, licence and citation."""
    reporter = Reporter(as_json=as_json)
    with reporter.ending():
        from diffdx.data.layouts import LAYOUTS

        fields = ("usage", "images", "classes", "licence", "citation")
        rows = [
            {"name": name} | {field: getattr(layout, field) for field in fields}
            for name, layout in LAYOUTS.items()
        ]
        text = "\n\n".join(
            "\n".join([row["usage"], *(f"  {field:<9} {row[field]}" for field in fields[1:])])
            for row in rows
        )
        reporter.result(text, {"layouts": rows})
