from __future__ import annotations

import http.client
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.pictures.serve import HOST, serve
from tests.overview.test_runs import a_run


def ask(port: int, path: str = "/", host: str = "localhost") -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_is_made_anew_and_only_for_this_machine(tmp_path: Path) -> None:
    run = a_run(tmp_path / "лауф", [1.0])  # a name no status line can say
    found: list[object] = []

    def look(server: ThreadingHTTPServer) -> None:
        def client() -> None:
            port = server.server_address[1]
            found.append(server.server_address[0])
            found.append(ask(port))
            a_run(tmp_path / "other", [1.0, 2.0])
            (tmp_path / "other" / "metrics.jsonl").replace(run / "metrics.jsonl")
            found.append(ask(port))
            found.extend((ask(port, "/config.json")[0], ask(port, host="evil.example")[0]))
            (run / "metrics.jsonl").unlink()
            found.append(ask(port)[0])
            server.shutdown()

        threading.Thread(target=client).start()

    assert serve(run, 0, look) == 0
    where, first, second, *codes = found
    assert where == "127.0.0.1"
    assert first[0] == second[0] == 200
    assert 'http-equiv="refresh" content="10"' in first[1]
    assert "<b>stopped, 1 of 4</b>" in first[1]
    assert "<b>stopped, 2 of 4</b>" in second[1]
    assert codes == [404, 403, 503]


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path), "--serve"]) == 78
    assert capsys.readouterr().err.count("\n") == 1
