"""Where in the scene's ball rays take all their samples, and where only a share (Instant-NGP, arXiv 2201.05989, App. E.2).

Nothing is left out for good. In thin matter a ray takes some of its samples only, and each of them stands for those
that were not taken: the optical depth of a ray keeps its expectation whatever the densities, so that training can grow
what is still thin, and a render neither loses fog nor depends on the number of samples per ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.profiler import record_function

from dreamfusion.config import OccupancyConfig
from dreamfusion.scene.fields import Field

_POINTS_AT_ONCE = 1 << 19
# `alpha_threshold` is an opacity over this part of the ball's diameter, whatever the number of samples per ray.
_REFERENCE_SAMPLES = 64
# What one sample of a thin cell may stand for: its optical depth, and the number of samples in its place.
_DEPTH_IN_TRAINING, _MOST_IN_TRAINING = 0.04, 64
_DEPTH_IN_IMAGES, _MOST_IN_IMAGES = 3e-4, 32


@dataclass(frozen=True)
class SampleShares:
    """The share of its samples that a ray takes in each cell of a cube around the ball.

    Attributes:
        shares: in (0, 1]; a sample that is taken stands for 1 / share.
        least_densities: what each cell has at least, 1/length; None where nobody needs it.
        radius: of the ball, world units.
        resolution: cells along a side.
    """

    shares: Float[Tensor, " cells"]
    least_densities: Float[Tensor, " cells"] | None
    radius: float
    resolution: int

    def along(
        self, rays_o: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"], distances: Float[Tensor, "n s"]
    ) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"] | None]:
        """The share and the least density, if that is known, at each of s distances along each of n rays.

        The same as looking up the positions, without ever holding them: axis by axis it is four times faster.
        """
        cell_size = 2.0 * self.radius / self.resolution
        origins = (rays_o + self.radius) / cell_size
        directions = rays_d / cell_size
        x, y, z = (
            torch.addcmul(origins[:, axis, None], distances, directions[:, axis, None]) for axis in range(3)
        )
        cells = _nearest_cells(x, y, z, self.resolution).flatten()
        shares, least = (
            None if values is None else values.index_select(0, cells).view(distances.shape)
            for values in (self.shares, self.least_densities)
        )
        assert shares is not None
        return shares, least


class OccupancyGrid(nn.Module):
    """A cube of cells around the scene's ball, each with the greatest density in it.

    At fixed nodes of each cell the field is asked anew in every update; what random points find beyond these is
    remembered and decays slowly.

    A cell counts as occupied when its opacity over a 64th of the ball's diameter is above `config.alpha_threshold`:
    a limit of the density alone. Occupied cells get all samples, the others a share. In the first
    `config.warmup_steps` every cell counts as occupied. The grid also knows a density that each cell has at least, so
    that rays can be ended behind what is solid. All state is in buffers, so a resumed run takes exactly the samples of
    the unbroken one.

    Args:
        config: resolution, threshold, decay, rhythm.
        radius: of the scene's ball, world units.
        step_size: length of one marching step, world units.
    """

    densities: Float[Tensor, " cells"]
    found: Float[Tensor, " cells"]
    occupied_cells: Bool[Tensor, " cells"]
    least_densities: Float[Tensor, " cells"]
    shares: Float[Tensor, " cells"]
    _cells_in_ball: Int[Tensor, " inside"]
    _norms_in_ball: Float[Tensor, " inside"]

    def __init__(self, config: OccupancyConfig, radius: float, step_size: float) -> None:
        super().__init__()
        self.config, self.radius, self.step_size = config, radius, step_size
        self.cell_size = 2.0 * radius / config.resolution
        cells = config.resolution**3
        self.register_buffer("densities", torch.zeros(cells))
        self.register_buffer("found", torch.zeros(cells))
        self.register_buffer("occupied_cells", torch.ones(cells, dtype=torch.bool))
        self.register_buffer("least_densities", torch.zeros(cells))
        # Follows from the others: `_set_shares`.
        self.register_buffer("shares", torch.ones(cells), persistent=False)
        axis = (torch.arange(config.resolution) + 0.5) * self.cell_size - radius
        squares = axis.square()
        norms = (squares[:, None, None] + squares[:, None] + squares).sqrt().flatten()
        touching = norms <= radius + self.cell_size * math.sqrt(3) / 2
        self.register_buffer("_cells_in_ball", touching.nonzero()[:, 0], persistent=False)

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
            least, greatest, drawn = self._survey(field, generator)
            beyond = drawn.masked_fill(drawn <= greatest, 0.0)
            found = torch.maximum(self.found[inside] * self.config.decay, beyond)
            # Written once all are there: an update that runs out of memory has changed nothing.
            self.found[inside], self.densities[inside] = found, torch.maximum(greatest, found)
            self.least_densities[inside] = torch.minimum(least, drawn)
            if step >= self.config.warmup_steps:
                self._classify()
            self._set_shares()
        return True

    def for_training(self) -> SampleShares:
        """What the last update found."""
        return SampleShares(self.shares, self.least_densities, self.radius, self.config.resolution)

    @torch.no_grad()
    def for_images(self, field: Field, finer: int = 1) -> SampleShares:
        """Shares for the field as it is now, so large that no image shows them.

        What training has found between the nodes gets all its samples here too.

        Args:
            field: asked for its density.
            finer: so many cells along a side of each of this grid's; 2 asks about eight times as many positions.
        """
        if finer == 1:
            return self._shares_for_images(field, self.densities > self._limit)
        config = self.config.model_copy(update={"resolution": finer * self.config.resolution})
        grid = OccupancyGrid(config, self.radius, self.step_size).to(self.densities)
        # The nodes are asked anew and closer, so of what is remembered only what lies between the nodes counts.
        found = (self.found > self._limit).view(3 * (self.config.resolution,))
        for axis in range(3):
            found = found.repeat_interleave(finer, dim=axis)
        return grid._shares_for_images(field, found.flatten())

    def _shares_for_images(self, field: Field, solid: Bool[Tensor, " cells"]) -> SampleShares:
        """Shares for the field as it is now; cells known to be `solid` get all their samples."""
        # A generator of its own, always with the same seed: an image depends on nothing but the scene.
        _, greatest, drawn = self._survey(field, torch.Generator().manual_seed(0))
        shares = self._thinned(greatest.maximum(drawn), _DEPTH_IN_IMAGES, _MOST_IN_IMAGES)
        shares = torch.ones_like(self.shares).index_copy_(0, self._cells_in_ball, shares)
        # Images end their rays by the field itself.
        return SampleShares(shares.masked_fill_(solid, 1.0), None, self.radius, self.config.resolution)

    def occupied(self, positions: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether each position, world units, lies in an occupied cell; outside the cube the nearest cell answers."""
        x, y, z = ((positions + self.radius) / self.cell_size).unbind(-1)
        return self.occupied_cells.index_select(0, _nearest_cells(x, y, z, self.config.resolution))

    @property
    def points_of_a_survey(self) -> int:
        """How many positions the field is asked about to know all cells."""
        return 9 * len(self._cells_in_ball)

    def _survey(
        self, field: Field, generator: Generator
    ) -> tuple[Float[Tensor, " inside"], Float[Tensor, " inside"], Float[Tensor, " inside"]]:
        """The least and greatest density at 27 nodes of each cell that touches the ball, and the one at a random point."""
        slabs = [self._extremes(field, *layers) for layers in self._slabs()]
        least, greatest = (torch.cat(parts)[self._cells_in_ball] for parts in zip(*slabs, strict=True))
        return least, greatest, self._at_random_points(field, generator)

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

    @property
    def _limit(self) -> float:
        """The density above which a cell counts as occupied, 1/length."""
        alpha = min(self.config.alpha_threshold, 1.0 - 1e-12)
        return -math.log1p(-alpha) / (2.0 * self.radius / _REFERENCE_SAMPLES)

    def _classify(self) -> None:
        densities = self.densities[self._cells_in_ball]
        # Where all is thin the densest half of it still gets all samples: the mean bounds the limit.
        limit = densities.mean().clamp(max=self._limit)
        self.occupied_cells.zero_()[self._cells_in_ball] = densities > limit

    def _set_shares(self) -> None:
        thinned = self._thinned(self.densities, _DEPTH_IN_TRAINING, _MOST_IN_TRAINING)
        self.shares.copy_(thinned.masked_fill_(self.occupied_cells, 1.0))

    def _thinned(self, densities: Float[Tensor, "*n"], depth: float, most: int) -> Float[Tensor, "*n"]:
        """Shares with which a sample stands for an optical depth of at most `depth`, and for at most `most` samples."""
        return (densities * (self.step_size / depth)).clamp_(1.0 / most, 1.0)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # Checkpoints of earlier versions remember all that they saw, not only what was between the nodes, and hold the
        # distance of the furthest occupied cell, which nothing needs now.
        if state_dict.pop(f"{prefix}reach", None) is not None:
            state_dict[f"{prefix}found"] = state_dict[f"{prefix}densities"]
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._set_shares()


def _nearest_cells(
    x: Float[Tensor, "*n"], y: Float[Tensor, "*n"], z: Float[Tensor, "*n"], resolution: int
) -> Int[Tensor, "*n"]:
    """The nearest cell's index, from positions counted in cells."""
    # Truncation equals the floor here: what lies below 0 is clamped to 0 anyway. int32 is faster than int64.
    i, j, k = (coordinate.int().clamp_(0, resolution - 1) for coordinate in (x, y, z))
    return i.mul_(resolution).add_(j).mul_(resolution).add_(k)
