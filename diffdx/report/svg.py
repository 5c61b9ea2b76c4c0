"""Figures as SVG inside a page: sharp in print, in the page's own letters and colours.

Matplotlib's colours become names of the page's palette, so that a figure turns dark with the page:
black is the text, the series are `--c0` to `--c7`, greys are lines.
"""

import re
from io import StringIO

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from diffdx.report.figures import COLOURS

_PALETTE = {
    **{colour.lower(): f"var(--c{i})" for i, colour in enumerate(COLOURS)},
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#808080": "var(--soft)",
    "#b3b3b3": "var(--faint)",
    "#cccccc": "var(--faint)",
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_FONT = re.compile(r"font: (?:(?:italic|bold|\d+) )*([\d.]+px) [^;\"]*")


def inline_svg(figure: Figure, key: str, text: str) -> Markup:
    """Return a figure as an SVG element.

    Args:
        figure: Any; drawn on nothing, so that the page shows through.
        key: Unique on the page: letters and digits, put before every id.
        text: What the figure shows, for those who do not see it.
    """
    stream = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    drawn = stream.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S)
    drawn = _COLOUR.sub(lambda found: _PALETTE.get(found[0], found[0]), drawn)
    drawn = _FONT.sub(r"font-size: \1", drawn)
    drawn = _ID.sub(rf"\g<1>{key}-", drawn)
    box = re.search(r'viewBox="([^"]*)"', drawn)
    assert box is not None
    start = Markup('<svg class="figure" viewBox="{}" role="img" aria-label="{}">').format(
        box[1], text
    )
    return start + Markup(re.sub(r"^<svg[^>]*>", "", drawn))
