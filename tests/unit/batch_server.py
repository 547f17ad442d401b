"""Both providers' batch APIs on loopback, with the faults a test asks for. Not a test itself."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scripted_server import good

Result = tuple[int, dict[str, Any]] | str
"""Status and body of one item; or how it went unanswered: `expired`, `canceled`, `missing`, `unreadable`."""


@dataclass(slots=True)
class Submitted:
    """A batch as the provider has it."""

    id: str
    requests: dict[str, dict[str, Any]]
    """Bodies by custom id."""
    metadata: dict[str, str] | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class BatchServer:
    """Batches end as soon as they are looked at, unless `running`."""

    provider: str
    running: bool = False
    lose: str = ""
    """The next submission: `reply` = made, but the connection drops before it is told; `request` = not made."""
    refuse: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(status, code) of the next replies to anything but live calls."""
    failure: str = ""
    """Why every batch fails as a whole; OpenAI alone knows that."""
    results: dict[int, Callable[[dict[str, Any]], Result]] = field(default_factory=dict[Any, Any])
    """By number of the batch, from 0; what is not named is answered."""
    says: Callable[[list[dict[str, str]]], str] | None = None
    """The answer to a conversation, live and by batch."""
    batches: list[Submitted] = field(default_factory=list[Submitted])
    asked: Counter[str] = field(default_factory=Counter[str])
    """Requests by method and route."""
    live: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Bodies of calls made one by one."""
    url: str = ""
    _files: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1" if self.provider == "openai" else self.url

    def answer(self, method: str, path: str, headers: Any, content: bytes) -> tuple[int, bytes] | None:
        """Status and body of a reply; None drops the connection."""
        path = path.split("?")[0].removeprefix("/v1")
        if path in ("/chat/completions", "/messages"):
            body = json.loads(content)
            self.live.append(body)
            return 200, good(path, self.says(body["messages"]) if self.says else "live").body.encode()
        route = re.sub(r"(batch|file)-\d+(-\w+)?", "*", path)
        self.asked[f"{method} {route}"] += 1
        if self.refuse:
            status, code = self.refuse.pop(0)
            return status, json.dumps({"error": {"type": code, "code": code, "message": "no"}}).encode()
        if self.provider == "openai":
            found = self._openai(method, path, headers, content)
        else:
            found = self._anthropic(method, path, content)
        return found if found is None or isinstance(found[1], bytes) else (found[0], json.dumps(found[1]).encode())

    def _openai(self, method: str, path: str, headers: Any, content: bytes) -> Any:
        match method, path.strip("/").split("/"):
            case "POST", ["files"]:
                name = f"file-{len(self._files)}"
                self._files[name] = _upload(headers["content-type"], content)
                about = {"object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
                return 200, {"id": name, "status": "processed", **about}
            case "POST", ["batches"]:
                asked = json.loads(content)
                lines = [json.loads(line) for line in self._files[asked["input_file_id"]].splitlines()]
                assert {line["url"] for line in lines} == {asked["endpoint"]} == {"/v1/chat/completions"}
                bodies = {line["custom_id"]: line["body"] for line in lines}
                return self._made(bodies, asked["metadata"])
            case "GET", ["batches"]:
                shown = [self._shown(batch) for batch in reversed(self.batches)]
                return 200, {"object": "list", "data": shown, "has_more": False}
            case "GET", ["batches", name]:
                return 200, self._shown(self._batch(name))
            case "GET", ["files", name, "content"]:
                return 200, self._lines(self._batch(name.removeprefix("file-").rsplit("-", 1)[0]), name.rsplit("-")[-1])
            case _:
                return 404, {"error": {"message": f"{method} {path}"}}

    def _anthropic(self, method: str, path: str, content: bytes) -> Any:
        match method, path.strip("/").split("/"):
            case "POST", ["messages", "batches"]:
                return self._made({each["custom_id"]: each["params"] for each in json.loads(content)["requests"]}, None)
            case "GET", ["messages", "batches"]:
                shown = [self._shown(batch) for batch in reversed(self.batches)]
                return 200, {"data": shown, "has_more": False, "first_id": None, "last_id": None}
            case "GET", ["messages", "batches", name]:
                return 200, self._shown(self._batch(name))
            case "GET", ["messages", "batches", name, "results"]:
                return 200, self._lines(self._batch(name), "all")
            case _:
                return 404, {"error": {"message": f"{method} {path}"}}

    def _made(self, bodies: dict[str, Any], metadata: dict[str, str] | None) -> Any:
        lost, self.lose = self.lose, ""
        if lost == "request":
            return None
        batch = Submitted(id=f"batch-{len(self.batches)}", requests=bodies, metadata=metadata)
        self.batches.append(batch)
        return None if lost == "reply" else (200, self._shown(batch))

    def _batch(self, name: str) -> Submitted:
        return next(batch for batch in self.batches if batch.id == name)

    def _shown(self, batch: Submitted) -> dict[str, Any]:
        size = len(batch.requests)
        if self.provider == "openai":
            status = "failed" if self.failure else "in_progress" if self.running else "completed"
            found = {"id": batch.id, "object": "batch", "created_at": int(batch.at.timestamp()), "status": status}
            found |= {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "f"}
            found |= {"metadata": batch.metadata, "request_counts": {"total": size, "completed": 0, "failed": 0}}
            found |= {"errors": {"data": [{"code": "c", "message": self.failure}]}} if self.failure else {}
            files = {"output_file_id": f"file-{batch.id}-good", "error_file_id": f"file-{batch.id}-bad"}
            return found | (files if status == "completed" else {})
        counts = dict.fromkeys(("succeeded", "errored", "canceled", "expired", "processing"), 0)
        counts["processing" if self.running else "succeeded"] = size
        status = "in_progress" if self.running else "ended"
        times = {"created_at": batch.at.isoformat(), "expires_at": batch.at.isoformat()}
        results = {} if self.running else {"results_url": f"{self.url}/v1/messages/batches/{batch.id}/results"}
        about = {"type": "message_batch", "processing_status": status, "request_counts": counts}
        return {"id": batch.id, **about, **times, **results}

    def _lines(self, batch: Submitted, which: str) -> bytes:
        respond = self.results.get(self.batches.index(batch), self._answered)
        lines: list[str] = []
        for custom_id, body in reversed(batch.requests.items()):  # the order is nowhere promised
            result = respond(body)
            bad = isinstance(result, str) or result[0] != 200
            if result == "missing" or which not in ("all", "bad" if bad else "good"):
                continue
            line = "{" if result == "unreadable" else json.dumps(_line(self.provider, custom_id, result))
            lines.append(line)
        return "\n".join(lines).encode()

    def _answered(self, body: dict[str, Any]) -> Result:
        messages = body["messages"]
        text = self.says(messages) if self.says else f"answer to {messages[-1]['content']}"
        return 200, json.loads(good("/chat/completions" if self.provider == "openai" else "/messages", text).body)


def _line(provider: str, custom_id: str, result: Result) -> dict[str, Any]:
    if provider == "openai":
        if isinstance(result, str):
            return {"custom_id": custom_id, "response": None, "error": {"code": f"batch_{result}", "message": "late"}}
        response = {"status_code": result[0], "request_id": "req-1", "body": result[1]}
        return {"custom_id": custom_id, "response": response, "error": None}
    if isinstance(result, str):
        return {"custom_id": custom_id, "result": {"type": result}}
    status, body = result
    if status == 200:
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": body}}
    return {"custom_id": custom_id, "result": {"type": "errored", "error": {"type": "error", "error": body["error"]}}}


def _upload(content_type: str, content: bytes) -> bytes:
    """The file of a form."""
    form = BytesParser().parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + content)
    parts = {str(part.get_param("name", header="content-disposition")): part for part in form.get_payload()}  # pyright: ignore
    assert parts["purpose"].get_payload() == "batch"
    return parts["file"].get_payload(decode=True)  # pyright: ignore


@contextmanager
def batch_server(provider: str, **wishes: Any) -> Iterator[BatchServer]:
    server = BatchServer(provider, **wishes)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._do(self.rfile.read(int(self.headers["content-length"])))

        def do_GET(self) -> None:
            self._do(b"")

        def _do(self, content: bytes) -> None:
            with lock:
                reply = server.answer(self.command, self.path, self.headers, content)
            if reply is None:
                self.connection.close()
                return
            self.send_response(reply[0])
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply[1])))
            self.end_headers()
            self.wfile.write(reply[1])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server.url = f"http://127.0.0.1:{httpd.server_port}"
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
