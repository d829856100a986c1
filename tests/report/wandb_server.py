"""The part of W&B's server that `wandb sync` talks to: it keeps what arrives, as its client sends it.

So that an export is read back by W&B's own reader of offline files, which since 0.30 is there in Go only.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Received:
    """One run as the server knows it."""

    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    group: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass
class Server:
    """What arrived, by (project, id of the run)."""

    address: str
    runs: dict[tuple[str, str], Received] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of the test's business."""


@contextmanager
def wandb_server() -> Iterator[Server]:
    """A server on this machine, as long as the context lasts."""
    http = _Quiet(("127.0.0.1", 0), _handler(server := Server(address="")))
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

        def do_PUT(self) -> None:
            self._body()
            self._answer({})

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            body = self._body()
            if self.path == "/graphql":
                self._answer({"data": _graphql(server, json.loads(body))})
            elif self.path.startswith("/files/") and self.path.endswith("/file_stream"):
                *_, project, run = self.path.removesuffix("/file_stream").split("/")
                _stream(server.runs.setdefault((unquote(project), unquote(run)), Received()), json.loads(body))
                self._answer({"exitcode": None, "limits": {}})
            else:
                server.unknown.append(f"POST {self.path}")
                self._answer({})

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _answer(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _graphql(server: Server, request: dict[str, Any]) -> dict[str, Any]:
    """The answers that the client cannot do without."""
    asked = request.get("variables") or {}
    query = str(request.get("query", ""))
    if "upsertBucket" in query:
        key = (asked["project"], asked["name"])
        inserted = key not in server.runs
        run = server.runs.setdefault(key, Received())
        if asked.get("config"):
            run.config |= json.loads(asked["config"])
        run.name, run.group = asked.get("displayName") or run.name, asked.get("groupName") or run.group
        return {
            "upsertBucket": {
                "bucket": {
                    "id": "id", "name": asked["name"], "displayName": run.name, "description": "",
                    "config": json.dumps(run.config), "sweepName": None, "historyLineCount": len(run.rows),
                    "project": {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "someone"}},
                },
                "inserted": inserted,
            }
        }  # fmt: skip
    if "createRunFiles" in query:
        files = [
            {"name": name, "uploadUrl": f"{server.address}/storage/{number}"}
            for number, name in enumerate(asked.get("files", []))
        ]
        return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
    server.unknown.append(query[:2000])
    return {}


def _stream(run: Received, sent: dict[str, Any]) -> None:
    """Lines of files, each chunk from an offset on: what stood there is replaced."""
    for name, chunk in (sent.get("files") or {}).items():
        lines = [json.loads(line) for line in chunk["content"]] if name.endswith((".jsonl", ".json")) else []
        if name == "wandb-history.jsonl":
            run.rows[chunk["offset"] :] = lines
        elif name == "wandb-summary.json":
            run.summary = lines[-1]
    if sent.get("complete"):
        run.exit_code = sent.get("exitcode")
