"""The paired comparison on the page, from `comparison.json` alone.

Each number carries its place in that file (`data-comparison`, a JSON list).
"""

from html import escape
from typing import Any

from diffdx.evaluation.summary import METRICS
from diffdx.report.tables import METRIC_NAMES, Place, entry, look_up

Json = dict[str, Any]


def comparison_table(found: Json) -> str:
    """Return runs, differences, tests and fusion of a comparison as one section."""
    n, patients = (_entry(found, (name,)) for name in ("n", "patients"))
    warnings = "".join(f"<li>{escape(str(text))}</li>" for text in found["warnings"])
    parts = [
        "<h2>Compared with other runs</h2>",
        f"<p>On the same {n} images of {patients} patients. A difference whose interval holds 0 "
        "may be chance. P values are two-sided.</p>",
        f"<ul>{warnings}</ul>" if warnings else "",
        _runs(found),
        _pairs(found),
        _fusions(found),
    ]
    return "".join(parts)


def _runs(found: Json) -> str:
    rows = []
    for name, run in found["runs"].items():
        cells = "".join(_cell(_interval(found, ("runs", name, m))) for m in METRICS)
        rows.append(_head(name) + _cell(escape(str(run["rule"]))) + cells)
    return _table(["run", "rule", *METRIC_NAMES.values()], rows)


def _pairs(found: Json) -> str:
    rows = []
    for i, pair in enumerate(found["pairs"]):
        differences = "".join(
            _cell(_interval(found, ("pairs", i, "differences", m), "+.3f")) for m in METRICS
        )
        only = " / ".join(
            _entry(found, ("pairs", i, "mcnemar", side)) for side in ("only_a", "only_b")
        )
        tests = [
            only,
            _entry(found, ("pairs", i, "mcnemar", "p_value"), ".2g"),
            _entry(found, ("pairs", i, "delong", "p_value"), ".2g")
            if pair["delong"]
            else "&ndash;",
        ]
        name = f"{pair['a']} less {pair['b']}"
        rows.append(_head(name) + differences + "".join(map(_cell, tests)))
    head = [
        "difference",
        *METRIC_NAMES.values(),
        "right: only the first / the second",
        "McNemar p",
        "DeLong p",
    ]
    return _table(head, rows)


def _fusions(found: Json) -> str:
    if not found["fusion"]:
        return ""
    rows = []
    for i, fusion in enumerate(found["fusion"]):
        cells = "".join(_cell(_interval(found, ("fusion", i, m))) for m in METRICS)
        weights = " / ".join(_entry(found, ("fusion", i, "weights", r), ".2f") for r in ("a", "b"))
        apart = " / ".join(
            _entry(found, ("fusion", i, "disagreements", name))
            for name in ("n", "a_right", "b_right", "fused_right")
        )
        name = f"{fusion['a']} with {fusion['b']}"
        fitted = _entry(found, ("fusion", i, "fitted_on"))
        rows.append(_head(name) + cells + _cell(weights) + _cell(fitted) + _cell(apart))
    head = [
        "fusion",
        *METRIC_NAMES.values(),
        "weights",
        "calib images",
        "disagreements: all / first right / second right / fusion right",
    ]
    return "<p>Two readers with one score:</p>" + _table(head, rows)


def _table(head: list[str], rows: list[str]) -> str:
    top = "".join(map(_head, head))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead>{body}</table></div>'


def _head(name: str) -> str:
    return f"<th>{escape(name)}</th>"


def _cell(content: str) -> str:
    return f"<td>{content}</td>"


def _interval(found: Json, place: Place, form: str = ".3f") -> str:
    if look_up(found, place) is None:
        return "&ndash;"
    value, low, high = (_entry(found, (*place, part), form) for part in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _entry(found: Json, place: Place, form: str = ".4g") -> str:
    return entry(found, place, form, mark="comparison")
