"""`dreamfusion export`: the surface of a run's object as a mesh file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.commands.finished import find_run, load_view, output_path
from dreamfusion.errors import ConfigError, OutOfMemoryError
from dreamfusion.progress import Bar, notice, result

if TYPE_CHECKING:
    from dreamfusion.assets.mesh import MeshInfo
    from dreamfusion.rendering.renderer import Renderer

RESOLUTIONS = (8, 512)
DEFAULT_FACES = 40_000
FORMATS = ("glb", "obj", "ply", "stl")


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for; see `dreamfusion export --help`.

    Attributes:
        threshold: density of the surface in 1/length; None chooses it by the renders' silhouettes.
        faces: at most about so many; 0 keeps all, None is `DEFAULT_FACES` where decimation is possible.
        height_cm: of the object in the file; None leaves world units.
    """

    reference: str | None
    runs: Path
    format: str | None
    resolution: int
    threshold: float | None
    faces: int | None
    smooth: int
    close_holes: int
    height_cm: float | None
    output: Path | None


def export_mesh(request: ExportRequest, device: str) -> None:
    """Write the mesh and say where, how large and at which density.

    Raises:
        DreamfusionError: every kind that concerns a finished run; NoSurfaceError tells the field's range.
    """
    _check(request)
    run = find_run(request.reference, request.runs)
    path = output_path(request.output, run, "mesh", request.format, default="glb")
    chosen = _format(path, request.format)
    renderer, meta = load_view(run, device)
    from dreamfusion.assets.formats import write_mesh

    with _memory("--resolution"):
        mesh, info = _extract(request, renderer)
    path = write_mesh(mesh, path, chosen, request.height_cm)
    size = path.stat().st_size
    result(
        f"{path}  {info.faces:,} faces, {size / 2**20:.1f} MiB, density threshold {info.threshold:.3g}",
        event="mesh",
        path=path,
        run=run.path,
        step=meta["step"],
        format=chosen,
        bytes=size,
        vertices=info.vertices,
        faces=info.faces,
        marched_faces=info.marched_faces,
        watertight=info.watertight,
        threshold=info.threshold,
        silhouette_iou=info.silhouette_iou,
        density_range=info.density_range,
        floaters_removed=info.floaters,
    )


def _extract(request: ExportRequest, renderer: Renderer) -> tuple[Any, MeshInfo]:
    from dreamfusion.assets.cleaning import can_decimate
    from dreamfusion.assets.mesh import extract_mesh

    faces = request.faces
    if faces is None:
        faces = DEFAULT_FACES if can_decimate() else 0
    with Bar("extracting the surface", unit="part") as bar:
        mesh, info = extract_mesh(
            renderer.scene.field,
            renderer.scene.radius,
            resolution=request.resolution,
            threshold="auto" if request.threshold is None else request.threshold,
            renderer=renderer,
            close_holes=request.close_holes,
            smooth=request.smooth,
            faces=faces or None,
            progress=bar,
        )
    if request.faces is None and not can_decimate() and info.faces > DEFAULT_FACES:
        notice(f"all {info.faces:,} faces are kept: fewer need pip install 'dreamfusion[assets]'")
    if not info.watertight:
        notice("decimation left the mesh not quite closed; --faces with a larger number helps")
    return mesh, info


@contextmanager
def _memory(option: str) -> Iterator[None]:
    """Running out of memory, on the host or on a GPU, as one line that says which option to lower."""
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemoryError(
            "there is not enough memory for this export", hint=f"lower {option}"
        ) from error
    except RuntimeError as error:
        # torch's allocator for the CPU has no error class of its own.
        if "not enough memory" not in str(error):
            raise
        raise OutOfMemoryError(
            "there is not enough memory for this export", hint=f"lower {option}"
        ) from error


def _check(request: ExportRequest) -> None:
    low, high = RESOLUTIONS
    checks = [
        ("--resolution", low <= request.resolution <= high, f"{low} to {high} cells", request.resolution),
        (
            "--threshold",
            request.threshold is None or 0 < request.threshold < float("inf"),
            "a density above 0, or auto",
            request.threshold,
        ),
        ("--faces", request.faces in (None, 0) or request.faces >= 100, "0, or 100 or more", request.faces),
        ("--smooth", 0 <= request.smooth <= 100, "0 to 100", request.smooth),
        ("--close-holes", 0 <= request.close_holes <= 32, "0 to 32 cells", request.close_holes),
        (
            "--height-cm",
            request.height_cm is None or 0 < request.height_cm < float("inf"),
            "a number above 0",
            request.height_cm,
        ),
    ]
    for option, good, expected, got in checks:
        if not good:
            raise ConfigError(option, expected=expected, got=str(got))


def _format(path: Path, format: str | None) -> str:
    from dreamfusion.assets.files import choose_format

    return choose_format(path, format, FORMATS)
