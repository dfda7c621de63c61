"""`dreamfusion fit`: a scene from posed pictures, by the loop of `dreamfusion train`, and how it looks from new places."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion import documents
from dreamfusion.commands.finished import check_folder
from dreamfusion.config_files import load_config
from dreamfusion.errors import DatasetError, shown
from dreamfusion.progress import Bar, check_printed, notice, result
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.files import write_atomically, write_json

if TYPE_CHECKING:
    from dreamfusion.posed_images.dataset import PosedDataset
    from dreamfusion.rendering.renderer import Renderer

HELD_OUT = "held_out"
PLACEMENT = "dataset.json"
EVALUATION = "evaluation.json"
# A camera so many times nearer or further than the median says nothing about where to look from.
_UNUSUAL = 2.0


@dataclass(frozen=True)
class FitRequest:
    """What the user asked for; see `dreamfusion fit --help`.

    Attributes:
        dataset: folder, or a transforms.json.
        options: dotted config key to value; None where the option was left out.
        truth: a mesh in the dataset's world, to score the geometry with.
    """

    dataset: Path
    config: str
    overrides: tuple[str, ...]
    options: Mapping[str, Any]
    output: Path
    name: str | None
    truth: Path | None
    dry_run: bool


def fit(request: FitRequest) -> None:
    """Make a new run, fit it, and measure it on the views that were held out.

    Raises:
        DatasetError: the pictures or their cameras cannot be used.
        DreamfusionError: of the kinds that training has.
    """
    options = {**request.options, "data.path": str(request.dataset.expanduser().resolve())}
    config = load_config(request.config, request.overrides, options)
    assert config.data is not None
    if (truth := request.truth or config.data.truth) is not None:
        read_truth(Path(truth).expanduser())
        options["data.truth"] = str(Path(truth).expanduser().resolve())
    from dreamfusion.commands.train import absolute_paths, print_plan, train_run
    from dreamfusion.doctor import choose_device
    from dreamfusion.runs.directory import check_writable, create, discarded_unless_begun

    if not request.dry_run:
        check_writable(request.output)
    device = choose_device(config.device)
    from dreamfusion.posed_images.dataset import read_dataset

    with Bar("reading pictures", unit="picture") as bar:
        dataset = read_dataset(config.data, bar)
    _check_measurable(dataset)
    # What the pictures say comes before what the user says, who has the last word.
    config = absolute_paths(load_config(request.config, (*_found(dataset), *request.overrides), options))
    _tell(dataset)
    if request.dry_run:
        print_plan(config)
        check_printed()
        return
    name = request.name or _folder_name(request.dataset)
    run = create(request.output, config, name)
    with discarded_unless_begun(run):
        train_run(run, config, device, dataset=dataset)


def _folder_name(dataset: Path) -> str:
    # A transforms.json is called so everywhere; its folder says whose it is.
    path = dataset.expanduser().resolve()
    return path.parent.name if path.is_file() else path.name


def _found(dataset: PosedDataset) -> list[str]:
    """What follows from the pictures, as `--set` texts: where previews and videos look from, and the background."""
    cameras = dataset.train.cameras
    # Renders are made from the largest distance: a camera far away, or a close-up, must not set it.
    median = cameras.distance.median()
    usual = (cameras.distance >= median / _UNUSUAL) & (cameras.distance <= median * _UNUSUAL)

    def span(values: Any) -> str:
        return f"[{values[usual].min().item():.4f}, {values[usual].max().item():.4f}]"

    fovy_deg = cameras.fovy_deg.mean().item()
    found = [
        f"cameras.distance={span(cameras.distance)}",
        f"cameras.elevation_deg={span(cameras.elevation_deg)}",
        "cameras.focal_length=null",
        f"cameras.fovy_deg=[{fovy_deg:.4f}, {fovy_deg:.4f}]",
    ]
    # Without an opacity in the pictures nobody knows what is behind the object: it is learnt as well.
    return found if dataset.with_alpha else [*found, "scene.background.kind=environment"]


def _check_measurable(dataset: PosedDataset) -> None:
    """Said now, and not after the training."""
    from dreamfusion.evaluation.image_quality import WINDOW

    height, width = dataset.train.real.shape[1:]
    if dataset.held_out is not None and min(height, width) < WINDOW:
        raise DatasetError(
            "the pictures are too small to be compared by SSIM",
            expected=f"{WINDOW} pixels a side or more",
            got=f"{width} x {height}",
            hint="take larger ones, or a smaller --downscale",
        )


def _tell(dataset: PosedDataset) -> None:
    train, held_out = dataset.train, dataset.held_out
    height, width = train.real.shape[1:]
    radius = 1.0 / float(abs(_determinant(dataset)) ** (1 / 3))
    notice(
        f"{len(train)} pictures of {width} x {height} to learn from, {0 if held_out is None else len(held_out)} held out; "
        f"the scene's ball has radius {radius:.4g} in the data set's units"
    )
    for note in dataset.notes:
        notice(f"warning: {note}")


def _determinant(dataset: PosedDataset) -> float:
    import numpy as np

    return float(np.linalg.det(dataset.from_dataset[:3, :3]))


# ------------------------------------------------------------------------------------------ how good it is


def is_measured(run: RunDirectory) -> bool:
    """Whether `measure_fit` came to its end."""
    return documents.is_regular(run.path / EVALUATION, run.path)


def forget_measurement(run: RunDirectory) -> None:
    """Remove the scores of a run that is trained on: they are no longer its own."""
    (run.path / EVALUATION).unlink(missing_ok=True)


def measure_fit(run: RunDirectory, renderer: Renderer, dataset: PosedDataset, truth: str | None) -> None:
    """Write the held-out renders beside their photographs and the numbers of each, and say the means.

    Args:
        truth: file of a mesh in the dataset's world; None: the geometry is not scored.

    Raises:
        OutputError: the disk refused.
        NoSurfaceError: the geometry is to be scored and there is none.
    """
    write_json(
        run.path / PLACEMENT, {"layout": dataset.layout, "from_dataset": dataset.from_dataset.tolist()}
    )
    found: dict[str, Any] = {}
    if dataset.held_out is not None:
        found = _measure_views(run, renderer, dataset)
    if truth is not None:
        found |= _measure_geometry(renderer, dataset, Path(truth))
    write_json(run.path / EVALUATION, found)
    words = []
    if found.get("psnr") is not None and found.get("ssim") is not None:
        words.append(
            f"{found['views']} held-out views: PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.4f}"
        )
    if "chamfer" in found:
        words.append(
            f"Chamfer distance {found['chamfer']:.4g} of the ball's radius, normal consistency "
            f"{found['normal_consistency']:.4f}"
        )
    if words:
        result("; ".join(words), event="evaluation", run=run.path, **found)


def _measure_views(run: RunDirectory, renderer: Renderer, dataset: PosedDataset) -> dict[str, Any]:
    from dreamfusion.assets.images import contact_sheet, to_uint8, write_image
    from dreamfusion.evaluation.held_out import look_at_held_out, mean

    assert dataset.held_out is not None
    rows: list[tuple[str, float, float]] = []
    with Bar("held-out views", unit="view") as bar:
        for view in look_at_held_out(renderer, dataset.held_out, bar):
            difference = (view.photograph - view.render).abs()
            sheet = contact_sheet(
                _stacked([to_uint8(part) for part in (view.photograph, view.render, difference)])
            )
            check_folder(run.path / HELD_OUT)
            run.make_folder(run.path / HELD_OUT)
            write_image(sheet, run.path / HELD_OUT / f"{len(rows):03d}.png")
            rows.append((view.name, view.psnr, view.ssim))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("picture", "psnr_db", "ssim"))
    writer.writerows((name, f"{psnr:.4f}", f"{ssim:.5f}") for name, psnr, ssim in rows)
    write_atomically(run.path / HELD_OUT / "views.csv", table.getvalue().encode())
    # A mask may leave nothing of a view, and a render may equal its photograph in a test; in JSON neither has a name.
    psnrs = [psnr for _, psnr, _ in rows if math.isfinite(psnr)]
    ssims = [ssim for _, _, ssim in rows if math.isfinite(ssim)]
    return {
        "views": len(rows),
        "psnr": round(mean(psnrs), 4) if psnrs else None,
        "ssim": round(mean(ssims), 5) if ssims else None,
    }


def _stacked(pictures: list[Any]) -> Any:
    import numpy as np

    return np.stack(pictures)


def _measure_geometry(renderer: Renderer, dataset: PosedDataset, truth: Path) -> dict[str, Any]:
    from dreamfusion.assets.mesh import extract_mesh
    from dreamfusion.evaluation.geometry import surface_agreement

    true_mesh = read_truth(truth).apply_transform(dataset.from_dataset)
    mesh, _ = extract_mesh(renderer.scene.field, renderer.scene.radius, renderer=renderer)
    agreement = surface_agreement(mesh, true_mesh)
    return {
        "chamfer": round(agreement.chamfer, 6),
        "accuracy": round(agreement.accuracy, 6),
        "completeness": round(agreement.completeness, 6),
        "normal_consistency": round(agreement.normal_consistency, 5),
    }


def read_truth(path: Path) -> Any:
    """The true mesh; MeshError if it cannot be read."""
    from dreamfusion.assets.read_mesh import read_mesh

    return read_mesh(path, report=lambda text: None)  # its colours are not used


def read_placement(run: RunDirectory) -> list[list[float]] | None:
    """The similarity from the dataset's world to the run's; None for a run that no pictures were fitted in."""
    path = run.path / PLACEMENT
    if not documents.is_file(path):
        return None
    found = documents.read_json(path, error=DatasetError, under=run.path).get("from_dataset")
    rows = found if isinstance(found, list) and len(found) == 4 else []
    if not rows or not all(isinstance(row, list) and list(map(type, row)) == [float] * 4 for row in rows):
        raise DatasetError(f'"from_dataset" in {path}', expected="4 rows of 4 numbers", got=shown(found))
    return rows
