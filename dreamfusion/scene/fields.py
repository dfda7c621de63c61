"""Density and colour at any position: the paper's MLP, the hash grid, and dense grids for a CPU.

A field is defined on the ball of `radius` around the origin; its density is zero outside (see `density.edge_mask`).
Whatever changes with the step (annealed covariance, progressive levels) is a pure function of the step given to
`set_step`, so a resumed run has nothing to remember but the weights.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from dreamfusion.config import FieldConfig, GridsFieldConfig, HashGridFieldConfig, MLPFieldConfig
from dreamfusion.scene.density import (
    edge_mask,
    edge_mask_gradient,
    gaussian_blob,
    linear_blob,
    linear_blob_gradient,
    softplus,
    truncated_exp,
)
from dreamfusion.scene.encodings import (
    cell_corners,
    gather_rows,
    hash_indices,
    integrated_positional_encoding,
    level_cells,
    nodes_and_slopes,
    sample_grid,
    upsample_grid,
)
from dreamfusion.scene.initialisation import make_linear, uniform_parameter


@dataclass(frozen=True)
class FieldOutput:
    """What a field says about n positions.

    Attributes:
        sigmas: density, 1/length, >= 0.
        albedo: colour, in [0, 1].
    """

    sigmas: Float[Tensor, " n"]
    albedo: Float[Tensor, "n 3"]


class Field(nn.Module, ABC):
    """Density and albedo in a ball.

    Attributes:
        radius: of the ball around the origin, world units; the density is zero outside.
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    @abstractmethod
    def forward(self, positions: Float[Tensor, "n 3"]) -> FieldOutput:
        """Density and albedo at positions in world units."""

    @abstractmethod
    def density(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density alone, 1/length: what occupancy, normals and mesh extraction ask for."""

    def albedo(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colour alone, in [0, 1]: for mesh vertices and for samples whose density is already known."""
        return self(positions).albedo

    def density_and_gradient(
        self, positions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]] | None:
        """Density and its gradient (1/length^2) in closed form, both differentiable; None if the field has no such."""
        return None

    def set_step(self, step: int) -> None:
        """Bring the field to optimiser iteration `step`: annealed covariance, progressive levels."""

    def state_stamp(self) -> tuple[object, ...]:
        """Another value when weights were written in place or exchanged, or the step has changed what they mean.

        Fused optimisers write unseen: it is for fields in `eval()`, which are not trained.
        """
        return tensors_stamp(self.parameters())

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, object]]:
        """What an optimiser steps: `name`, `params`, and `lr_scale_key` ("field" or "decoder")."""


def tensors_stamp(tensors: Iterable[Tensor]) -> tuple[object, ...]:
    """Another value when one of the tensors was written in place, by other than a fused optimiser, or exchanged."""
    return tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors)


def make_field(config: FieldConfig, radius: float, generator: Generator) -> Field:
    """The field that `config.kind` names, its weights drawn from `generator` (on the CPU)."""
    match config:
        case MLPFieldConfig():
            return MLPField(config, radius, generator)
        case HashGridFieldConfig():
            return HashGridField(config, radius, generator)
        case GridsFieldConfig():
            return GridsField(config, radius, generator)
        case _:
            assert_never(config)


# ---------------------------------------------------------------------------------------------- the paper's


