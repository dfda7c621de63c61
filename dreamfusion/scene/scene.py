"""The scene: a field in a ball, its normals and its background."""

from __future__ import annotations

from torch import Generator, nn

from dreamfusion.config import NormalsConfig, SceneConfig
from dreamfusion.scene.background import Background, make_background
from dreamfusion.scene.fields import Field, make_field


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
