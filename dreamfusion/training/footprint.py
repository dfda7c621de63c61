"""What memory a run is expected to need, before it starts: the guidance's step, the render's, and the scene.

The render is taken on torch's meta device, where tensors have shapes and no contents, with as many samples as its rays
can have, and the storages that are alive are followed. While a run knows no empty space every ray has all its samples;
pictures that it grows to later are counted with a share of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.config import ExperimentConfig
from dreamfusion.guidance.costs import GuidanceCost, LiveBytes
from dreamfusion.rendering.compositing import accumulate
from dreamfusion.rendering.renderer import Renderer
from dreamfusion.scene.fields import FieldOutput
from dreamfusion.scene.normals import density_normals
from dreamfusion.scene.scene import Scene, make_scene
from dreamfusion.training.losses import needs_normals_within
from dreamfusion.training.randomness import make_generators

# A CUDA context, and what the caching allocator cannot use of what it holds.
CONTEXT_BYTES = 1 << 29
# The share of the ball's samples that are left once the grid knows the object: more than a large one fills.
OCCUPIED_SHARE = 0.25
# Samples of a ray whose weight asks for a normal: its weights sum to 1 at most, so they are few.
DENSE_SAMPLES = 64
# What marching takes for each step along each ray, skipped or not: edges, three coordinates, cells, their densities.
MARCH_BYTES = 48
# Each parameter with its gradient and Adam's two moments.
_COPIES = 4


@dataclass(frozen=True)
class RenderFootprint:
    """The render's part of a step.

    Attributes:
        scene_bytes: parameters, gradients, the optimiser's moments.
        kept_bytes: what a render holds while the guidance runs.
        peak_bytes: the most that a render takes, on its way there or back, or the occupancy grid's look at the field.
    """

    scene_bytes: int
    kept_bytes: int
    peak_bytes: int


def render_footprint(config: ExperimentConfig) -> RenderFootprint:
    """What a step of `config`'s render needs; nothing is computed."""
    scene = make_scene(config.scene, make_generators(config.seed)["init"]).to("meta")
    renderer = Renderer(scene, config.rendering)
    kept, peak = 0, _look_bytes(renderer)
    sides = [config.cameras.resolution.at(step) for step in (0, config.training.steps)]
    for side, step in zip(sides, (1, config.training.steps), strict=True):
        slots = side**2 * config.cameras.views_per_step * config.rendering.samples_per_ray
        # Once pictures have grown the grid has looked.
        samples = int(slots * (1.0 if side == sides[0] else OCCUPIED_SHARE))
        of_step = _step_bytes(renderer, config, samples, step)
        kept, peak = max(kept, of_step[0]), max(peak, of_step[1], MARCH_BYTES * slots)
    parameters = sum(p.numel() * p.element_size() for p in scene.parameters())
    state = sum(b.numel() * b.element_size() for b in renderer.buffers())
    return RenderFootprint(_COPIES * parameters + state, kept, peak)


def expected_bytes(guidance: GuidanceCost | None, render: RenderFootprint) -> int:
    """What the whole program is expected to take on its device; without guidance for fits to photographs."""
    weights, step = (0, 0) if guidance is None else (guidance.weights_bytes, guidance.peak_bytes)
    # The guidance runs beside what the render keeps, and has given its own back when the render's turn comes.
    return (
        CONTEXT_BYTES
        + render.scene_bytes
        + max(step + render.kept_bytes, weights + max(render.peak_bytes, render.kept_bytes))
    )


def _step_bytes(renderer: Renderer, config: ExperimentConfig, samples: int, step: int) -> tuple[int, int]:
    """Bytes that a render of so many samples keeps for its way back, and the most that it takes there or back."""
    scene, chunk = renderer.scene, config.rendering.field_chunk
    scene.set_step(step)
    shading = config.rendering.shading
    shaded = step > shading.albedo_steps and shading.shaded_probability > 0
    normals = _normals(scene) if shaded or needs_normals_within(config.losses, step + 1) else None
    if chunk is None or samples <= chunk:
        return _taken(samples, config.rendering.samples_per_ray, scene.field, normals)
    # Chunks leave what they answer, and take what is inside one at a time, on the way there and again on the way back.
    kept, peak = _taken(
        samples, config.rendering.samples_per_ray, _answers, None if normals is None else torch.zeros_like
    )
    inside = [_taken_by(lambda: scene.field(_meta(chunk, 3)).sigmas)]
    if normals is not None:
        inside.append(_taken_by(lambda: normals(_meta(chunk, 3))))
    return kept, max(peak, kept + max(inside))


def _taken(
    samples: int,
    per_ray: int,
    field: Callable[[Tensor], FieldOutput],
    normals: Callable[[Tensor], Tensor] | None,
) -> tuple[int, int]:
    rays = max(1, samples // per_ray)
    with LiveBytes() as live:
        positions, ray_indices = _meta(samples, 3), _meta(samples, dtype=torch.int64)
        lengths = _meta(samples)
        found = field(positions)
        weights = _weights(found.sigmas, lengths, ray_indices)
        columns = [found.albedo, torch.ones_like(weights)[:, None], lengths[:, None]]
        if normals is not None:
            dense = _meta(min(samples, rays * DENSE_SAMPLES), dtype=torch.int64)
            of_dense = normals(positions.index_select(0, dense))
            columns.append((-positions).index_copy(0, dense, of_dense))
        sums = accumulate(weights, torch.cat(columns, dim=-1), ray_indices, rays)
        kept = live.alive
        sums.sum().backward()
    return kept, live.peak


def _taken_by(part: Callable[[], Tensor]) -> int:
    """The most that a part of the field's work takes, there and back."""
    with LiveBytes() as live:
        part().sum().backward()
    return live.peak


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device="meta")


def _answers(positions: Tensor) -> FieldOutput:
    """What a field gives, without its work."""
    return FieldOutput(
        torch.zeros_like(positions[:, 0]).requires_grad_(), torch.zeros_like(positions).requires_grad_()
    )


def _normals(scene: Scene) -> Callable[[Tensor], Tensor]:
    return lambda positions: density_normals(scene.field, positions, scene.normals_config)


def _weights(sigmas: Tensor, lengths: Tensor, slots: Tensor) -> Tensor:
    """As `composite`, which looks at the values of the rays' numbers."""
    taus = sigmas * lengths
    table = _meta(len(taus)).scatter(0, slots, taus).cumsum(dim=0)
    return torch.exp(-table.index_select(0, slots)) * -torch.expm1(-taus)


def _look_bytes(renderer: Renderer) -> int:
    """What the occupancy grid's look at the field takes: so many points at once, without gradients."""
    if not renderer.config.occupancy.enabled:
        return 0
    with LiveBytes() as live, torch.no_grad():
        renderer.scene.field.density(_meta(renderer.occupancy.points_at_once, 3))
    return live.peak
