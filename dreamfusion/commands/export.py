"""`dreamfusion export`: the surface of a run's object as a mesh file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.commands.finished import check_folder, find_run, load_view, output_path
from dreamfusion.config import LARGEST, LARGEST_COUNT
from dreamfusion.errors import ConfigError, OutOfMemoryError, OutputError
from dreamfusion.progress import Bar, busy, notice, result
from dreamfusion.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dreamfusion.assets.mesh import MeshInfo
    from dreamfusion.assets.texture import Texture
    from dreamfusion.rendering.renderer import Renderer

RESOLUTIONS = (8, 512)
TEXTURE_SIZES = (64, 8192)
TEXTURE_SIZE = 1024
UNWRAP_LIMIT_S = 30.0
DEFAULT_FACES = 40_000
MAX_HEIGHT_CM = 10_000_000
FORMATS = ("glb", "obj", "ply", "stl", "3mf", "usdz")
TEXTURED = ("glb", "obj", "usdz")
NORMAL_MAPPED = ("glb", "obj")


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for; see `dreamfusion export --help`.

    Attributes:
        threshold: density of the surface in 1/length; None chooses it by the renders' silhouettes.
        faces: at most about so many; 0 keeps all, None is `DEFAULT_FACES` where decimation is possible.
        height_cm: of the object in the file; None leaves world units.
        texture: `atlas` or `vertex`; None is an atlas where the format holds pictures.
        unwrap_limit_s: for xatlas; 0 takes the project's own atlas.
        normal_map: bake what decimation takes away into a second picture.
        check: compare the file with the NeRF.
        page: write a page with the object in it beside the file.
    """

    reference: str | None
    runs: Path
    format: str | None
    resolution: int
    threshold: float | None
    faces: int | None
    smooth: int
    close_holes: int
    solid: bool
    height_cm: float | None
    texture: str | None
    texture_size: int | None
    unwrap_limit_s: float | None
    normal_map: bool
    unlit: bool
    check: bool
    page: bool
    output: Path | None

    @property
    def texels(self) -> int:
        """Side of the texture."""
        return TEXTURE_SIZE if self.texture_size is None else self.texture_size

    @property
    def unwrap_s(self) -> float:
        """How long xatlas may take."""
        return UNWRAP_LIMIT_S if self.unwrap_limit_s is None else self.unwrap_limit_s


def export_mesh(request: ExportRequest, device: str) -> None:
    """Write the mesh and say where, how large and at which density.

    Raises:
        DreamfusionError: every kind that concerns a finished run; NoSurfaceError tells the field's range.
    """
    _check(request)
    run = find_run(request.reference, request.runs)
    path = output_path(request.output, run, "mesh", request.format, default="glb")
    chosen = _format(path, request.format)
    textured = _check_for_format(request, chosen)
    renderer, meta = load_view(run, device)
    from dreamfusion.assets.formats import write_mesh

    with _memory("--resolution" if not textured else "--resolution or --texture-size"):
        mesh, info = _extract(request, renderer)
        written, texture = _textured(request, renderer, mesh, info) if textured else (mesh, None)
    check_folder(path)
    path = write_mesh(written, path, chosen, request.height_cm, texture=texture, unlit=request.unlit)
    size = path.stat().st_size
    mapped = texture is not None and texture.normals is not None
    pictures = "texture and normal map" if mapped else "texture"
    painted = f"{request.texels} px {pictures}, " if texture is not None else ""
    result(
        f"{path}  {info.faces:,} faces, {painted}{size / 2**20:.1f} MiB, density threshold {info.threshold:.3g}",
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
        texture=None if texture is None else texture.method,
        normal_map=mapped,
    )
    if request.page:
        _write_page(run, path, info.faces)
    if request.check:
        low, high = mesh.bounds[:, 1].tolist()
        _tell_agreement(path, renderer, run, (low, high))


