"""The names of weights, against a hub that is a server of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "1234567890" * 4
CONFIG = b'{"model_type": "gpt2"}'
NAMES = """
from spacy_universalner.universal_ner.models.weights import Source, fingerprint, load_config
source = Source("some/model", adapter="some/adapter")
print(fingerprint(source))
load_config(source)
print(fingerprint(source))
print(fingerprint(Source("some/absent")))
"""


class Hub(BaseHTTPRequestHandler):
    """Has some/model and some/adapter, each a configuration and no other file."""

    def do_HEAD(self) -> None:
        name, _, revision, file = self.path.split("/")[2:]
        found = (name, revision, file) in (
            *(("model", revision, "config.json") for revision in ("main", COMMIT)),
            ("adapter", "main", "adapter_config.json"),
        )
        self.send_response(200 if found else 404)
        if found:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"1"')
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(CONFIG) if found else 0))
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(CONFIG)

    do_GET = do_HEAD  # noqa: N815 (the server's name for it)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_weights_have_one_name_before_and_after_they_are_fetched(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            settings = {
                "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
                "HF_HOME": str(tmp_path),
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1",
            }
            run = subprocess.run(
                [sys.executable, "-c", NAMES],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
            )
        finally:
            hub.shutdown()
    assert run.returncode == 0, run.stderr
    name = f"some/model@{COMMIT}+some/adapter@{COMMIT}"
    assert run.stdout.splitlines() == [name, name, "some/absent@main"]
