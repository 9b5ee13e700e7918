"""An HTTP server on a free port with programmed answers, which replaces an API server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml


class AnsweringServer:
    """Sends ``answers`` one after another, then the results of ``reply``; records all requests in ``asked``."""

    def __init__(self, reply: Callable[[str, str], tuple[int, Any]] = lambda method, path: (404, {})) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        """(method, path, headers, body); a body that is no JSON is bytes, an empty one None."""
        self.connections = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = dict(self.headers.items())
                outer.asked.append((self.command, self.path, headers, _decoded(body)))
                status, content = outer.answers.pop(0) if outer.answers else reply(self.command, self.path)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def kubeconfig(self, path: Path) -> Path:
        """Writes a kubeconfig for this server, with namespace ``range``; returns its path."""
        cluster = {"name": "c", "cluster": {"server": self.url}}
        context = {"name": "here", "context": {"cluster": "c", "namespace": "range"}}
        document = {"current-context": "here", "clusters": [cluster], "contexts": [context]}
        path.write_text(yaml.safe_dump(document))
        return path


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body
