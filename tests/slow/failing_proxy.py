"""An HTTP proxy in front of one server that fails some requests, in four ways, or delays them."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("reset", "500", "429", "half reply")


class FailingProxy:
    """`uri` leads to the server at `port`; `failing` of the requests fail, all wait `delay_s`."""

    def __init__(self, port: int, failing: float = 0.0, delay_s: float = 0.0) -> None:
        self.failing, self.delay_s = failing, delay_s
        self.requests = 0
        self.failed: Counter[str] = Counter()
        draw, proxy = random.Random(0), self

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                proxy.requests += 1
                fault = draw.choice(FAULTS) if draw.random() < proxy.failing else ""
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(proxy.delay_s)
                if fault:
                    proxy.failed[fault] += 1
                if fault == "reset":
                    now = struct.pack("ii", 1, 0)  # close() sends RST instead of FIN
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                    self.connection.close()
                elif fault in ("500", "429"):
                    self.send_error(int(fault))
                else:
                    with closing(http.client.HTTPConnection("127.0.0.1", port)) as upstream:
                        upstream.request(self.command, self.path, body, dict(self.headers))
                        answer = upstream.getresponse()
                        data = answer.read()
                    self.send_response(answer.status)
                    self.send_header("Content-Type", answer.headers["Content-Type"])
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2] if fault else data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            log_message = staticmethod(lambda *_: None)  # type: ignore[assignment]

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