class _ResidualBlock(nn.Module):
    """x + linear(silu(linear(norm(x))))."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = make_linear(width, width, generator)
        self.second = make_linear(width, width, generator)

    def forward(self, hidden: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        return hidden + self.second(F.silu(self.first(self.norm(hidden))))


class MLPField(Field):
    """DreamFusion's field (arXiv 2209.14988, App. A.2): integrated positional encoding and residual blocks.

    The encoding blurs by an isotropic gaussian whose std `config.covariance` anneals; density is exp(raw + gaussian blob),
    colour a sigmoid.
    """

    # The paper does not say what keeps exp(0) = 1 from filling the ball with fog at the start. With this bias the blob
    # is a soft ball (opacity 0.8 through the middle) in nearly clear air (0.1 past it).
    _INITIAL_RAW_DENSITY = -3.0

    def __init__(self, config: MLPFieldConfig, radius: float, generator: Generator) -> None:
        super().__init__(radius)
        self.config = config
        self.blur_std = config.covariance.at(0)
        self.input = make_linear(6 * config.degrees, config.width, generator)
        self.blocks = nn.ModuleList(_ResidualBlock(config.width, generator) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.output = make_linear(config.width, 4, generator)
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.zero_()[0] = self._INITIAL_RAW_DENSITY

    def set_step(self, step: int) -> None:
        self.blur_std = self.config.covariance.at(step)

    def state_stamp(self) -> tuple[object, ...]:
        return (*super().state_stamp(), self.blur_std)

    def forward(self, positions: Float[Tensor, "n 3"]) -> FieldOutput:
        variances = torch.full_like(positions, self.blur_std**2)
        hidden = self.input(integrated_positional_encoding(positions, variances, self.config.degrees))
        for block in self.blocks:
            hidden = block(hidden)
        raw = self.output(F.silu(self.norm(hidden)))
        blob = gaussian_blob(positions, self.config.blob_density, self.config.blob_std)
        sigmas = truncated_exp(raw[:, 0] + blob) * edge_mask(positions, self.radius)
        return FieldOutput(sigmas, torch.sigmoid(raw[:, 1:]))

    def density(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return self(positions).sigmas

    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"name": "field", "params": list(self.parameters()), "lr_scale_key": "field"}]


# ----------------------------------------------------------------------------------------------- hash grid


class HashGridField(Field):
    """Instant-NGP's multi-resolution hash grid and a small MLP (arXiv 2201.05989), with the linear blob and softplus.

    Levels come in one by one, coarse to fine (threestudio's progressive bands): features of levels not yet in use are zero.
    """

    def __init__(self, config: HashGridFieldConfig, radius: float, generator: Generator) -> None:
        super().__init__(radius)
        self.config = config
        self.cells = level_cells(config.levels, config.base_resolution, config.max_resolution)
        self.table_size = 2**config.log2_table_size
        rows = [min((cells + 1) ** 3, self.table_size) for cells in self.cells]
        self.tables = nn.ParameterList(
            uniform_parameter((count, config.features_per_level), 1e-4, generator) for count in rows
        )
        widths = [config.levels * config.features_per_level] + [config.hidden_width] * config.hidden_layers
        self.hidden = nn.ModuleList(
            make_linear(inputs, outputs, generator) for inputs, outputs in itertools.pairwise(widths)
        )
        self.output = make_linear(widths[-1], 4, generator)
        with torch.no_grad():
            self.output.bias.zero_()
        self.set_step(0)

    def levels_at(self, step: int) -> int:
        """How many levels are in use at optimiser iteration `step`."""
        late = step - self.config.level_from
        further = late // self.config.level_every + 1 if late >= 0 else 0
        return min(self.config.start_level + further, self.config.levels)

    def set_step(self, step: int) -> None:
        self.levels_in_use = self.levels_at(step)

    def state_stamp(self) -> tuple[object, ...]:
        return (*super().state_stamp(), self.levels_in_use)

    def encode(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n f"]:
        """Interpolated features of all levels, zero for those not yet in use."""
        unit_positions = (positions / self.radius + 1.0) * 0.5
        features = []
        for cells, table in zip(self.cells[: self.levels_in_use], self.tables, strict=False):
            nodes, weights = cell_corners(unit_positions, cells)
            # Positions outside the ball's box have no density; they only must not read outside the tables.
            rows = gather_rows(table, hash_indices(nodes, cells, self.table_size))
            features.append(torch.bmm(weights[:, None], rows)[:, 0])
        encoded = torch.cat(features, -1)
        unused = self.config.levels * self.config.features_per_level - encoded.shape[-1]
        return F.pad(encoded, (0, unused))

    def forward(self, positions: Float[Tensor, "n 3"]) -> FieldOutput:
        hidden = self.encode(positions)
        for layer in self.hidden:
            hidden = F.silu(layer(hidden))
        raw = self.output(hidden)
        blob = linear_blob(positions, self.config.blob_density, self.config.blob_radius)
        sigmas = softplus(raw[:, 0] + blob) * edge_mask(positions, self.radius)
        return FieldOutput(sigmas, torch.sigmoid(raw[:, 1:]))

    def density(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return self(positions).sigmas

    def parameter_groups(self) -> list[dict[str, object]]:
        decoder = [*self.hidden.parameters(), *self.output.parameters()]
        return [
            {"name": "field", "params": list(self.tables), "lr_scale_key": "field"},
            {"name": "decoder", "params": decoder, "lr_scale_key": "decoder"},
        ]


# --------------------------------------------------------------------------------------------- dense grids


class GridsField(Field):
    """Dense grids of several resolutions, summed and read by one trilinear interpolation: the fastest on a CPU.

    Raw density is the linear blob plus the sum of one-channel grids; raw colour is the sum of three-channel grids, or with
    `hidden_layers` > 0 a small MLP on the sum of `features`-channel grids. Because the reading is linear, the coarse grids are
    first added up on the nodes of the finest (`upsample_grid`), and a sample reads eight nodes instead of eight per
    resolution. The coarse grids move wide regions at once, which a fine grid alone does not (a multi-grid preconditioner
    for the optimiser).
    """

    def __init__(self, config: GridsFieldConfig, radius: float, generator: Generator) -> None:
        super().__init__(radius)
        self.config = config
        self.cells = sorted(config.resolutions)
        colours = config.features if config.hidden_layers else 3
        self.density_grids = self._make_grids(1, generator)
        self.colour_grids = self._make_grids(colours, generator)
        self.hidden = nn.ModuleList(
            make_linear(colours if index == 0 else config.hidden_width, config.hidden_width, generator)
            for index in range(config.hidden_layers)
        )
        self.output = make_linear(config.hidden_width, 3, generator) if config.hidden_layers else None
        self._merged: dict[str, tuple[object, Tensor]] = {}

    def train(self, mode: bool = True) -> GridsField:
        """False (`eval()`) says that the grids are finished: their sums are kept."""
        self._merged.clear()
        return super().train(mode)

    def _make_grids(self, channels: int, generator: Generator) -> nn.ParameterList:
        return nn.ParameterList(
            uniform_parameter((channels, cells + 1, cells + 1, cells + 1), 1e-3, generator)
            for cells in self.cells
        )

    @property
    def cell_size(self) -> float:
        """Side of the finest grid's cells, world units."""
        return 2.0 * self.radius / self.cells[-1]

    def merged_density(self) -> Float[Tensor, "1 z y x"]:
        """The sum of the density's grids at the finest one's nodes."""
        return self._sum("density", self.density_grids)

    def merged_colour(self) -> Float[Tensor, "c z y x"]:
        """The sum of the colour's grids at the finest one's nodes."""
        return self._sum("colour", self.colour_grids)

    def _sum(self, name: str, grids: nn.ParameterList) -> Float[Tensor, "c z y x"]:
        if self.training or torch.is_grad_enabled():
            return _sum_on_finest(grids)
        stamp = tensors_stamp(grids)
        if name not in self._merged or self._merged[name][0] != stamp:
            self._merged[name] = stamp, _sum_on_finest(grids)
        return self._merged[name][1]

    def forward(self, positions: Float[Tensor, "n 3"]) -> FieldOutput:
        return FieldOutput(self.density(positions), self.albedo(positions))

    def density(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        read = sample_grid(self.merged_density(), positions / self.radius)[:, 0]
        return softplus(self._raw_density(positions, read)) * edge_mask(positions, self.radius)

    def albedo(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        hidden = self.config.colour_gain * sample_grid(self.merged_colour(), positions / self.radius)
        if self.output is not None:
            for layer in self.hidden:
                hidden = F.silu(layer(hidden))
            hidden = self.output(hidden)
        return torch.sigmoid(hidden)

    def density_and_gradient(
        self, positions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density and its gradient, with the grids' central difference over one cell of the finest.

        The difference is taken at the nodes and interpolated, which is the same as the difference of the interpolant, and
        unlike the interpolant's own gradient it does not jump from cell to cell. Blob and edge are exact.
        """
        nodes = nodes_and_slopes(self.merged_density(), self.cell_size)
        read = sample_grid(nodes, positions / self.radius)
        raw = self._raw_density(positions, read[:, 0])
        blob_gradient = linear_blob_gradient(positions, self.config.blob_density, self.config.blob_radius)
        raw_gradient = self.config.density_gain * read[:, 1:] + blob_gradient
        mask, dense = edge_mask(positions, self.radius), softplus(raw)
        gradient = (torch.sigmoid(raw) * mask)[:, None] * raw_gradient
        return dense * mask, gradient + dense[:, None] * edge_mask_gradient(positions, self.radius)

    def parameter_groups(self) -> list[dict[str, object]]:
        grids = [*self.density_grids, *self.colour_grids]
        groups: list[dict[str, object]] = [{"name": "field", "params": grids, "lr_scale_key": "field"}]
        if self.output is not None:
            decoder = [*self.hidden.parameters(), *self.output.parameters()]
            groups.append({"name": "decoder", "params": decoder, "lr_scale_key": "decoder"})
        return groups

    def _raw_density(self, positions: Float[Tensor, "n 3"], read: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        blob = linear_blob(positions, self.config.blob_density, self.config.blob_radius)
        # The gain multiplies what was read, not the grids: there are more nodes than samples.
        return blob + self.config.density_gain * read


def _sum_on_finest(grids: nn.ParameterList) -> Float[Tensor, "c z y x"]:
    total: Tensor = grids[0]
    for finer in list(grids)[1:]:
        total = upsample_grid(total, finer.shape[-1]) + finer
    return total
