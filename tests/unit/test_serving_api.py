"""Every answer of the web page and REST interface, with a model that says what it is told to."""

import asyncio
import io
import json
import zipfile

import numpy as np
import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from PIL import Image

from diffdx.errors import ConfigError, DataError
from diffdx.serving import decoding
from diffdx.serving.app import build_app
from diffdx.serving.child import Child
from diffdx.serving.decoding import Decoder
from diffdx.serving.service import Service
from diffdx.serving.settings import ServeSettings
from diffdx.serving.tasks import ClassifyTask, Failed, Outcome, Progress, Ready
from diffdx.transforms.pixels import PixelSpec

NOTICE = "Research use only. Not a medical device."
TOKEN = "a-token-of-many-letters"
NAME = "<script>alert(1)</script>"
SPEC = PixelSpec(16)
FACTS = {
    "name": NAME,
    "classes": ["NORMAL", "OPACITY"],
    "positive": "OPACITY",
    "model_sha256": "ab" * 32,
    "image_size": SPEC.size_px,
    "channels": SPEC.channels,
    "resize": SPEC.resize,
    "rule": "vote",
    "space": "v",
    "stop": "0.01",
    "seed": 0,
    "trials": 5,
    "boundary": [6, 6, 3, 3, 3],
    "calibrated": False,
    "alpha": None,
    "warnings": ["<b>not calibrated</b>"],
    "edit": {
        "logsnr_start": -2.5,
        "guidance_scale": 3.0,
        "lowest": -10.0,
        "highest": 10.0,
        "max_guidance": 20.0,
    },
    "device": "cpu",
    "precision": "fp32",
    "version": "0.1.0",
}
SHARES = {"NORMAL": 0.4, "OPACITY": 0.6}
CLASSIFIED = Outcome(
    {
        "prediction": "OPACITY",
        "prob": None,
        "set": None,
        "triage": None,
        "ood": None,
        "ood_p_value": None,
        "votes": {"NORMAL": 2.0, "OPACITY": 3.0},
        "vote_share": SHARES,
        "share_low": None,
        "share_high": None,
        "entropy_bits": 0.97,
        "mean_error": {"NORMAL": 0.5, "OPACITY": 0.4},
        "trials_used": 5,
        "stopped_by": "none",
        "by_noise_level": [
            {"logsnr": 0.0, "trials": 5, "vote_share": SHARES, "entropy_bits": 0.97}
        ],
        "evidence_margin": 0.1,
        "vote_agrees": True,
        "caution": None,
        "warnings": [],
        "nfe": 10,
        "seconds": 0.1,
        "model_sha256": "ab" * 32,
    },
    {"image": b"png 1", "evidence": b"png 2"},
    b"case",
)
EXPLAINED = Outcome(
    {
        "source": "OPACITY",
        "target": "NORMAL",
        "prediction_cf": "NORMAL",
        "vote_share_cf": SHARES,
        "evidence_margin": 0.1,
        "vote_agrees": True,
        "mean_change": 0.2,
        "mean_null_edit": 0.01,
        "logsnr_start": -2.5,
        "guidance_scale": 3.0,
        "method": "contrast",
        "nfe": 20,
        "seconds": 0.1,
        "model_sha256": "ab" * 32,
    },
    {"counterfactual": b"png 3"},
)


def png(side=20):
    pixels = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class FakeModel(Child):
    """Answers at once, or never if it has no answer."""

    def __init__(self):
        super().__init__(print)
        self.answers, self.says, self.tasks = {}, [], []

    @property
    def alive(self):
        return True

    def start(self):
        self.says = [Ready(FACTS)]

    def stop(self):
        pass

    def send(self, message):
        self.tasks.append(message)
        kind = "classify" if isinstance(message, ClassifyTask) else "explain"
        self.says += self.answers.get(kind, [])

    def receive(self, seconds):
        return self.says.pop(0) if self.says else None


class DirectDecoder(Decoder):
    """Decodes in this process."""

    def _ask(self, data, frame):
        reply, pixels = decoding._answer(data, frame, SPEC)
        if pixels is None:
            raise (ConfigError if reply["fault"] == "config" else DataError)(reply["error"])
        return decoding.Upload(self._checked(reply, pixels), reply["caution"])


@pytest.fixture
def model():
    made = FakeModel()
    made.answers = {"classify": [CLASSIFIED], "explain": [EXPLAINED]}
    return made


