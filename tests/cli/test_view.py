"""The server of `dreamfusion view`, asked over a real socket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamfusion.assets.page import page_html
from dreamfusion.commands.page import page_data, previews_of
from dreamfusion.commands.view import MAX_CLIENTS, PageServer, make_server
from dreamfusion.errors import OutputError
from dreamfusion.runs.directory import RunDirectory


@pytest.fixture
def server(run_with_checkpoint: RunDirectory) -> Iterator[PageServer]:
    (run_with_checkpoint.previews / "000002.png").write_bytes(b"\x89PNG a picture")
    made = make_server(run_with_checkpoint, "127.0.0.1", 0)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()
    made.source.wait()


def get(server: PageServer, path: str) -> bytes:
    # Proxies of the environment have no business with loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{server.server_address[1]}{path}", timeout=30) as answer:
        return answer.read()


def test_the_pages_data_are_the_runs(run_with_checkpoint: RunDirectory) -> None:
    (run_with_checkpoint.previews / "000003.png").write_bytes(b"\x89PNG a picture")
    run_with_checkpoint.metrics_path.write_text(
        "".join(json.dumps({"step": step, "loss": step / 4}) + "\n" for step in (1, 2, 3))
    )
    info, config = run_with_checkpoint.info(), run_with_checkpoint.config()
    data = page_data(run_with_checkpoint, None, live=False)
    assert data == {
        "prompt": "a red duck",
        "run": run_with_checkpoint.path.name,
        "step": info.step,
        "steps": config.training.steps,
        "status": info.status,
        "settings": run_with_checkpoint.config_path.read_text(),
        "curves": [{"name": "loss", "steps": [1, 2, 3], "values": [0.25, 0.5, 0.75]}],
        "previews": [{"step": 3, "src": "data:image/png;base64," + base64.b64encode(b"\x89PNG a picture").decode()}],
        "mesh": None,
        "live": False,
    }  # fmt: skip
    live = page_data(run_with_checkpoint, None, live=True)
    assert live == data | {"live": True, "previews": [{"step": 3, "src": "previews/000003.png"}]}


def test_the_page_its_data_and_its_mesh_are_served(server: PageServer) -> None:
    assert b"a red duck" in get(server, "/")
    server.source.wait()
    data = json.loads(get(server, "/data.json"))
    assert data["live"] is True and data["prompt"] == "a red duck"
    assert data["previews"] == [{"step": 2, "src": "previews/000002.png"}]
    assert data["mesh"]["src"] == "mesh.glb" and data["mesh"]["faces"] > 50
    assert get(server, "/mesh.glb")[:4] == b"glTF"
    assert get(server, "/previews/000002.png").startswith(b"\x89PNG")


def test_previews_come_in_the_order_of_their_steps(fresh_run: RunDirectory) -> None:
    steps = [2, 100, 999_900, 1_000_000, 10_000_000]  # names grow from six digits on
    for step in steps:
        (fresh_run.previews / f"{step:06d}.png").write_bytes(b"\x89PNG")
    assert [step for step, _ in previews_of(fresh_run)] == steps


def test_a_newer_checkpoint_brings_a_newer_mesh(server: PageServer) -> None:
    get(server, "/data.json")
    server.source.wait()
    first = json.loads(get(server, "/data.json"))["mesh"]["version"]
    run = server.source.run
    shutil.copytree(run.latest_checkpoint(), run.checkpoints / "000004")
    get(server, "/data.json")
    server.source.wait()
    assert json.loads(get(server, "/data.json"))["mesh"]["version"] == "000004" != first


@pytest.mark.parametrize(
    "path", ["/config.yaml", "/previews/../config.yaml", "/previews/%2e%2e/config.yaml", "/previews/", "/x"]
)
def test_nothing_else_of_the_disk_is_served(server: PageServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as told:
        get(server, path)
    assert told.value.code == 404
    told.value.close()


def test_an_address_in_use_is_one_line(run_with_checkpoint: RunDirectory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="--port"):
            make_server(run_with_checkpoint, "127.0.0.1", taken.getsockname()[1])


def test_export_writes_a_page_beside_the_mesh(dreamfusion, run_with_checkpoint: RunDirectory) -> None:
    answer = dreamfusion("export", "--resolution", "16", "--texture", "vertex", "--page")
    assert answer.code == 0, answer.err
    mesh, page = answer.events
    assert page["event"] == "page" and page["path"].endswith("mesh.html")
    held = Path(page["path"]).read_text(encoding="utf-8")
    assert "a red duck" in held and '"live":false' in held and mesh["faces"] > 50


# ------------------------------------------------------------------------------------- strangers on the network


def ask(server: PageServer, request: bytes, timeout: float = 10.0) -> bytes:
    """All bytes of the answer to a raw request."""
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout) as client:
        client.sendall(request)
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
        return answer


def asked_as(server: PageServer, host: str, method: str = "GET", path: str = "/data.json") -> bytes:
    port = server.server_address[1]
    return ask(server, f"{method} {path} HTTP/1.1\r\nHost: {host.format(port=port)}\r\n\r\n".encode())


def test_requests_that_name_this_machine_are_answered(server: PageServer) -> None:
    for host in (
        "127.0.0.1:{port}",
        "localhost:{port}",
        "LOCALHOST:{port}",
        "localhost.:{port}",
        "[::1]:{port}",
    ):
        assert asked_as(server, host).startswith(b"HTTP/1.0 200"), host


OTHERS = (
    "evil.example:{port}", "evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:{port}",
    "192.168.0.1:{port}", "", ":{port}", "[::1]", "localhost:{port}x", "localhost:٣", "localhost:" + "9" * 5000,
)  # fmt: skip


def test_requests_that_name_another_site_are_not(server: PageServer) -> None:
    for host in OTHERS:
        answer = asked_as(server, host)
        assert answer.startswith(b"HTTP/1.0 421") and b"red duck" not in answer, host


def test_a_request_without_a_host_is_not_answered(server: PageServer) -> None:
    assert ask(server, b"GET /data.json HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 421")


def test_on_every_interface_addresses_are_names_and_others_are_not(run_with_checkpoint: RunDirectory) -> None:
    with make_server(run_with_checkpoint, "0", 0) as made:
        port = made.server_address[1]
        assert made.answers_any_name
        assert made.is_named(f"192.168.0.1:{port}") and made.is_named(f"{socket.gethostname()}:{port}")
        assert not made.is_named(f"evil.example:{port}")


@pytest.mark.parametrize("host", ["", " ", "\t"])
def test_an_empty_host_is_refused(dreamfusion, run_with_checkpoint: RunDirectory, host: str) -> None:
    answer = dreamfusion("view", "1", "--host", host, "--port", "0")
    assert answer.code == 11 and "--host: expected a" in answer.err


@pytest.mark.parametrize("host", ["a b", "x" * 300, "\udcff", "é" * 80, "256.1.1.1"])
def test_a_host_that_is_none_is_one_line(dreamfusion, run_with_checkpoint: RunDirectory, host: str) -> None:
    answer = dreamfusion("view", "1", "--host", host, "--port", "0")
    assert answer.code == 18 and len(answer.err) < 500


def test_head_is_get_without_the_content(server: PageServer) -> None:
    server.source.newest()
    server.source.wait()

    def lines(header: bytes) -> list[bytes]:
        return [line for line in header.splitlines() if not line.startswith((b"Date", b"Content-Length"))]

    for path in ("/", "/data.json", "/previews/000002.png", "/nothing"):
        whole = asked_as(server, "localhost:{port}", "GET", path).partition(b"\r\n\r\n")
        head = asked_as(server, "localhost:{port}", "HEAD", path).partition(b"\r\n\r\n")
        assert head[2] == b"" and whole[2] != b"", path
        assert lines(head[0]) == lines(whole[0])


def test_other_methods_are_not_allowed(server: PageServer) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        answer = asked_as(server, "localhost:{port}", method)
        assert answer.startswith(b"HTTP/1.0 405") and b"Allow: GET, HEAD" in answer, method


def test_clients_that_leave_print_nothing(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    import struct

    for request in (b"", b"GE", b"GET / HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % server.server_address[1]):
        client = socket.create_connection(("127.0.0.1", server.server_address[1]))
        client.sendall(request)
        # A reset: what the server still writes fails.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    server.source.wait()
    assert asked_as(server, "localhost:{port}").startswith(b"HTTP/1.0 200")
    assert capfd.readouterr() == ("", "")


def test_a_request_sent_letter_by_letter_is_cut_off(
    run_with_checkpoint: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamfusion.commands.view.REQUEST_TIMEOUT_S", 0.5)
    with make_server(run_with_checkpoint, "127.0.0.1", 0) as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        with socket.create_connection(("127.0.0.1", made.server_address[1]), 10) as client:
            began, ended = time.monotonic(), False
            while not ended and time.monotonic() - began < 5:
                try:
                    client.sendall(b"G")
                    client.settimeout(0.1)
                    ended = client.recv(1000) == b""
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
            assert ended and 0.3 < time.monotonic() - began < 4
        made.shutdown()


def test_too_many_clients_are_turned_away_and_later_ones_served(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [
        socket.create_connection(("127.0.0.1", server.server_address[1]), 10) for _ in range(MAX_CLIENTS)
    ]
    until = time.monotonic() + 5
    while (answer := asked_or_refused(server)) and time.monotonic() < until:
        time.sleep(0.05)
    assert answer == b""
    for client in waiting:
        client.close()
    while not asked_or_refused(server) and time.monotonic() < until + 5:
        time.sleep(0.05)
    assert asked_or_refused(server).startswith(b"HTTP/1.0 404")


def asked_or_refused(server: PageServer) -> bytes:
    try:
        return asked_as(server, "localhost:{port}", "HEAD", "/nothing")
    except ConnectionError:
        return b""


def test_nothing_that_a_link_leads_to_is_served_or_put_into_a_page(
    server: PageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = server.source.run
    (tmp_path / "secret").write_bytes(b"\x89PNG my secret")
    (run.previews / "000004.png").symlink_to(tmp_path / "secret")
    os.mkfifo(run.previews / "000006.png")
    (run.previews / "000008.png").write_bytes(b"my secret, copied")
    for name in ("000004", "000006", "000008"):
        assert asked_as(server, "localhost:{port}", "GET", f"/previews/{name}.png").startswith(
            b"HTTP/1.0 404"
        )
    page = page_html(page_data(run, None, live=False))
    assert base64.b64encode(b"my secret")[:-3].decode() not in page
    assert page.count("data:image/png;base64,") == 1
    assert "left out of the page" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["config.yaml", "metrics.jsonl", "previews", "checkpoints"])
def test_a_run_with_a_part_that_leads_elsewhere_shows_nothing_of_it(
    server: PageServer, tmp_path: Path, part: str
) -> None:
    run = server.source.run
    server.source.newest()
    server.source.wait()
    (run.path / part).rename(tmp_path / "moved") if (run.path / part).exists() else (
        tmp_path / "moved"
    ).touch()
    (run.path / part).symlink_to(tmp_path / "moved")
    data = asked_as(server, "localhost:{port}")
    if part == "config.yaml":
        assert data.startswith(b"HTTP/1.0 503") and b"leads out of" in data
    else:
        content = json.loads(data.partition(b"\r\n\r\n")[2])
        assert content["curves"] == [] and (content["previews"] == []) == (part == "previews")
