"""How the templates of this package are read: a name that is not there is an error, not nothing."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(*, autoescape: bool, **filters: Callable[..., Any]) -> Environment:
    """Return an environment for the templates of `diffdx/report/templates`.

    Args:
        autoescape: True for HTML; Markdown has to be made safe by a filter.
        filters: By name.
    """
    made = Environment(
        loader=PackageLoader("diffdx.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters
    return made