def _textured(request: ExportRequest, renderer: Renderer, mesh: Any, info: MeshInfo) -> tuple[Any, Texture]:
    """The mesh split at the seams of an atlas, and the picture for it, or both pictures."""
    from dreamfusion.assets.atlas import box_atlas, unwrap
    from dreamfusion.assets.texture import bake, split_at_seams

    size = request.texels
    with busy("unwrapping"):
        if request.unwrap_s > 0:
            atlas = unwrap(mesh, size, request.unwrap_s)
        else:
            atlas = box_atlas(mesh, size)
    split = split_at_seams(mesh, atlas)
    with Bar("baking the texture", unit="texel") as bar:
        texture = bake(renderer.scene.field, split, atlas, size, renderer.scene.radius, bar)
    if not request.normal_map:
        return split, texture
    if info.dense is None:
        notice(
            f"no normal map: all {info.faces:,} faces are kept, so it would be flat; "
            "fewer --faces or a larger --resolution give it something to show"
        )
        return split, texture
    from dreamfusion.assets.normals import bake_normals

    with Bar("baking the normal map", unit="texel") as bar:
        return split, replace(texture, normals=bake_normals(split, atlas, info.dense, size, bar))


def _write_page(run: RunDirectory, mesh: Path, faces: int) -> None:
    """A page that shows the mesh, beside it under its name."""
    from dreamfusion.assets.page import MeshOnPage, write_page
    from dreamfusion.commands.page import page_data

    held = MeshOnPage(faces, "exported", glb=mesh.read_bytes())
    check_folder(mesh)
    path = write_page(page_data(run, held, live=False), mesh.with_suffix(".html"))
    size = path.stat().st_size
    result(f"{path}  {size / 2**20:.1f} MiB, open it in a browser", event="page", path=path, bytes=size)


def _tell_agreement(path: Path, renderer: Renderer, run: RunDirectory, world_y: tuple[float, float]) -> None:
    """How much the file looks like the NeRF, drawn by other code from eight views."""
    from dreamfusion.assets.check import (
        MIN_IOU,
        MIN_PSNR_DB,
        MIN_WORST_IOU,
        MIN_WORST_PSNR_DB,
        check_cameras,
        compare,
    )

    cameras = run.config().cameras
    views = check_cameras(cameras.distance[1], sum(cameras.fovy_deg) / 2)
    with Bar("checking the file", unit="view") as bar:
        found, _ = compare(path, renderer, views, world_y, bar)
    told = {name: _mean_and_lowest(getattr(found, name)) for name in ("psnr_db", "object_psnr_db", "iou")}
    painted = "no colours"
    if found.psnr_db:
        whole, own = told["psnr_db"][0], told["object_psnr_db"][0]
        painted = f"PSNR {whole:.1f} dB, of the object's own pixels {own:.1f} dB"
    result(
        f"{'like' if found.good else 'NOT like'} the NeRF from {len(views)} views: {painted}, "
        f"silhouettes' IoU {told['iou'][0]:.3f}, in the worst view {told['iou'][1]:.3f}",
        event="check",
        path=path,
        views=len(views),
        good=found.good,
        **{name: mean for name, (mean, _) in told.items()},
        **{f"lowest_{name}": lowest for name, (_, lowest) in told.items()},
    )
    if not found.good:
        notice(
            f"the file does not look like the NeRF: expected {MIN_PSNR_DB:g} dB and an IoU of {MIN_IOU:g} on average, "
            f"{MIN_WORST_PSNR_DB:g} dB and {MIN_WORST_IOU:g} in the worst view; "
            "a scene that is still a haze has no surface that could"
        )


def _mean_and_lowest(values: tuple[float, ...]) -> tuple[float | None, float | None]:
    return (round(sum(values) / len(values), 4), round(min(values), 4)) if values else (None, None)


