"""Copy what commands printed into README.md, so that no output in it is typed.

Each block of README.md between `<!-- output: NAME -->` and `<!-- end -->` is replaced by the file
benchmarks/results/console/NAME.txt. Exit code 1 with --check if anything would change.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSOLE = ROOT / "benchmarks" / "results" / "console"
BLOCK = re.compile(r"(<!-- output: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return README's text with every output block holding its file."""

    def output(match: re.Match[str]) -> str:
        printed = (CONSOLE / f"{match[2]}.txt").read_text(encoding="utf-8").rstrip()
        return f"{match[1]}```text\n{printed}\n```\n{match[3]}"

    return BLOCK.sub(output, text)


def main() -> None:
    """Fill README.md, or check that it is filled."""
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv:
        sys.exit(0 if before == after else "README.md is stale: run python benchmarks/readme.py")
    readme.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