@pytest.fixture
def connect(model):
    """Return a function that gives a client of a server with these settings."""
    clients = []

    def make(**settings):
        service = Service(ServeSettings(**settings), model)
        service.start()
        service.decoder = DirectDecoder(SPEC)
        client = TestClient(
            build_app(service), base_url="http://127.0.0.1:8000", raise_server_exceptions=False
        )
        client.service = service
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect):
    return connect()


def upload(client, data=None, kind="image/png", **more):
    data = png() if data is None else data
    return client.post("/api/classify", content=data, headers={"content-type": kind}, **more)


def finished(client, job):
    """Return the job once its events have ended."""
    with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data")]
    return client.get(f"/api/jobs/{job['id']}").json(), events


def refused(answer, status):
    assert answer.status_code == status
    assert answer.json()["notice"] == NOTICE
    return answer.json()["detail"]


class TestClassify:
    def test_a_job_goes_from_waiting_to_done(self, client, model):
        model.answers["classify"] = [Progress({"trials": 3}), CLASSIFIED]
        first = upload(client)
        assert first.status_code == 202
        assert first.json()["notice"] == NOTICE
        job, events = finished(client, first.json())
        assert [*events] == [{"state": "running"}, {"trials": 3}, {"state": "done"}]
        assert job["result"] == CLASSIFIED.result
        assert client.get(job["pictures"]["evidence"]).content == b"png 2"
        assert client.get(f"/api/jobs/{job['id']}").headers["cache-control"] == "no-store"

    def test_the_model_gets_the_pixels_in_its_size(self, client, model):
        finished(client, upload(client, kind="application/octet-stream").json())
        expected = SPEC.store(np.array(Image.open(io.BytesIO(png()))))
        np.testing.assert_array_equal(model.tasks[0].stored, expected)

    def test_a_failed_job_says_why(self, client, model):
        model.answers["classify"] = [Failed(422, "not finite")]
        job, _ = finished(client, upload(client).json())
        assert job["state"] == "failed"
        assert job["error"] == {"status": 422, "message": "not finite"}
        assert job["result"] is None
        refused(client.get(f"/api/jobs/{job['id']}/case.zip"), 409)

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (png(), "multipart/form-data; boundary=x"),
            (png(), ""),
            (b"PK\3\4" + bytes(500), "application/octet-stream"),
            (b"<svg onload='alert(1)'/>", "image/svg+xml"),
            (b"", "image/png"),
        ],
    )
    def test_what_is_no_image_is_415(self, client, data, kind):
        refused(upload(client, data, kind), 415)

    @pytest.mark.parametrize("data", [png()[:-300], png(2), b"\x89PNG\r\n\x1a\n" + bytes(300)])
    def test_a_damaged_image_is_422_and_no_path_is_told(self, client, data):
        detail = refused(upload(client, data), 422)
        assert detail.startswith("the file")
        assert "/proc" not in detail

    def test_a_large_upload_is_413(self, connect):
        refused(upload(connect(upload_bytes=200)), 413)

    @pytest.mark.parametrize("frame", ["-1", "x", "1e9"])
    def test_a_frame_that_is_no_number_is_422(self, client, frame):
        assert "frame" in refused(upload(client, params={"frame": frame}), 422)

    def test_a_frame_that_is_not_there_is_422(self, client):
        assert "no frame 3" in refused(upload(client, params={"frame": "3"}), 422)

    def test_too_many_jobs_are_429_and_a_full_queue_is_503(self, connect, model):
        model.answers.clear()
        client = connect(per_client=2)
        answers = [upload(client) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[2].headers["retry-after"]
        client = connect(queue=2)
        answers = [upload(client) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 503]
        assert answers[2].headers["retry-after"]

    def test_a_refused_upload_takes_no_place(self, connect, model):
        model.answers.clear()
        client = connect(per_client=1)
        refused(upload(client, b"no image"), 415)
        assert upload(client).status_code == 202

    def test_a_server_without_a_model_is_503(self, client):
        client.service.engine.down = "the model is gone"
        assert refused(upload(client), 503) == "the model is gone"
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "down")


