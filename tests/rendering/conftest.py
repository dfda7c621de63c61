"""Scenes whose pictures can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from torch import nn

from dreamfusion.config import NormalsConfig, RenderingConfig, SolidBackgroundConfig
from dreamfusion.rendering.renderer import Renderer
from dreamfusion.scene.background import SolidBackground
from dreamfusion.scene.fields import Field, FieldOutput
from dreamfusion.scene.scene import Scene


class AnalyticField(Field):
    """A density that is a formula; red and green tell the position, and one weight scales everything."""

    def __init__(self, formula, radius=1.0):
        super().__init__(radius)
        self.formula = formula
        self.scale = nn.Parameter(torch.ones(()))
        self.queries = 0

    def density(self, positions):
        self.queries += len(positions)
        return self.scale * self.formula(positions)

    def forward(self, positions):
        red_green = 0.5 + 0.25 * positions[:, :2]
        albedo = torch.cat([red_green, torch.full_like(positions[:, :1], 0.75)], dim=-1)
        return FieldOutput(self.density(positions), (albedo * self.scale).clamp(0, 1))

    def parameter_groups(self):
        return [{"name": "field", "params": list(self.parameters()), "lr_scale_key": "field"}]


def ball(radius, sigma=1e3, width=None):
    """A ball of constant density, with a hard edge or, for `width`, one that falls as a logistic curve."""

    def formula(positions):
        inside = radius - positions.norm(dim=-1)
        return sigma * ((inside > 0).to(positions) if width is None else torch.sigmoid(inside / width))

    return formula


def soft_blob(sigma=4.0, std=0.35):
    """A gaussian of density: smooth everywhere, so quadratures converge as they should."""
    return lambda positions: sigma * torch.exp(-positions.square().sum(dim=-1) / (2 * std**2))


def constant(sigma):
    return lambda positions: torch.full_like(positions[:, 0], sigma)


def thin_parts(positions, sigma=80.0):
    """A rod of radius 0.03 and a plate 0.05 thick: about as thin as a step, thinner than a cell of the grid."""
    x, y, z = positions.unbind(-1)
    rod = ((x - 0.21).square() + (z - 0.13).square()).sqrt() < 0.03
    plate = ((y + 0.27).abs() < 0.025) & (x.square() + z.square() < 0.5)
    return sigma * ((rod & (y.abs() < 0.8)) | plate).to(positions)


@pytest.fixture
def shapes():
    return SimpleNamespace(ball=ball, soft_blob=soft_blob, constant=constant, thin_parts=thin_parts)


@pytest.fixture
def make_renderer():
    """A renderer of a density formula before a plain background."""

    def make(
        formula,
        background=(0.0, 0.0, 0.0),
        radius=1.0,
        normals: Literal["analytic", "finite_difference", "none"] = "analytic",
        **config,
    ):
        scene = Scene(
            AnalyticField(formula, radius),
            SolidBackground(SolidBackgroundConfig(rgb=background)),
            radius,
            NormalsConfig(kind=normals, epsilon=1e-3),
        )
        return Renderer(scene, RenderingConfig(**config))

    return make
