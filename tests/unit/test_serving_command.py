"""`diffdx serve` as it is called, and its patience with clients that send no request."""

import asyncio
import socket
import sys
import threading

import pytest
import uvicorn
from typer.testing import CliRunner

from diffdx.cli.app import app as command
from diffdx.serving import app as app_module
from diffdx.serving import impatience
from diffdx.serving.impatience import ImpatientProtocol
from diffdx.serving.settings import ServeSettings
from diffdx.serving.tasks import ModelSettings

NOTICE = "Research use only. Not a medical device."
TOKEN = "a-token-of-many-letters"


class TestCommand:
    def invoke(self, *words):
        return CliRunner().invoke(command, ["serve", "RUN", *words])

    def test_other_addresses_without_a_token_are_refused(self):
        result = self.invoke("--host=0.0.0.0")
        assert result.exit_code == 2
        assert "--token-file" in result.stderr

    def test_a_missing_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "diffdx.serving.app", None)
        result = self.invoke()
        assert result.exit_code == 2
        assert "diffdx[serve]" in result.stderr

    def test_passes_its_options_on_and_ends_by_ctrl_c(self, monkeypatch, tmp_path):
        (tmp_path / "token").write_text(TOKEN)
        given = []

        def serve(model, settings, started):
            given.extend([model, settings])
            started("http://x/")
            raise KeyboardInterrupt

        monkeypatch.setattr(app_module, "serve", serve)
        words = ["--host=0.0.0.0", f"--token-file={tmp_path / 'token'}", "--max-upload=2"]
        result = self.invoke(*words, "--allow-host=a.example", "--keep=2", "--trials=11")
        assert result.exit_code == 130
        assert NOTICE in result.stderr
        model, settings = given
        assert (model.classify["num_trials"], model.classify["stop"]) == (11, "0.01")
        assert (settings.token, settings.upload_bytes) == (TOKEN, 2 << 20)
        assert (settings.allow_hosts, settings.keep_seconds) == (("a.example",), 120.0)

    def test_an_address_in_use_is_said_before_anything_is_loaded(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            settings = ServeSettings(port=taken.getsockname()[1])
            with pytest.raises(OSError, match="in use"):
                app_module.serve(ModelSettings(tmp_path, {}), settings, print)


class TestImpatience:
    @pytest.fixture
    def port(self, monkeypatch):
        """A server that answers after longer than it waits for a request."""
        monkeypatch.setattr(impatience, "HEADER_SECONDS", 0.3)

        async def answer(scope, receive, send):
            await asyncio.sleep(0.6)
            start = {"type": "http.response.start", "status": 204, "headers": []}
            await send(start)
            await send({"type": "http.response.body"})

        config = uvicorn.Config(answer, http=ImpatientProtocol, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=server.run, args=([listening],))
            thread.start()
            yield listening.getsockname()[1]
            server.should_exit = True
            thread.join()

    def test_ends_a_request_that_is_not_completed_and_no_other(self, port):
        request = b"GET / HTTP/1.1\r\nhost: x\r\n"
        with socket.create_connection(("127.0.0.1", port), 30) as line:
            line.sendall(request + b"\r\n")
            assert line.recv(1000).startswith(b"HTTP/1.1 204")
            line.sendall(request)
            assert line.recv(1000) == b""
        with socket.create_connection(("127.0.0.1", port), 30) as line:
            assert line.recv(1000) == b""