class TestStreaming:
    """What the body's reading does while it streams in."""

    def read(self, chunks, kind="image/png", **settings):
        taken = []

        async def receive():
            if len(taken) == len(chunks):
                await asyncio.sleep(60)
            taken.append(chunks[len(taken)])
            if taken[-1] is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": taken[-1], "more_body": True}

        async def story():
            service = Service(ServeSettings(**settings), FakeModel())
            scope = {"type": "http", "headers": [(b"content-type", kind.encode())]}
            await service.receive(Request(scope, receive), None)

        with pytest.raises(HTTPException) as error:
            asyncio.run(story())
        return error.value.status_code, len(taken)

    def test_ten_gigabytes_are_stopped_at_the_limit(self):
        head = png()[:150]
        chunks = [head, *[bytes(1 << 16)] * 160_000]
        assert self.read(chunks, upload_bytes=1 << 20) == (413, 17)

    def test_what_is_no_image_is_stopped_at_its_head(self):
        assert self.read([b"PK" * 100, *[b"x"] * 100]) == (415, 1)

    def test_a_client_that_leaves_is_let_go(self):
        assert self.read([png()[:150], None]) == (400, 2)

    def test_a_slow_client_is_stopped(self):
        assert self.read([png()[:150]], upload_seconds=0.1) == (408, 1)


class TestExplain:
    @pytest.fixture
    def case(self, client):
        return finished(client, upload(client).json())[0]

    def ask(self, client, **asked):
        return client.post("/api/explain", json=asked)

    def test_uses_what_the_classification_left(self, client, case, model):
        asked = {"target": "NORMAL", "logsnr_start": -3, "guidance_scale": 2}
        answer = self.ask(client, job=case["id"], **asked)
        assert answer.status_code == 202
        job, _ = finished(client, answer.json())
        assert job["result"] == EXPLAINED.result
        assert vars(model.tasks[-1]) == {"case": b"case", **asked}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"target": NAME},
            {"logsnr_start": 11.0},
            {"logsnr_start": -11.0},
            {"guidance_scale": 0},
            {"guidance_scale": 21},
            {"more": 1},
            {"job": None},
        ],
    )
    def test_impossible_wishes_are_422(self, client, case, wrong):
        refused(self.ask(client, **{"job": case["id"], "target": "NORMAL"} | wrong), 422)

    def test_an_unknown_job_is_404_and_an_unfinished_one_409(self, client, case, model):
        refused(self.ask(client, job="none", target="NORMAL"), 404)
        model.answers.clear()
        waiting = upload(client).json()
        refused(self.ask(client, job=waiting["id"], target="NORMAL"), 409)

    def test_the_zip_holds_both_and_no_name(self, client, case):
        job, _ = finished(client, self.ask(client, job=case["id"], target="NORMAL").json())
        for address, names in (
            (case["archive"], {"classify/image.png", "classify/evidence.png"}),
            (
                job["archive"],
                {"classify/image.png", "classify/evidence.png", "explain/counterfactual.png"},
            ),
        ):
            content = client.get(address).content
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                assert set(file.namelist()) == names | {"case.json"}
                said = json.loads(file.read("case.json"))
            assert said["notice"] == NOTICE
            assert said["classify"] == CLASSIFIED.result
        assert said["explain"] == EXPLAINED.result
        assert client.get(address).content == content


class TestJobRoutes:
    def test_deleting_forgets_and_cancels(self, client, model):
        done = finished(client, upload(client).json())[0]
        model.answers.clear()
        running, waiting = upload(client).json(), upload(client).json()
        assert waiting["position"] >= 1
        for job in (done, running, waiting):
            assert client.delete(f"/api/jobs/{job['id']}").status_code == 204
            refused(client.get(f"/api/jobs/{job['id']}"), 404)
            refused(client.delete(f"/api/jobs/{job['id']}"), 404)

    @pytest.mark.parametrize(
        "path", ["/api/jobs/x", "/api/jobs/x/events", "/api/jobs/x/case.zip", "/x", "/docs"]
    )
    def test_what_is_not_there_is_404(self, client, path):
        refused(client.get(path), 404)

    @pytest.mark.parametrize("name", ["none", "..%2F..%2Fimage", "%00"])
    def test_a_picture_that_is_not_there_is_404(self, client, name):
        job = upload(client).json()
        refused(client.get(f"/api/jobs/{job['id']}/pictures/{name}.png"), 404)

    def test_no_path_leads_out_of_the_static_files(self, client):
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
            refused(client.get(path), 404)

    def test_a_wrong_method_is_405(self, client):
        refused(client.get("/api/classify"), 405)
        answer = client.put("/api/jobs/x")
        refused(answer, 405)
        assert answer.headers["allow"] == "DELETE, GET"

    def test_a_fault_of_the_server_is_500_without_details(self, client, monkeypatch):
        monkeypatch.setattr(client.service.jobs, "find", lambda number: 1 / 0)
        assert "ZeroDivisionError" in refused(client.get("/api/jobs/x"), 500)

    def test_metrics_count_without_naming_jobs(self, client):
        job, _ = finished(client, upload(client).json())
        text = client.get("/metrics").text
        assert 'diffdx_jobs_total{kind="classify",state="done"} 1.0' in text
        assert 'route="/api/jobs/{number}",status="200"' in text
        assert job["id"] not in text