def _extract(request: ExportRequest, renderer: Renderer) -> tuple[Any, MeshInfo]:
    from dreamfusion.assets.cleaning import TOLERANCE, can_decimate
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
            solid=request.solid,
            smooth=request.smooth,
            faces=faces or None,
            progress=bar,
        )
    if request.faces is None and not can_decimate() and info.faces > DEFAULT_FACES:
        notice(f"all {info.faces:,} faces are kept: fewer need pip install 'dreamfusion[assets]'")
    if faces and info.faces > TOLERANCE * faces:
        notice(f"{info.faces:,} faces are left, not {faces:,}: decimation found no more edges to collapse")
    if not info.watertight:
        notice("decimation left the mesh not quite closed; --faces with a larger number helps")
    return mesh, info


@contextmanager
def _memory(option: str) -> Iterator[None]:
    """Running out of memory, on the host or on a GPU, as one line that says which option to lower."""
    from dreamfusion.training.memory import is_out_of_memory

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
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
            request.threshold is None or 0 < request.threshold <= LARGEST,
            "a density above 0, or auto",
            request.threshold,
        ),
        (
            "--faces",
            request.faces in (None, 0) or 100 <= request.faces <= LARGEST_COUNT,
            "0, or 100 or more",
            request.faces,
        ),
        ("--smooth", 0 <= request.smooth <= 100, "0 to 100", request.smooth),
        ("--close-holes", 0 <= request.close_holes <= 32, "0 to 32 cells", request.close_holes),
        (
            "--texture-size",
            TEXTURE_SIZES[0] <= request.texels <= TEXTURE_SIZES[1],
            f"{TEXTURE_SIZES[0]} to {TEXTURE_SIZES[1]} texels",
            request.texture_size,
        ),
        ("--unwrap-limit", 0 <= request.unwrap_s <= 86400, "0 to 86400 s", request.unwrap_limit_s),
        (
            "--height-cm",
            request.height_cm is None or 0 < request.height_cm <= MAX_HEIGHT_CM,
            f"above 0 and up to {MAX_HEIGHT_CM:,}",
            request.height_cm,
        ),
    ]
    for option, good, expected, got in checks:
        if not good:
            raise ConfigError(option, expected=expected, got=str(got))


def _check_for_format(request: ExportRequest, format: str) -> bool:
    """Whether there is to be a texture; before the work, what the format cannot hold is told."""
    if request.texture == "atlas" and format not in TEXTURED:
        raise ConfigError("--texture atlas", expected="one of " + ", ".join(TEXTURED), got=format)
    if request.unlit and format != "glb":
        raise ConfigError("--unlit", expected="glb", got=format)
    if request.normal_map:
        if format not in NORMAL_MAPPED:
            raise ConfigError("--normal-map", expected="one of " + ", ".join(NORMAL_MAPPED), got=format)
        if request.texture == "vertex" or request.unlit:
            got = "--texture vertex" if request.texture == "vertex" else "--unlit"
            raise ConfigError("--normal-map", expected="a texture in the light", got=got)
    if request.page and format != "glb":
        raise ConfigError("--page shows", expected="glb", got=format)
    textured = format in TEXTURED and request.texture != "vertex"
    if not textured:
        for option, value in (
            ("--texture-size", request.texture_size),
            ("--unwrap-limit", request.unwrap_limit_s),
        ):
            if value is not None:
                got = format if format not in TEXTURED else "--texture vertex"
                raise ConfigError(
                    option, expected="a texture, which " + ", ".join(TEXTURED) + " hold", got=got
                )
    if format == "usdz":
        from dreamfusion.assets.usdz import check_usd

        check_usd()
    return textured


def _format(path: Path, format: str | None) -> str:
    from dreamfusion.assets.files import choose_format

    chosen = choose_format(path, format, FORMATS)
    # --check reads by the ending, and an OBJ's picture or a page lie beside the file under their own.
    if path.suffix.lower() != f".{chosen}":
        raise OutputError(
            f"--format {chosen} and the name {path.name!r} do not go together",
            expected=f"the ending .{chosen}",
        )
    return chosen
