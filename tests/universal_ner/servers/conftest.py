"""No module here may reach for another host."""

from __future__ import annotations

import sys

import pytest

# Audit hooks stay as long as the process, so there is one.
connections: list[tuple[str, object]] = []


def record_connection(event, args):
    if event == "socket.connect":
        connections.append(("connect", args[1]))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        connections.append(("look up", args[0]))


sys.addaudithook(record_connection)


@pytest.fixture(scope="module", autouse=True)
def only_loopback():
    """Nothing in a module may reach for another host, by address or by name."""
    connections.clear()
    yield
    hosts = {where[0] if isinstance(where, tuple) else where for _, where in connections}
    assert "127.0.0.1" in hosts
    assert hosts <= {"127.0.0.1", "localhost"}
