"""The scene: a field in a ball, its normals and its background."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor, nn

from dreamfusion.config import NormalsConfig, SceneConfig
from dreamfusion.scene.background import Background, make_background
from dreamfusion.scene.fields import Field, make_field
from dreamfusion.scene.normals import density_normals, normals_from_gradient


@dataclass(frozen=True)
class SceneSamples:
    """What the scene says about n positions.

    Attributes:
        sigmas: density, 1/length.
        albedo: in [0, 1].
        normals: unit, pointing out of the dense region; None if they were not asked for.
    """

    sigmas: Float[Tensor, " n"]
    albedo: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"] | None


class Scene(nn.Module):
    """All that is optimised.

    Attributes:
        field, background: the learned parts.
        radius: of the ball around the origin that holds the object, world units.
        normals_config: where normals come from.
    """

    def __init__(self, field: Field, background: Background, radius: float, normals: NormalsConfig) -> None:
        super().__init__()
        self.field, self.background = field, background
        self.radius, self.normals_config = radius, normals

    def query(
        self,
        positions: Float[Tensor, "n 3"],
        covariance: Float[Tensor, "n axes"] | None = None,
        with_normals: bool = False,
    ) -> SceneSamples:
        """Density, albedo and, if asked, normals: cheaper than three questions where a field answers two at once."""
        if not with_normals:
            seen = self.field(positions, covariance)
            return SceneSamples(seen.sigmas, seen.albedo, None)
        if self.normals_config.kind == "finite_difference":
            closed_form = self.field.density_and_gradient(positions)
            if closed_form is not None:
                sigmas, gradient = closed_form
                return SceneSamples(sigmas, self.field.albedo(positions), normals_from_gradient(gradient))
        seen = self.field(positions, covariance)
        normals = density_normals(self.field, positions, self.normals_config)
        return SceneSamples(seen.sigmas, seen.albedo, normals)

    def set_step(self, step: int) -> None:
        """Bring the field to optimiser iteration `step`; a pure function of the step."""
        self.field.set_step(step)

    def parameter_groups(self) -> list[dict[str, object]]:
        """What an optimiser steps: `name`, `params`, and `lr_scale_key` ("field", "decoder" or "background")."""
        return self.field.parameter_groups() + self.background.parameter_groups()


def make_scene(config: SceneConfig, generator: Generator) -> Scene:
    """The scene that the config describes, its weights drawn from `generator` (on the CPU)."""
    field = make_field(config.field, config.radius, generator)
    background = make_background(config.background, generator)
    return Scene(field, background, config.radius, config.normals)
