"""Time a newcomer's path for real: from `git clone` to a report of one's own images.

    python benchmarks/newcomer.py --images DATA [--limit N] [--minutes M] [--positive CLASS]
                                  [--skip-setup]

DATA is a folder of two class folders of real images; N of them, half of each class, are copied
into a temporary my-images; of one picture that is there twice the first alone, since training is
refused otherwise, as README says. The commands are those of README's section "Your own images", in
its order, in a fresh clone: none can be forgotten, and none is run that is not written there. Only
what is the user's own is put in: the repository's address, the name of the positive class, and with
--minutes another length of training. --skip-setup leaves out `make setup` and uses this
interpreter's environment in its place.

Writes seconds of each step to benchmarks/results/newcomer.json. The first step that fails ends it.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diffdx.data.images import read_image
from diffdx.errors import DataError

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "newcomer.json"
SECTION = "## Your own images"
FINDINGS = 4
"""Exit code of an audit that found something: an answer, not a failure."""


def documented(readme: str) -> list[str]:
    """Return the command lines of the section's first bash block."""
    section = readme.split(SECTION + "\n", 1)[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    if block is None:
        sys.exit(f"README.md has no bash block in '{SECTION}'")
    return [line.strip() for line in block[1].replace("\\\n", " ").splitlines() if line.strip()]


def own(line: str, positive: str, minutes: float | None) -> str:
    """Return a documented command with the user's own names in it."""
    line = line.replace("REPOSITORY", shlex.quote(str(ROOT)))
    line = re.sub(r"--positive \S+", f"--positive {shlex.quote(positive)}", line)
    return line if minutes is None else re.sub(r"--minutes \S+", f"--minutes {minutes:g}", line)


def copy_images(data: Path, to: Path, limit: int) -> dict[str, int]:
    """Copy readable images, half of the limit of each class, each once; return how many of each."""
    classes = sorted(folder for folder in data.iterdir() if folder.is_dir())
    if len(classes) != 2:
        sys.exit(f"{data} holds {len(classes)} folders: give a folder of two class folders")
    counts, seen = {}, set()
    for folder in classes:
        taken = 0
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if taken == limit // 2:
                break
            try:
                pixels = read_image(path)
            except DataError:
                continue
            content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
            if content in seen:
                continue
            seen.add(content)
            place = to / folder.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            taken += 1
        counts[folder.name] = taken
    return counts


def walk(lines: list[str], work: Path, images: Path, *, skip_setup: bool) -> list[dict[str, Any]]:
    """Carry out the commands one after the other, as in one shell; return their seconds."""
    here, environment = work, dict(os.environ)
    environment.pop("VIRTUAL_ENV", None)
    steps = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            here = here / words[1]
            shutil.copytree(images, here / "my-images")
            continue
        if words[0] == "source" or (skip_setup and words == ["make", "setup"]):
            folder = Path(sys.executable).parent if skip_setup else here / ".venv" / "bin"
            environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
            # An editable installation elsewhere must not hide the clone.
            environment["PYTHONPATH"] = str(here) if skip_setup else ""
            continue
        print(f"$ {line}", flush=True)
        began = time.monotonic()
        code = subprocess.run(words, cwd=here, env=environment, check=False).returncode
        steps.append({"command": line, "seconds": round(time.monotonic() - began, 1)})
        if code != 0 and not (words[1:2] == ["audit"] and code == FINDINGS):
            sys.exit(f"exit code {code}: {line}")
    page = here / "out" / "mine" / "report.html"
    if not page.is_file():
        sys.exit(f"no report at {page.relative_to(work)}")
    print(f"{page.name}: {page.stat().st_size} bytes")
    return steps


def main() -> None:
    """Walk the path and write how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="Folder of two class folders.")
    parser.add_argument("--limit", type=int, default=1000, help="Images to copy.")
    parser.add_argument("--positive", help="Default: the second class by name.")
    parser.add_argument("--minutes", type=float, help="Of training; default: as documented.")
    parser.add_argument("--skip-setup", action="store_true")
    given = parser.parse_args()
    lines = documented((ROOT / "README.md").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        counts = copy_images(given.images, work / "images", given.limit)
        positive = given.positive or sorted(counts)[-1]
        ready = [own(line, positive, given.minutes) for line in lines]
        steps = walk(ready, work, work / "images", skip_setup=given.skip_setup)
    for step in steps:
        step["command"] = step["command"].replace(str(ROOT), "REPOSITORY")
    result = {
        "name": "newcomer",
        "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "images": counts,
        "setup": not given.skip_setup,
        "steps": steps,
        "seconds": round(sum(step["seconds"] for step in steps), 1),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['seconds']:.0f} seconds in all: {RESULT.name}")


if __name__ == "__main__":
    main()
