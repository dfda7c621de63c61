"""Which parts of the scene's ball are empty, so that rays need not look there (Instant-NGP, arXiv 2201.05989, App. E.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.profiler import record_function

from dreamfusion.config import OccupancyConfig
from dreamfusion.scene.fields import Field

_POINTS_AT_ONCE = 1 << 19


class OccupancyGrid(nn.Module):
    """A cube of cells around the scene's ball, each with a slowly decaying maximum of the densities seen in it.

    A cell counts as occupied when one marching step through its density has an opacity above
    `config.alpha_threshold`. In the first `config.warmup_steps` every cell does. The grid also knows a density that each
    cell has at least, so that rays can be ended behind what is solid. All state is in buffers, so a resumed run skips
    exactly what the unbroken one does.

    Args:
        config: resolution, threshold, decay, rhythm.
        radius: of the scene's ball, world units.
        step_size: length of one marching step, world units.
    """

    densities: Float[Tensor, " cells"]
    occupied_cells: Bool[Tensor, " cells"]
    least_densities: Float[Tensor, " cells"]
    reach: Float[Tensor, ""]
    _cells_in_ball: Int[Tensor, " inside"]
    _norms_in_ball: Float[Tensor, " inside"]

    def __init__(self, config: OccupancyConfig, radius: float, step_size: float) -> None:
        super().__init__()
        self.config, self.radius, self.step_size = config, radius, step_size
        self.cell_size = 2.0 * radius / config.resolution
        cells = config.resolution**3
        self.register_buffer("densities", torch.zeros(cells))
        self.register_buffer("occupied_cells", torch.ones(cells, dtype=torch.bool))
        self.register_buffer("least_densities", torch.zeros(cells))
        self.register_buffer("reach", torch.tensor(radius))
        axis = (torch.arange(config.resolution) + 0.5) * self.cell_size - radius
        squares = axis.square()
        norms = (squares[:, None, None] + squares[:, None] + squares).sqrt().flatten()
        self._half_diagonal = self.cell_size * math.sqrt(3) / 2
        touching = norms <= radius + self._half_diagonal
        self.register_buffer("_cells_in_ball", touching.nonzero()[:, 0], persistent=False)
        self.register_buffer("_norms_in_ball", norms[touching], persistent=False)

    @property
    def points_at_once(self) -> int:
        """The most points that a look at the field asks about in one call."""
        nodes = (2 * self.config.resolution + 1) ** 3
        return min(_POINTS_AT_ONCE, max(nodes, len(self._cells_in_ball)))

    @property
    def occupied_share(self) -> float:
        """The share of the ball's cells that are occupied, 0 .. 1."""
        return self.occupied_cells[self._cells_in_ball].float().mean().item()

    def update(self, field: Field, step: int, generator: Generator) -> bool:
        """Look at the field again, if it is time to: at 27 nodes of each cell and at one random point in it.

        Args:
            field: asked for its density.
            step: optimiser iteration; nothing happens but at every `config.update_every`-th.
            generator: on the CPU.

        Returns:
            Whether the grid was updated.
        """
        if not self.config.enabled or step % self.config.update_every != 0:
            return False
        with record_function(__name__), torch.no_grad():
            inside = self._cells_in_ball
            slabs = [self._extremes(field, *layers) for layers in self._slabs()]
            least, greatest = (torch.cat(parts)[inside] for parts in zip(*slabs, strict=True))
            drawn = self._at_random_points(field, generator)
            seen = torch.maximum(greatest, drawn)
            aged = torch.maximum(self.densities[inside] * self.config.decay, seen)
            least = torch.minimum(least, drawn)
            # Written once both are there: an update that runs out of memory has changed nothing.
            self.densities[inside], self.least_densities[inside] = aged, least
            if step >= self.config.warmup_steps:
                self._classify()
        return True

    def occupied(self, positions: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether each position, world units, lies in an occupied cell; outside the cube the nearest cell answers."""
        x, y, z = ((positions + self.radius) / self.cell_size).unbind(-1)
        return self.occupied_cells.index_select(0, self._cells(x, y, z))

    def along(
        self, rays_o: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"], distances: Float[Tensor, "n s"]
    ) -> tuple[Bool[Tensor, "n s"], Float[Tensor, "n s"]]:
        """What is at each of s distances along each of n rays: whether the cell is occupied, and its least density.

        The same as looking up the positions, without ever holding them: axis by axis it is four times faster.
        """
        origins = (rays_o + self.radius) / self.cell_size
        directions = rays_d / self.cell_size
        x, y, z = (
            torch.addcmul(origins[:, axis, None], distances, directions[:, axis, None]) for axis in range(3)
        )
        cells = self._cells(x, y, z).flatten()
        occupied = self.occupied_cells.index_select(0, cells).view(distances.shape)
        return occupied, self.least_densities.index_select(0, cells).view(distances.shape)

    def _cells(
        self, x: Float[Tensor, "*n"], y: Float[Tensor, "*n"], z: Float[Tensor, "*n"]
    ) -> Int[Tensor, "*n"]:
        """The nearest cell's index, from positions counted in cells."""
        resolution = self.config.resolution
        # Truncation equals the floor here: what lies below 0 is clamped to 0 anyway. int32 is faster than int64.
        i, j, k = (coordinate.int().clamp_(0, resolution - 1) for coordinate in (x, y, z))
        return i.mul_(resolution).add_(j).mul_(resolution).add_(k)

    def _slabs(self) -> list[tuple[int, int]]:
        """The first and last + 1 layer of cells of parts that are small enough to be asked about at once."""
        resolution = self.config.resolution
        layers = max(1, _POINTS_AT_ONCE // (2 * (2 * resolution + 1) ** 2))
        return [(first, min(first + layers, resolution)) for first in range(0, resolution, layers)]

    def _extremes(
        self, field: Field, first: int, last: int
    ) -> tuple[Float[Tensor, " cells"], Float[Tensor, " cells"]]:
        """The least and greatest density at 27 nodes of each cell of some layers: corners, middles of edges and faces, centre.

        A density that is linear between such nodes is nowhere less or greater inside the cell. A few random points instead
        miss plates thinner than a cell, and parts of the picture vanish.
        """
        resolution = self.config.resolution
        half = self.cell_size / 2
        axis = torch.arange(2 * resolution + 1, device=self.densities.device) * half - self.radius
        planes = axis[2 * first : 2 * last + 1]
        squares = planes.square()[:, None, None] + axis.square()[:, None] + axis.square()
        inside = (squares < self.radius**2).flatten().nonzero()[:, 0]
        side = len(axis)
        x, y, z = inside // side**2, inside // side % side, inside % side
        nodes = torch.zeros(squares.numel(), device=squares.device)
        for part, *places in zip(*(i.split(_POINTS_AT_ONCE) for i in (inside, x, y, z)), strict=True):
            positions = torch.stack([planes[places[0]], axis[places[1]], axis[places[2]]], dim=-1)
            nodes[part] = field.density(positions)
        nodes = nodes.view(1, 1, *squares.shape)
        return -F.max_pool3d(-nodes, 3, stride=2).flatten(), F.max_pool3d(nodes, 3, stride=2).flatten()

    def _at_random_points(self, field: Field, generator: Generator) -> Float[Tensor, " inside"]:
        """The density at one random point of each cell that touches the ball: what the nodes miss shows up in time."""
        resolution = self.config.resolution
        cells = self._cells_in_ball
        corners = torch.stack(
            [cells // resolution**2, cells // resolution % resolution, cells % resolution], dim=-1
        )
        positions = torch.rand(len(cells), 3, generator=generator).to(self.densities)
        positions = positions.add_(corners).mul_(self.cell_size).sub_(self.radius)
        return torch.cat([field.density(part) for part in positions.split(_POINTS_AT_ONCE)])

    def _classify(self) -> None:
        alpha = min(self.config.alpha_threshold, 1.0 - 1e-12)
        densities = self.densities[self._cells_in_ball]
        # A thin fog must not vanish whole, or nothing is left to learn from: the mean bounds the threshold.
        threshold = densities.mean().clamp(max=-math.log1p(-alpha) / self.step_size)
        occupied = densities > threshold
        self.occupied_cells.zero_()[self._cells_in_ball] = occupied
        furthest = (self._norms_in_ball * occupied).amax() + self._half_diagonal
        self.reach.copy_(furthest.clamp(max=self.radius))
