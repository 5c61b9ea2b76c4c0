"""Append one look at a test set to benchmarks/results/test-looks.jsonl.

    python benchmarks/log_look.py PREDICTIONS_DIR "why it was looked at"

Every evaluation on a `test` role is logged here by whoever makes it, with the commit it was made
with; the first look after a configuration was frozen is the one that is quoted.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

LOG = Path(__file__).parent / "results" / "test-looks.jsonl"
SETTINGS = ("model_sha256", "trials", "bank", "seed", "rule", "space", "precision", "device")


def main() -> None:
    """Append the line."""
    folder, why = Path(sys.argv[1]), sys.argv[2]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    look = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "why": why,
        **{name: summary[name] for name in SETTINGS},
        "n": summary["n"],
        "by_rule": {
            rule: {name: round(score["value"], 4) for name, score in scores.items()}
            for rule, scores in summary["by_rule"].items()
        },
    }
    with LOG.open("a", encoding="utf-8") as file:
        file.write(json.dumps(look) + "\n")


if __name__ == "__main__":
    main()
