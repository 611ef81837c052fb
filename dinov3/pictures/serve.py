"""``dinov3 report RUN --serve``: the page on loopback only, made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dinov3.pictures.run_page import report
from dinov3.system.errors import EXIT_DONE, Foreseeable
from dinov3.system.files import as_bytes

HOST = "127.0.0.1"
NAMES = {HOST, "localhost"}
REFRESH = 10  # seconds


def serve(run: Path, port: int, ready: Callable[[ThreadingHTTPServer], None] = lambda server: None) -> int:
    """Until Ctrl-C. Raises FeatureError for a folder that is no run, OSError when the port is taken.

    ``ready`` is called with the server before its first answer.
    """
    report(run)
    with ThreadingHTTPServer((HOST, port), partial(_Handler, run)) as server:
        print(f"http://{HOST}:{server.server_address[1]}/ shows {run}, anew every {REFRESH} s; Ctrl-C ends", flush=True)
        ready(server)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return EXIT_DONE
    return EXIT_DONE


class _Handler(BaseHTTPRequestHandler):
    """Answers GET / and nothing else."""

    def __init__(self, run: Path, *args: Any) -> None:
        self.run = run
        super().__init__(*args)

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").partition(":")[0]  # port 80 is not said
        if host not in NAMES:  # a name of somebody's page that leads here: it could read what is shown
            self.send_error(403, "only 127.0.0.1 and localhost")
        elif self.path != "/":
            self.send_error(404)
        else:
            self._answer()

    def _answer(self) -> None:
        try:
            page = as_bytes(report(self.run, refresh=REFRESH))
        except (Foreseeable, OSError) as error:
            self.send_error(503, explain=str(error))  # in the page: a status line has no letters beyond Latin-1
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
