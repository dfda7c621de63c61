"""`dreamfusion view`: the run's page in a browser, which follows the run while it trains."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.commands.finished import find_run
from dreamfusion.commands.page import page_data, previews_of, read_preview
from dreamfusion.errors import (
    ConfigError,
    DreamfusionError,
    OutputError,
    RunNotFoundError,
    of_the_machine,
    printable,
    shown,
)
from dreamfusion.interrupts import taken
from dreamfusion.progress import notice, result
from dreamfusion.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dreamfusion.assets.page import MeshOnPage

# Coarse enough to cost a training run one second for each of its checkpoints.
RESOLUTION = 64
# A browser opens six connections to a host.
MAX_CLIENTS = 32
# A client that sends its request letter by letter holds a connection no longer than this.
REQUEST_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::")


def view(reference: str | None, runs: Path, host: str, port: int) -> None:
    """Serve the run's page until Ctrl-C.

    Args:
        host: address to listen at; the default of the command line is this machine alone.
        port: 0 takes any free one.

    Raises:
        RunNotFoundError: no such run.
        ConfigError: the port is out of range, or the host is empty.
        OutputError: the address is in use, or not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ConfigError("--port", expected="0 to 65535", got=str(port))
    server = make_server(find_run(reference, runs), host, port)
    if server.answers_any_name:
        notice(f"--host {host} listens on every interface: whoever reaches this machine can see the run")
    shown_host = host if ":" not in host else f"[{host}]"
    url = f"http://{shown_host}:{server.server_address[1]}/"
    result(f"{url}  Ctrl-C ends it", event="serving", url=url, run=server.source.run.path)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        taken()
        notice("")
    finally:
        server.server_close()


class PageServer(ThreadingHTTPServer):
    """The page, its data, its previews and its mesh; nothing else of the disk.

    Only requests that name this server are answered: a page of another site whose name is made to lead here (DNS rebinding)
    sends that site's name. On every interface the names are not known beforehand, so there any address is one, but a name
    must be this machine's.
    """

    daemon_threads = True
    request_queue_size = MAX_CLIENTS

    def __init__(self, source: MeshSource, host: str, port: int) -> None:
        self.source = source
        machine = socket.gethostname().lower()
        self._names = {host.lower(), *_LOOPBACK_NAMES, machine, f"{machine}.local"}
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        # As the system understood it: "0" is every interface, too.
        self.answers_any_name = self.server_address[0] in _EVERYWHERE

    def is_named(self, header: str | None) -> bool:
        """Whether a request's Host header names this server, with its port."""
        name, port = _host_and_port(header or "")
        if port != self.server_address[1]:
            return False
        return name in self._names or (self.answers_any_name and _is_address(name))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a client's thread, or turn it away where too many are served already."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left, or is too slow, is nothing to tell; a fault of ours is one line and no end of the server."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            notice(f"a request failed: {type(error).__name__}: {shown(str(error), 200)}")


def _host_and_port(header: str) -> tuple[str, int]:
    """The name in small letters without brackets, and the port, HTTP's own if none is named; -1 for no number."""
    name, colon, port = header.strip().lower().rpartition(":")
    if not colon or port.endswith("]"):  # an IPv6 address without a port ends with its bracket
        name, port = header.strip().lower(), "80"
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    return name.removeprefix("[").removesuffix("]").rstrip("."), int(port) if is_number else -1


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def make_server(run: RunDirectory, host: str, port: int) -> PageServer:
    """A server that listens already.

    Raises:
        ConfigError: the host is empty, which would mean every interface.
        OutputError: it cannot listen there.
    """
    if not host.strip():
        raise ConfigError(
            "--host", expected="an address, such as 127.0.0.1; 0.0.0.0 is every interface", got="''"
        )
    try:
        return PageServer(MeshSource(run), host, port)
    except (OSError, UnicodeError, TypeError) as error:  # the last two: no name of a host
        reason = error.strerror if isinstance(error, OSError) else "this is no host's name"
        raise OutputError(
            f"cannot listen at {shown(host)[1:-1]}:{port}",
            got=reason or str(error),
            hint="choose another --port",
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
        except (DreamfusionError, OSError, RuntimeError, MemoryError) as error:
            told = error if isinstance(error, DreamfusionError) else of_the_machine(error)
            if told is None:
                raise
            # A young scene may have no surface yet; the page shows the rest meanwhile.
            notice(f"no mesh of checkpoint {version}: {told}")
            return
        self._made = MeshOnPage(info.faces, version, src="mesh.glb"), glb_bytes(mesh)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = REQUEST_TIMEOUT_S  # of one read; `_deadline` is of all of them
    server_version, sys_version = "dreamfusion", ""

    def setup(self) -> None:
        super().setup()
        self._deadline = threading.Timer(REQUEST_TIMEOUT_S, self._hang_up)
        self._deadline.daemon = True
        self._deadline.start()

    def parse_request(self) -> bool:
        """The base's own, which reads the request to its end."""
        whole = super().parse_request()
        self._deadline.cancel()
        return whole

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if not self.server.is_named(self.headers.get("Host")):
            self.send_error(421, explain="the Host header does not name this server")
            return
        try:
            found = self._found(self.path.partition("?")[0])
        except (DreamfusionError, OSError) as error:  # the run was damaged, deleted or renamed meanwhile
            self.send_error(503, explain=printable(str(error)))
            return
        self.connection.settimeout(ANSWER_TIMEOUT_S)
        if found is None:
            self.send_error(404)
        else:
            self._answer(*found)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refuse(self) -> None:
        self.send_response(405)
        self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _found(self, path: str) -> tuple[bytes, str] | None:
        """Content and type of what is asked for."""
        source = self.server.source
        if path == "/":
            from dreamfusion.assets.page import page_html

            return page_html(self._data()).encode(), "text/html; charset=utf-8"
        if path == "/data.json":
            return json.dumps(self._data()).encode(), "application/json"
        if path == "/mesh.glb" and (made := source.newest()) is not None:
            return made[1], "model/gltf-binary"
        if path.startswith("/previews/"):
            png = self._preview(path.removeprefix("/previews/"))
            return None if png is None else (png, "image/png")
        return None

    def _data(self) -> dict[str, Any]:
        made = self.server.source.newest()
        return page_data(self.server.source.run, made[0] if made else None, live=True)

    def _preview(self, name: str) -> bytes | None:
        # The name is compared with those that are there, never joined to a path: nothing else can be asked for.
        run = self.server.source.run
        found = {path.name: path for _, path in previews_of(run)}
        try:
            return read_preview(run, found[name]) if name in found else None
        except RunNotFoundError:
            return None

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nothing that anyone waits for."""
