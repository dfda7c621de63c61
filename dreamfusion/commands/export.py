"""`dreamfusion export`: the surface of a run's object as a mesh file."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.commands.finished import find_run, load_view, output_path
from dreamfusion.errors import ConfigError
from dreamfusion.progress import Bar, result

RESOLUTIONS = (8, 512)


def export_mesh(
    reference: str | None,
    runs: Path,
    format: str | None,
    resolution: int,
    threshold: float | None,
    output: Path | None,
    device: str,
) -> None:
    """Write the mesh and say where, how large and at which density.

    Args:
        threshold: density of the surface in 1/length, > 0; None chooses it by the renders' silhouettes.

    Raises:
        DreamfusionError: every kind that concerns a finished run; NoSurfaceError tells the field's range.
    """
    _check(resolution, threshold)
    run = find_run(reference, runs)
    path = output_path(output, run, "mesh", format, default="glb")
    chosen = _format(path, format)
    renderer, meta = load_view(run, device)
    from dreamfusion.assets.formats import write_mesh
    from dreamfusion.assets.mesh import extract_mesh

    with Bar("sampling the density", unit="block") as bar:
        mesh, info = extract_mesh(
            renderer.scene.field,
            renderer.scene.radius,
            resolution=resolution,
            threshold="auto" if threshold is None else threshold,
            renderer=renderer,
            progress=bar,
        )
    path = write_mesh(mesh, path, chosen)
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
        threshold=info.threshold,
        silhouette_iou=info.silhouette_iou,
        density_range=info.density_range,
        floaters_removed=info.floaters,
    )


def _check(resolution: int, threshold: float | None) -> None:
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ConfigError("--resolution", expected=f"{low} to {high} cells", got=str(resolution))
    if threshold is not None and not 0 < threshold < float("inf"):
        raise ConfigError("--threshold", expected="a density above 0, or auto", got=str(threshold))


def _format(path: Path, format: str | None) -> str:
    from dreamfusion.assets.files import choose_format

    return choose_format(path, format, ("glb", "obj", "ply", "stl"))
