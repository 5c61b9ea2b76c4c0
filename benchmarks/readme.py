"""Copy what commands printed into README.md and docs/results.md, so that no output is typed.

Each block between `<!-- output: NAME -->` and `<!-- end -->` is replaced by the file
benchmarks/results/console/NAME.txt. Exit code 1 with --check if anything would change.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
CONSOLE = ROOT / "benchmarks" / "results" / "console"
BLOCK = re.compile(r"(<!-- output: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a page's text with every output block holding its file."""

    def output(match: re.Match[str]) -> str:
        printed = (CONSOLE / f"{match[2]}.txt").read_text(encoding="utf-8").rstrip()
        return f"{match[1]}```text\n{printed}\n```\n{match[3]}"

    return BLOCK.sub(output, text)


def main() -> None:
    """Fill the pages, or check that they are filled."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if "--check" in sys.argv and before != after:
            sys.exit(f"{page.name} is stale: run python benchmarks/readme.py")
        page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