class TestGuard:
    def test_every_answer_forbids_scripts_of_others(self, client):
        for path in ("/", "/health", "/none", "/static/page.js"):
            headers = client.get(path).headers
            assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("127.0.0.1:8000", 200),
            ("localhost", 200),
            ("[::1]:8000", 200),
            ("LOCALHOST:1", 200),
            ("evil.example", 400),
            ("127.0.0.1.evil.example", 400),
            ("", 400),
        ],
    )
    def test_another_name_is_refused(self, client, host, status):
        assert client.get("/health", headers={"host": host}).status_code == status

    def test_an_allowed_name_is_taken(self, connect):
        client = connect(allow_hosts=("Reading-Room.example",))
        answer = client.get("/health", headers={"host": "reading-room.example"})
        assert answer.status_code == 200

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9"])
    def test_pages_of_other_sites_are_refused(self, client, origin):
        answer = client.post("/api/classify", content=png(), headers={"origin": origin})
        refused(answer, 403)

    def test_its_own_page_is_not_refused(self, client):
        own = {"origin": "http://127.0.0.1:8000", "content-type": "image/png"}
        assert client.post("/api/classify", content=png(), headers=own).status_code == 202

    def test_without_the_token_all_is_401_but_health_and_login(self, connect):
        client = connect(token=TOKEN)
        answer = client.get("/api/model")
        refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/openapi.json", "/api/jobs/x"):
            refused(client.get(path), 401)
        refused(upload(client), 401)
        assert client.get("/health").status_code == 200
        assert client.get("/", follow_redirects=False).headers["location"] == "/login"
        assert "Token" in client.get("/login").text

    @pytest.mark.parametrize(
        "header", [f"Bearer {TOKEN}x", TOKEN, "Basic x", "Bearer ", "Bearer é"]
    )
    def test_a_wrong_token_is_401(self, connect, header):
        client = connect(token=TOKEN)
        headers = {"authorization": header.encode("latin-1")}
        refused(client.get("/api/model", headers=headers), 401)

    def test_the_token_opens(self, connect):
        client = connect(token=TOKEN)
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/api/model", headers=headers).json()["classes"] == FACTS["classes"]

    def test_a_browser_gets_a_cookie_for_the_token(self, connect):
        client = connect(token=TOKEN)
        refused(client.post("/api/login", json={"token": "wrong"}), 401)
        for cookie in ("diffdx=wrong", "diffdx=\x7f;", "other=1"):
            refused(client.get("/api/model", headers={"cookie": cookie}), 401)
        answer = client.post("/api/login", json={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get("/api/model").status_code == 200
        # The cookie of another server, or of this one before it was started again.
        assert connect(token=TOKEN).service.access.session not in cookie


class TestPage:
    def test_names_are_text_and_no_script_stands_in_the_page(self, client):
        page = client.get("/").text
        assert NAME not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "<b>not calibrated</b>" not in page
        assert NOTICE in page
        assert " style=" not in page
        assert "onload=" not in page

    def test_everything_it_loads_is_its_own(self, client):
        for path in (
            "/static/page.js",
            "/static/page.css",
            "/static/icon.svg",
            "/static/viewer.js",
        ):
            text = client.get(path).text
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "")

    def test_openapi_names_every_route(self, client):
        said = client.get("/openapi.json").json()
        assert {
            "/api/classify",
            "/api/explain",
            "/api/jobs/{number}",
            "/metrics",
            "/health",
        } <= set(said["paths"])
        assert NOTICE in json.dumps(said)
