"""A hundred kills: does a run that is killed again and again end as one that never was?

    python benchmarks/kills.py [--kills 100] [--work FOLDER]

Training: a small network on phantoms, with a checkpoint every third step. The process gets SIGKILL
at a random moment, every other time while a checkpoint is being written, and is started again with
--resume, until the run is done; then the next run begins, until there were enough kills. Each
finished run must have the weights of an uninterrupted one, bit for bit, and its losses.
Classification: the same with `classify` and its stored errors.

A process is forked from one that has imported everything, so that a start costs a fraction of a
second; the signal and the death are real. Writes benchmarks/results/kills.json.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "kills.json"
DATA = "phantoms:chest?n=42&size=28"
TRAIN = [
    "--image-size=16",
    "--set=model.backbone.channels=[8]",
    "--set=model.backbone.norm_groups=4",
    "--set=model.backbone.attention=false",
    "--set=train.checkpoint_every=3",
    "--set=train.validate_every=30",
    "--set=train.warmup_steps=2",
    "--batch-size=4",
    "--steps=90",
    "--num-workers=1",
]
HERE = ["--device=cpu", "--precision=fp32", "--quiet"]
CLASSIFY = ["--trials=21", "--bank=21", "--deterministic"]


@dataclass
class Outcome:
    """What the kills of one verb did.

    Attributes:
        kills: Processes that were killed after there was something to go on from.
        early: Killed before that: such a run is started afresh.
        while_saving: Of the kills, those that fell into the writing of a checkpoint or part.
        runs: Runs that came to their end.
        different: Runs whose end differs from that of an uninterrupted run.
        failed: Starts that ended with an error.
    """

    kills: int = 0
    early: int = 0
    while_saving: int = 0
    runs: int = 0
    different: int = 0
    failed: list[str] = field(default_factory=list)


def started(arguments: list[str], log: Path) -> int:
    """Fork a process that carries out a command; return its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = command(arguments)
    finally:
        os._exit(code)


def command(arguments: list[str]) -> int:
    """Carry out a command in this process and return its exit code."""
    from diffdx.cli.app import app

    try:
        app(args=arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def ended(process: int, kill_at: Callable[[], bool]) -> int | None:
    """Wait for a process or kill it when it is time; return its exit code, None if killed."""
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if kill_at():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.0002)


def after(seconds: float) -> Callable[[], bool]:
    """Return what says that a time has passed since this call."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def while_saving(folder: Path, chance: random.Random) -> Callable[[], bool]:
    """Return what says that a file is being written in the folder, and has been for a moment."""
    passed: list[Callable[[], bool]] = []
    # What an earlier kill left half-written.
    before = set(names(folder))

    def now() -> bool:
        fresh = () if passed else set(names(folder)) - before
        if any(name.startswith(".") for name in fresh):
            passed.append(after(chance.uniform(0, 0.02)))
        return bool(passed) and passed[0]()

    return now


def once_saved(folder: Path, seconds: float) -> Callable[[], bool]:
    """Return what says that a time has passed since something was saved in the folder."""
    passed: list[Callable[[], bool]] = []

    def now() -> bool:
        if not passed and any(not name.startswith(".") for name in names(folder)):
            passed.append(after(seconds))
        return bool(passed) and passed[0]()

    return now


def names(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is not there."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def killed_again_and_again(
    verb: list[str],
    go_on: list[str],
    saved: str,
    outcome_of: Callable[[Path], Any],
    kills: int,
    work: Path,
) -> Outcome:
    """Kill runs of a verb until there were enough kills; compare their ends.

    Args:
        verb: The command, without --out.
        go_on: What it takes to go on with a run that was killed.
        saved: The folder, in that of the run, in which it saves.
        outcome_of: What must be the same at the end, from the run folder.
        kills: How many.
        work: Where the runs go.
    """
    chance, outcome, log = random.Random(0), Outcome(), work / "log.txt"
    whole, run = work / "whole", work / "run"
    begun = time.monotonic()
    code = ended(started([*verb, f"--out={whole}"], log), lambda: False)
    seconds, expected = time.monotonic() - begun, outcome_of(whole)
    assert code == 0, log.read_text()
    while outcome.kills < kills:
        there = any(not name.startswith(".") for name in names(run / saved))
        if not there:
            shutil.rmtree(run, ignore_errors=True)
        saving = chance.random() < 0.5
        delay = chance.uniform(0, seconds)
        if saving:
            moment = while_saving(run / saved, chance)
        else:
            moment = after(delay) if there else once_saved(run / saved, delay / 2)
        how = go_on if there else []
        code = ended(started([*verb, f"--out={run}", *how], log), moment)
        if code is None:
            kept = any(not name.startswith(".") for name in names(run / saved))
            outcome.kills += kept
            outcome.early += not kept
            outcome.while_saving += kept and saving
            continue
        outcome.runs += 1
        if code:
            outcome.failed.append(log.read_text()[-300:])
        outcome.different += code != 0 or outcome_of(run) != expected
        shutil.rmtree(run)
        print(vars(outcome), flush=True)
    return outcome


def weights_and_losses(run: Path) -> Any:
    """Return the hash of the last weights and of the training state, and the logged losses."""
    last = run / "checkpoints" / "last"
    content = [(last / name).read_bytes() for name in ("model.safetensors", "training.safetensors")]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line.get("validation") for line in lines]
    return [hashlib.sha256(part).hexdigest() for part in content], scores


def stored_errors(out: Path) -> Any:
    """Return the hashes of the tables."""
    files = ("errors.parquet", "predictions.parquet", "predictions.csv")
    return [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files]


def main() -> None:
    """Kill, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    work = chosen.work or Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["DIFFDX_CACHE"] = str(work / "cache")
    warm()
    cases = {}
    for name, verb, go_on, saved, outcome_of in (
        ("train", ["train", DATA, *TRAIN], ["--resume"], "checkpoints", weights_and_losses),
        (
            "classify",
            ["classify", str(work / "train" / "whole"), DATA, *CLASSIFY],
            [],
            "errors.parts",
            stored_errors,
        ),
    ):
        (work / name).mkdir(parents=True)
        cases[name] = vars(
            killed_again_and_again(
                [*verb, *HERE], go_on, saved, outcome_of, chosen.kills, work / name
            )
        )
    result = {"name": "kills", "device": "cpu", "precision": "fp32", "threads": 1, "cases": cases}
    chosen.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(cases, indent=2))
    if any(case["different"] or case["failed"] for case in cases.values()):
        sys.exit("a run that was killed ended otherwise")


def warm() -> None:
    """Import what a command needs, and start no thread: a fork takes none along."""
    import torch

    import diffdx.classification.runner
    import diffdx.cli.app
    import diffdx.data.audit.run
    import diffdx.training.run  # noqa: F401
    from diffdx.backbones import unet  # noqa: F401
    from diffdx.classification import store

    torch.set_num_threads(1)
    # A part for every second image, so that there is something to kill.
    store._ROWS_PER_PART = 42


if __name__ == "__main__":
    main()
