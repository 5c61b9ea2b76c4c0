"""Numbers for a page, each marked with the result file and the place it comes from.

A mark is `data-file` (such as `0/summary.json`, the file of the first run) and `data-key`, a JSON
list of keys. So every number on a page can be traced, by a reader and by a test. Text is escaped,
since names of classes and runs come from folders and tables.
"""

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Json = dict[str, Any]
Place = tuple[str | int, ...]
"""Keys that lead to an entry of a result file."""

UNDEFINED = Markup('<span class="soft">&ndash;<span class="unseen"> not defined</span></span>')


@dataclass(frozen=True)
class Source:
    """One result file."""

    file: str
    content: Any

    def look_up(self, place: Place) -> Any:
        """Return what the file holds at a place; None where it holds nothing."""
        found = self.content
        for key in place:
            if found is None or (isinstance(found, dict) and key not in found):
                return None
            found = found[key]
        return found

    def entry(self, place: Place, form: str = ",.4g") -> Markup:
        """Return one number or word, marked; a dash where there is none."""
        found = self.look_up(place)
        if found is None:
            return UNDEFINED
        if isinstance(found, float):
            text = format(found, form)
        elif isinstance(found, list):
            text = ", ".join(map(str, found))
        else:
            text = f"{found:,}" if type(found) is int else str(found)
        return Markup('<span data-file="{}" data-key="{}">{}</span>').format(
            self.file, json.dumps(place), text
        )

    def value(self, place: Place, form: str = ".3f") -> Markup:
        """Return what `entry` does, but the value of an interval."""
        found = self.look_up(place)
        return self.entry((*place, "value") if isinstance(found, dict) else place, form)

    def bounds(self, place: Place, form: str = ".3f") -> Markup:
        """Return the bounds of an interval in brackets; nothing where there are none."""
        found = self.look_up(place)
        if not isinstance(found, dict) or found["low"] is None:
            return Markup("")
        low, high = (self.entry((*place, end), form) for end in ("low", "high"))
        return Markup('<span class="bounds">{} to {}</span>').format(low, high)

    def interval(self, place: Place, form: str = ".3f") -> Markup:
        """Return a number, with its bounds if it has them."""
        return Markup("{} {}").format(self.value(place, form), self.bounds(place, form)).strip()
