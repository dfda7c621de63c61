"""`dreamfusion view`: the run's page in a browser, which follows the run while it trains."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.commands.finished import find_run
from dreamfusion.commands.page import page_data
from dreamfusion.errors import ConfigError, DreamfusionError, OutputError
from dreamfusion.interrupts import taken
from dreamfusion.progress import notice, result
from dreamfusion.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dreamfusion.assets.page import MeshOnPage

# Coarse enough to cost a training run one second for each of its checkpoints.
RESOLUTION = 64


def view(reference: str | None, runs: Path, host: str, port: int) -> None:
    """Serve the run's page until Ctrl-C.

    Args:
        host: address to listen at; the default of the command line is this machine alone.
        port: 0 takes any free one.

    Raises:
        RunNotFoundError: no such run.
        ConfigError: the port is out of range.
        OutputError: the address is in use, or not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ConfigError("--port", expected="0 to 65535", got=str(port))
    server = make_server(find_run(reference, runs), host, port)
    shown = f"http://{host if ':' not in host else f'[{host}]'}:{server.server_address[1]}/"
    result(f"{shown}  Ctrl-C ends it", event="serving", url=shown, run=server.source.run.path)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        taken()
        notice("")
    finally:
        server.server_close()


class PageServer(ThreadingHTTPServer):
    """The page, its data, its previews and its mesh; nothing else of the disk."""

    daemon_threads = True

    def __init__(self, source: MeshSource, host: str, port: int) -> None:
        self.source = source
        super().__init__((host, port), _Handler)


def make_server(run: RunDirectory, host: str, port: int) -> PageServer:
    """A server that listens already; OutputError if it cannot."""
    try:
        return PageServer(MeshSource(run), host, port)
    except OSError as error:
        raise OutputError(
            f"cannot listen at {host}:{port}", got=error.strerror or str(error), hint="choose another --port"
        ) from error


class MeshSource:
    """A coarse mesh of the run's newest checkpoint, made again in a thread when there is a newer one."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._asked: str | None = None
        self._made: tuple[MeshOnPage, bytes] | None = None
        self._thread: threading.Thread | None = None

    def newest(self) -> tuple[MeshOnPage, bytes] | None:
        """What is there now; a newer one may be on its way."""
        try:
            version = self.run.latest_checkpoint().name
        except DreamfusionError:
            return self._made
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and version != self._asked:
                self._asked = version
                self._thread = threading.Thread(target=self._make, args=(version,), daemon=True)
                self._thread.start()
        return self._made

    def wait(self) -> None:
        """Until the mesh that is being made is there."""
        if self._thread is not None:
            self._thread.join()

    def _make(self, version: str) -> None:
        from dreamfusion.assets.formats import glb_bytes
        from dreamfusion.assets.mesh import extract_mesh
        from dreamfusion.assets.page import MeshOnPage
        from dreamfusion.commands.finished import load_view

        try:
            renderer, _ = load_view(self.run, "cpu")
            scene = renderer.scene
            mesh, info = extract_mesh(scene.field, scene.radius, resolution=RESOLUTION, renderer=renderer)
        except DreamfusionError as error:
            # A young scene may have no surface yet; the page shows the rest meanwhile.
            notice(f"no mesh of checkpoint {version}: {error}")
            return
        self._made = MeshOnPage(info.faces, version, src="mesh.glb"), glb_bytes(mesh)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        source = self.server.source
        if path == "/":
            from dreamfusion.assets.page import page_html

            self._answer(page_html(self._data()).encode(), "text/html; charset=utf-8")
        elif path == "/data.json":
            self._answer(json.dumps(self._data()).encode(), "application/json")
        elif path == "/mesh.glb" and (made := source.newest()) is not None:
            self._answer(made[1], "model/gltf-binary")
        elif path.startswith("/previews/") and (png := self._preview(path.removeprefix("/previews/"))):
            self._answer(png, "image/png")
        else:
            self.send_error(404)

    def _data(self) -> dict[str, Any]:
        made = self.server.source.newest()
        return page_data(self.server.source.run, made[0] if made else None, live=True)

    def _preview(self, name: str) -> bytes | None:
        # The name is compared with those that are there, never joined to a path: nothing else can be asked for.
        found = {p.name: p for p in self.server.source.run.previews.glob("*.png")}
        return found[name].read_bytes() if name in found else None

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nothing that anyone waits for."""
