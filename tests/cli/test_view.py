"""The server of `dreamfusion view`, asked over a real socket."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamfusion.commands.view import PageServer, make_server
from dreamfusion.errors import OutputError
from dreamfusion.runs.directory import RunDirectory


@pytest.fixture
def server(run_with_checkpoint: RunDirectory) -> Iterator[PageServer]:
    (run_with_checkpoint.previews / "000002.png").write_bytes(b"\x89PNG a picture")
    made = make_server(run_with_checkpoint, "127.0.0.1", 0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
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


def test_the_page_its_data_and_its_mesh_are_served(server: PageServer) -> None:
    assert b"a red duck" in get(server, "/")
    server.source.wait()
    data = json.loads(get(server, "/data.json"))
    assert data["live"] is True and data["prompt"] == "a red duck"
    assert data["previews"] == [{"step": 2, "src": "previews/000002.png"}]
    assert data["mesh"]["src"] == "mesh.glb" and data["mesh"]["faces"] > 50
    assert get(server, "/mesh.glb")[:4] == b"glTF"
    assert get(server, "/previews/000002.png").startswith(b"\x89PNG")


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
