"""`--init RUN|MESH`: what a text-guided run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import ConfigError, RunNotFoundError
from dreamfusion.progress import Bar, busy, notice
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dreamfusion.training.initialise import Source
    from dreamfusion.training.trainer import Trainer

# More of the inside than this fraction in doubt is worth a line.
DOUBT = 0.01
# Inside of a mesh, times the radius: a tenth of it stops 95 % of the light, and a text can still take it away.
MESH_DENSITY = 30.0


def find_start(reference: str, runs: Path, up: str = "y") -> str:
    """The absolute path of the run or mesh that `reference` means; a run must have a checkpoint.

    Args:
        up: of `init_up`, which a run cannot have.

    Raises:
        ConfigError: a run, with an axis for a mesh.
        RunNotFoundError: it is neither.
        CheckpointMissingError: the run has no checkpoint.
        MeshError: the file holds no mesh that can be read.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        from dreamfusion.assets.read_mesh import read_mesh

        read_mesh(path, report=lambda text: None)  # reported when it is used
        return str(path.resolve())
    try:
        run = directory.find(reference, runs)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"--init {reference} is neither a run in {runs} nor a mesh's file",
            hint="give the path of either, or a run's number (`dreamfusion runs` lists all)",
        ) from error
    if up != "y":
        raise ConfigError("--init-up is for meshes", got=f"the run {run.path}", hint="leave it out")
    run.latest_checkpoint()
    return str(run.path.resolve())


def start_from(trainer: Trainer, init: str) -> None:
    """Put the object of a run or a mesh into a trainer that has not begun.

    Raises:
        DreamfusionError: of every kind that a run or a mesh can have.
    """
    path = Path(init)
    if path.is_dir():
        _start_from_run(trainer, RunDirectory(path))
    else:
        _start_from_mesh(trainer, path)


def _start_from_run(trainer: Trainer, run: RunDirectory) -> None:
    import torch

    from dreamfusion.training.trainer import load_renderer

    config: ExperimentConfig = run.config()
    tensors, meta = checkpoint.load(run.latest_checkpoint())
    before = load_renderer(config, tensors, meta, trainer.device).scene
    if config.scene.field == trainer.config.scene.field and before.radius == trainer.scene.radius:
        trainer.scene.field.load_state_dict(before.field.state_dict())
        return

    scale = before.radius / trainer.scene.radius

    @torch.no_grad()
    def source(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = before.field(positions * scale)
        return found.sigmas * scale, found.albedo

    _teach(trainer, source, None)


def _start_from_mesh(trainer: Trainer, path: Path) -> None:
    import numpy as np
    import torch

    from dreamfusion.assets.read_mesh import read_mesh
    from dreamfusion.assets.solid_mesh import SolidMesh, surface_cells

    radius = trainer.scene.radius
    with busy(f"reading {path.name}"):
        solid = SolidMesh(read_mesh(path, up=trainer.config.init_up), radius)
    if solid.doubtful > DOUBT:
        notice(
            f"{path} has holes: {solid.doubtful:.0%} of what is taken for its inside follows from the sides that it has"
        )
    if solid.moved:
        notice(f"{path} was centred and scaled to the scene's ball")
    middles = (surface_cells(solid.occupancy) + 0.5) / solid.resolution * 2 * radius - radius

    def source(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = positions.cpu().double().numpy()
        sigmas = solid.inside(points) * (MESH_DENSITY / radius)
        found = (torch.from_numpy(values.astype(np.float32)) for values in (sigmas, solid.colours(points)))
        density, albedo = (values.to(positions) for values in found)
        return density, albedo

    _teach(trainer, source, torch.from_numpy(middles).float())


def _teach(trainer: Trainer, source: Source, near: object) -> None:
    from dreamfusion.training.initialise import teach

    with Bar("taking over the object") as bar:
        # The purpose "init" drew the field's weights and draws nothing later on.
        teach(trainer.scene, source, trainer.generators["init"], near, progress=bar)  # pyright: ignore[reportArgumentType]
