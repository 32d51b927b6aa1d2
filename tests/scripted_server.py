"""An HTTP server that does to each prompt what a test tells it to, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What to do with a request: writes to the handler's connection, or does not.
Behaviour = Callable[[BaseHTTPRequestHandler], None]


def reply(
    body: bytes | str | dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Behaviour:
    """Answer with a whole response."""
    if isinstance(body, dict):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return behave


def answer(text: str | None, finish: str = "stop", logprobs: Any = None) -> Behaviour:
    """Answer as a server should, in the form of both APIs at once."""
    choice = {"message": {"content": text}, "finish_reason": finish, "logprobs": logprobs}
    return reply({"choices": [{**choice, "text": text}]})


def drop(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def half(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection in the middle of the response."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"te')
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Say nothing until the client goes away."""
    while handler.connection.recv(1024):
        pass
    handler.server.hung_up.set()  # type: ignore[attr-defined]
    handler.close_connection = True


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send white space to keep the connection busy until the client goes away."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"\n")
            time.sleep(0.01)
    except OSError:
        handler.close_connection = True


def ask_model(model: Any, prompts: list[list[str]]) -> list[list[str]]:
    """Ask a model, here or in another process that imports this file and no more."""
    return list(model(prompts))


@dataclass
class Request:
    """A request as it arrived.

    time (float): When, in seconds.
    path (str): The path.
    prompt (str): The prompt, or the last message of a chat.
    body (dict[str, Any]): The JSON.
    headers (Mapping[str, str]): The headers.
    """

    time: float
    path: str
    prompt: str
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass
class ScriptedServer:
    """A server on loopback.

    base_url (str): Where its API is.
    script (dict[str, list[Behaviour]]): For each prompt what to do with its first request, its
        second and so on; the last goes on for all further ones.
    requests (list[Request]): Those that came.
    hung_up (threading.Event): Set when a client leaves a request that hangs.
    """

    base_url: str
    script: dict[str, list[Behaviour]]
    hung_up: threading.Event
    requests: list[Request] = field(default_factory=list)

    def tries(self) -> dict[str, int]:
        """How many requests came for each prompt."""
        return dict(Counter(request.prompt for request in self.requests))


@contextmanager
def run(script: dict[str, list[Behaviour]]) -> Iterator[ScriptedServer]:
    """Serve a script."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = body.get("messages")
            prompt = messages[-1]["content"] if messages else body["prompt"]
            with lock:
                step = server.tries().get(prompt, 0)
                arrived = Request(time.time(), self.path, prompt, body, self.headers)
                server.requests.append(arrived)
            steps = server.script[prompt]
            steps[min(step, len(steps) - 1)](self)

        def do_GET(self) -> None:
            with lock:
                server.requests.append(Request(time.time(), self.path, "", {}, self.headers))
            reply("{}", 404)(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.hung_up = threading.Event()  # type: ignore[attr-defined]
        port = http.server_address[1]
        server = ScriptedServer(f"http://127.0.0.1:{port}/v1", script, http.hung_up)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
