"""A chat server that answers what a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """A small HTTP server that speaks the OpenAI chat protocol.

    Attributes:
        requests: What was asked, as JSON values.
        reply: Makes the answer to a request: an entry as a dictionary, text of the answer, or (status, headers, body).
        delay_s: Wait between the bytes of an answer; None sends it at once.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models = ["qwen3-vl"]
        self.delay_s: float | None = None
        self.reply = reply
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = {"object": "list", "data": [{"id": name, "object": "model"} for name in chat.models]}
                self.answer(200, {}, json.dumps(body).encode())

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.requests.append(request)
                chat.headers.append({name.lower(): value for name, value in self.headers.items()})
                reply = chat.reply(request)
                self.answer(*(reply if isinstance(reply, tuple) else (200, {}, chat.completion(reply))))

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    if chat.delay_s is None:
                        self.wfile.write(body)
                        return
                    for byte in body:
                        time.sleep(chat.delay_s)
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                except OSError:  # the describer has hung up
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @staticmethod
    def completion(content: Any, finish_reason: str = "stop") -> bytes:
        """Return the body of a chat completion."""
        text = content if isinstance(content, str) or content is None else json.dumps(content)
        choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        values = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps(values | {"usage": usage}).encode()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
