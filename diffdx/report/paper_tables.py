"""Table 1 of the paper, published beside measured, as Markdown and as one HTML page.

Both quote `table1.json` alone.
"""

from typing import Any

from diffdx._notice import NOTICE
from diffdx.report.templating import environment

Json = dict[str, Any]

TITLES = {"chexpert": "CheXpert", "isic": "ISIC"}
FAMILIES = {"CNN": "CNN", "TF": "transformer", "DM": "diffusion"}
METRICS = {"accuracy": "Accuracy (%)", "f1": "F1", "auroc": "AUROC"}
AT_A_GUESS = "\N{DAGGER}"
NONE = "\N{EN DASH}"


def table_markdown(found: Json) -> str:
    """Return the table as Markdown: a row a method, paper and here for every set and metric."""
    view = _view(found)
    head = ["method", "pretrained: paper / here", *view["columns"], "status"]
    lines = [f"# {view['title']}", "", view["notice"], "", _line(head), _line(["---"] * len(head))]
    for row in view["rows"]:
        lines.append(
            _line(
                [
                    f"{row['title']} ({row['below']})",
                    row["pretrained"],
                    *(cell["text"] for cell in row["cells"]),
                    row["status"],
                ]
            )
        )
    rules = [rule or "" for rule in view["source_only"]]
    lines.append(_line(["audit: source-only rule, no pixel seen", "", *rules, ""]))
    lines += ["", *(f"- {note}" for note in view["notes"])]
    return "\n".join(lines) + "\n"


def table_html(found: Json) -> str:
    """Return the table as a page that asks nothing of any server."""
    templates = environment(autoescape=True)
    return templates.get_template("paper_table.html").render(_view(found))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def _view(found: Json) -> Json:
    """Return what both forms show, as text."""
    titles = {name: _title(found, name) for name in TITLES}
    by_place = {(r["method"], r["dataset"], r["metric"]): r for r in found["rows"]}
    places = [(dataset, metric) for dataset in TITLES for metric in METRICS]
    rows = []
    for method in found["methods"]:
        own = [by_place.get((method["name"], *place)) for place in places]
        rows.append(
            {
                "title": method["title"],
                "below": _below(method),
                "pretrained": f"{_yes(method['pretrained'])} / {_pretrained(own)}",
                "cells": [_cell(row) for row in own],
                "status": _statuses(own),
            }
        )
    return {
        "title": "Table 1: published and measured",
        "scale": found["scale"],
        "titles": titles,
        "metrics": METRICS,
        "columns": [f"{titles[d]} {METRICS[m]}: paper / here" for d, m in places],
        "rows": rows,
        "source_only": [_source_only(found, place) for place in places],
        "notes": _notes(found),
        "notice": NOTICE,
    }


def _title(found: Json, dataset: str) -> str:
    """Return a set's name, and what stands in its place."""
    if found["scale"] == "full":
        return TITLES[dataset]
    return f"{TITLES[dataset]} (here: {found['images'][dataset]})"


def _below(method: Json) -> str:
    """Return the kind of a method, and what stands in its place."""
    family = FAMILIES[method["family"]]
    is_itself = method["here"] == method["title"]
    return family if is_itself else f"{family}; here: {method['here']}"


def _cell(row: Json | None) -> dict[str, str]:
    """Return a cell's texts: published, measured, its interval, and all in one."""
    if row is None:
        return dict.fromkeys(("published", "here", "interval", "text"), "")
    percent = row["metric"] == "accuracy"
    published = NONE if row["published"] is None else _number(row["published"], percent=percent)
    here, interval = NONE, ""
    if row["value"] is not None:
        low, high = (_bound(row[name], percent=percent) for name in ("low", "high"))
        here = _number(row["value"], percent=percent)
        here += AT_A_GUESS if row["interval_includes_guess"] else ""
        interval = f"{low} to {high}"
    return {
        "published": published,
        "here": here,
        "interval": interval,
        "text": f"{published} / {here}" + (f" ({interval})" if interval else ""),
    }


def _number(value: float, *, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def _bound(value: float | None, *, percent: bool) -> str:
    return NONE if value is None else _number(value, percent=percent)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _pretrained(rows: list[Json | None]) -> str:
    known = sorted({_yes(row["pretrained"]) for row in rows if row and "pretrained" in row})
    return " and ".join(known) or NONE


def _statuses(rows: list[Json | None]) -> str:
    parts = []
    for dataset, title in TITLES.items():
        own = [row for row in rows if row and row["dataset"] == dataset]
        statuses = sorted({row["status"] for row in own})
        parts += [f"{title}: {', '.join(statuses)}"] if own else []
    return "; ".join(parts)


def _source_only(found: Json, place: tuple[str, str]) -> str:
    dataset, metric = place
    rule = found["audit"][dataset]
    if metric != "accuracy":
        return ""
    paper, here = (
        NONE if rule[name] is None else _number(rule[name], percent=True)
        for name in ("paper", "here")
    )
    return f"{paper} / {here}"


def _notes(found: Json) -> list[str]:
    settings, made = found["settings"], [r for r in found["rows"] if r["value"] is not None]
    notes = [
        "Intervals: 95%, bootstrap by patient.",
        f"{AT_A_GUESS} The interval includes what naming one class without looking reaches.",
        "Pretrained, paper: its code starts the discriminative models from ImageNet weights, which "
        "the paper does not say.",
        "Source-only rule: accuracy of asking only which publisher an image came from. A model "
        "that is no better may have learned that.",
    ]
    if found["scale"] == "smoke":
        sizes = sorted({f"{r['image_size_px']} px" for r in made}) or ["64 px"]
        notes.insert(
            0,
            f"Scaled down: {', '.join(sizes)}; other images stand for the paper's sets; a minute "
            f"or two of training a cell; {settings['trials']} trials; at most {settings['limit']} "
            "test images. It shows that every part runs, and reproduces no number.",
        )
    networks = {
        (r["method"], r["dataset"]): f"{r['method']} on {TITLES[r['dataset']]}: {r['network']}, "
        f"{r['parameters'] / 1e6:.1f} M parameters, {r['trained_steps']:,} steps, "
        f"{r['images_seen']:,} images seen, n = {r['n']}"
        for r in made
    }
    absent = {
        (r["method"], r["dataset"]): f"{r['method']} on {TITLES[r['dataset']]}: {r['reason']}"
        for r in found["rows"]
        if r["status"] == "absent"
    }
    return [*notes, *networks.values(), *absent.values()]
