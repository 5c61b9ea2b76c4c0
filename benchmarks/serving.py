"""How `diffdx serve` holds up: parallel uploads, an endless one, a killed model, schemathesis.

    python benchmarks/serving.py [RUN] [--rounds 3] [--examples 50] [--seconds 300]

RUN is a run folder; without one, a small random network is made. A real server is started on
127.0.0.1, and asked by clients of the addresses 127.0.0.1 to 127.0.0.8:

    uploads    64 at once, half of them from one client, in rounds: statuses, 95th percentile of the
               answers' time, memory of all the server's processes after each round (flat: it is the
               same)
    endless    a chunked upload that would be 10 GB: how much was sent before it was refused
    killed     the model's process killed in the middle of a job: the job fails, the next is done
    fuzzed     schemathesis on every route, a bounded number of examples: what it objects to

Writes benchmarks/results/serving.json.
"""

import argparse
import contextlib
import http.client
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from diffdx.backbones.model import DiffusionModel
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.data.phantoms import PhantomSpec, draw_phantom

RESULT = Path(__file__).parent / "results" / "serving.json"
UPLOADS, CLIENTS = 64, 8
ENDLESS_BYTES = 10 * 10**9
TRIALS = ["--trials=31", "--bank=31", "--stop=none", "--device=cpu", "--precision=fp32"]
KIND = {"content-type": "application/octet-stream"}
UNFINISHED = ("waiting", "running")
SECONDS = 600.0


def random_run(folder: Path) -> Path:
    """Return a run folder with a small network of random weights."""
    torch.manual_seed(0)
    config = ModelConfig(
        data=DataConfig(image_size=32), backbone=UNetConfig(channels=(16, 32), norm_groups=4)
    )
    DiffusionModel(config, ("NORMAL", "OPACITY"), "OPACITY").save(folder)
    return folder


def png(number: int) -> bytes:
    """Return an image of some hundred kilobytes, as uploads are."""
    pixels = draw_phantom(PhantomSpec("chest", size=28), number).pixels
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 20, (512, 512)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.repeat(19, 0).repeat(19, 1)[:512, :512] // 2 + noise).save(stream, "PNG")
    return stream.getvalue()


class Server:
    """A server in a process of its own."""

    def __init__(self, run: Path) -> None:
        """Start it and wait until it listens."""
        words = [sys.executable, "-m", "diffdx", "serve", str(run), "--port=0", *TRIALS]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"127\.0\.0\.1:(\d+)/", line):
                self.port = int(found[1])
                return
        raise SystemExit("the server did not start")

    def ask(self, method: str, path: str, body: bytes | None = None, client: int = 1) -> Any:
        """Return status and content of an answer, asked from the address 127.0.0.`client`."""
        line = http.client.HTTPConnection(
            "127.0.0.1", self.port, SECONDS, source_address=(f"127.0.0.{client}", 0)
        )
        with contextlib.closing(line):
            line.request(method, path, body, KIND if body else {})
            answer = line.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None

    def wait(self, job: str) -> dict[str, Any]:
        """Return a job once it is finished."""
        while True:
            _, said = self.ask("GET", f"/api/jobs/{job}")
            if said["state"] not in UNFINISHED:
                return dict(said)
            time.sleep(0.1)

    def mebibytes(self) -> float:
        """Return the memory of all its processes that no other shares (USS)."""
        own = psutil.Process(self.process.pid)
        used = sum(one.memory_full_info().uss for one in (own, *own.children(recursive=True)))
        return float(round(used / 2**20, 1))

    def model_process(self) -> psutil.Process:
        """Return the largest of its children: the one with the model."""
        children = psutil.Process(self.process.pid).children()
        return max(children, key=lambda child: child.memory_info().rss)


@contextlib.contextmanager
def served(run: Path) -> Iterator[Server]:
    """Give a running server."""
    server = Server(run)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.communicate(timeout=60)


def uploads(server: Server, rounds: int) -> dict[str, Any]:
    """Send rounds of parallel uploads; wait for the jobs of each."""
    images = [png(number) for number in range(UPLOADS)]

    def send(number: int) -> tuple[int, float, str | None]:
        started = time.perf_counter()
        client = 1 if number % 2 else 2 + number // 2 % (CLIENTS - 1)
        status, said = server.ask("POST", "/api/classify", images[number], client)
        return status, time.perf_counter() - started, said.get("id")

    seen = []
    for _ in range(rounds):
        with ThreadPoolExecutor(UPLOADS) as pool:
            answers = [*pool.map(send, range(UPLOADS))]
        states = Counter(server.wait(job)["state"] for _, _, job in answers if job)
        times = [seconds for _, seconds, _ in answers]
        seen.append(
            {
                "statuses": dict(sorted(Counter(status for status, _, _ in answers).items())),
                "jobs": dict(states),
                "p95_seconds": round(statistics.quantiles(times, n=20)[-1], 3),
                "mebibytes_after": server.mebibytes(),
            }
        )
    return {"uploads": UPLOADS, "clients": CLIENTS, "rounds": seen}


def endless(server: Server) -> dict[str, Any]:
    """Send an image that does not end; return how far that went."""
    before, sent, answer = server.mebibytes(), 0, b""
    head = "POST /api/classify HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n"
    piece = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as line:
        line.sendall(f"{head}content-type: image/png\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for chunk in (png(0)[:200], *[piece] * (ENDLESS_BYTES >> 20)):
                line.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                sent += len(chunk)
        with contextlib.suppress(ConnectionError):
            answer = line.recv(1 << 16)
    status = re.match(rb"HTTP/1.1 (\d+)", answer)
    return {
        "announced_bytes": ENDLESS_BYTES,
        "sent_bytes": sent,
        "status": int(status[1]) if status else None,
        "mebibytes_before": before,
        "mebibytes_after": server.mebibytes(),
    }


def killed(server: Server) -> dict[str, Any]:
    """Kill the model's process during a job; return what became of that job and of the next."""
    _, first = server.ask("POST", "/api/classify", png(0))
    while server.ask("GET", f"/api/jobs/{first['id']}")[1]["state"] == "waiting":
        time.sleep(0.02)
    server.model_process().kill()
    failed = server.wait(first["id"])
    started = time.perf_counter()
    health = server.ask("GET", "/health")[0]
    _, second = server.ask("POST", "/api/classify", png(1))
    return {
        "killed_job": failed["state"],
        "killed_error": failed["error"],
        "health": health,
        "next_job": server.wait(second["id"])["state"],
        "seconds_to_next_result": round(time.perf_counter() - started, 1),
    }


def fuzzed(server: Server, examples: int, seconds: int) -> dict[str, Any]:
    """Let schemathesis call every route; return its exit code and its last words."""
    # An upload that fits the schema, any bytes, is rightly no image: that check cannot hold.
    words = ["schemathesis", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
    words += ["--max-examples", str(examples), "--seed", "0", "--generation-deterministic"]
    words += ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-color"]
    words += ["--request-timeout", "60", "--max-time", str(seconds)]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(words[0])), *words[1:]],
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        cwd=tempfile.gettempdir(),
        check=False,
    )
    print(done.stdout[-6000:])
    return {"examples_a_route": examples, "exit_code": done.returncode}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=300, help="Longest time of schemathesis.")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    result: dict[str, Any] = {"name": "serving", "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or random_run(Path(folder) / "random")
        result["run"] = run.name
        with served(run) as server:
            result["uploads"] = uploads(server, given.rounds)
            result["endless"] = endless(server)
            result["killed"] = killed(server)
        with served(run) as server:
            result["fuzzed"] = fuzzed(server, given.examples, given.seconds)
    given.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
