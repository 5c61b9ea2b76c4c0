"""A paired comparison as text: differences, tests, fusion, as `diffdx evaluate A B` prints it."""

from typing import Any

from diffdx.cli.console import NOTICE
from diffdx.cli.evaluate import METRICS, cell


def describe_comparison(found: dict[str, Any]) -> str:
    """Return the content of `comparison.json` as text, a row a pair or fusion."""
    width = 4 + max(len(f"{pair['a']} - {pair['b']}") for pair in found["pairs"])
    lines = [
        f"compared on {found['n']} images of {found['patients']} patients "
        f"({found['n_left_out']} left out)",
        "".join(["difference".ljust(width), *(name.rjust(26) for name in METRICS)]),
    ]
    for pair in found["pairs"]:
        name = f"{pair['a']} - {pair['b']}"
        cells = (cell(pair["differences"][metric]).rjust(26) for metric in METRICS)
        lines.append("".join([name.ljust(width), *cells]))
        lines.append(f"  {tests(pair)}")
    for fusion in found["fusion"]:
        lines += _fusion(fusion, width)
    lines.append(f"Brackets: 95% bootstrap by patient. {NOTICE}")
    return "\n".join(lines)


def tests(pair: dict[str, Any]) -> str:
    """Return McNemar's and DeLong's tests as one sentence."""
    counts, ranked = pair["mcnemar"], pair["delong"]
    text = (
        f"same decision on {pair['agreement']:.1%}; only the first right {counts['only_a']}, only "
        f"the second {counts['only_b']}: McNemar p = {counts['p_value']:.2g}"
    )
    if ranked is not None and ranked["p_value"] is not None:
        text += f"; DeLong p = {ranked['p_value']:.2g}"
    return text


def _fusion(fusion: dict[str, Any], width: int) -> list[str]:
    apart, weights = fusion["disagreements"], fusion["weights"]
    fitted = (
        f"fitted to {fusion['fitted_on']} calib images" if fusion["fitted_on"] else "not fitted"
    )
    cells = (cell(fusion[metric]).rjust(26) for metric in METRICS)
    return [
        "".join(["fused".ljust(width), *cells]),
        f"  of {fusion['a']} (weight {weights['a']:.2f}) and {fusion['b']} ({weights['b']:.2f}), "
        f"{fitted}; they disagree on {apart['n']} images, where the first is right on "
        f"{apart['a_right']}, the second on {apart['b_right']}, the fusion on "
        f"{apart['fused_right']} ({apart['file']})",
    ]
