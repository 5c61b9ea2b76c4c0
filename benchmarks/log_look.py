"""Append one look at a test set to benchmarks/results/test-looks.jsonl.

    python benchmarks/log_look.py PREDICTIONS_DIR "why it was looked at"

Every evaluation on a `test` role is logged here by whoever makes it, with the commit it was made
with; the first look after a configuration was frozen is the one that is quoted.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from diffdx.paper.carry_out import log_look

LOG = Path(__file__).parent / "results" / "test-looks.jsonl"


def log_with_commit(why: str, summary: dict[str, Any], file: Path = LOG) -> None:
    """Append one look, with the commit that is checked out."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    log_look(file, why, summary, commit=commit)


def main() -> None:
    """Append the line."""
    folder, why = Path(sys.argv[1]), sys.argv[2]
    log_with_commit(why, json.loads((folder / "summary.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
