"""A scene seen by cameras: the one place where rays, field, normals, light and background come together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from dreamfusion.cameras import Cameras
from dreamfusion.config import RenderingConfig
from dreamfusion.errors import ConfigError
from dreamfusion.rendering.compositing import accumulate, composite
from dreamfusion.rendering.marching import PackedSamples, march
from dreamfusion.rendering.occupancy import OccupancyGrid, SampleShares
from dreamfusion.rendering.shading import ALBEDO, ShadingSample, shade
from dreamfusion.rendering.visibility import find_visible
from dreamfusion.scene.fields import FieldOutput, tensors_stamp
from dreamfusion.scene.normals import density_normals
from dreamfusion.scene.scene import Scene

# Samples of less weight are lit as if they faced the camera: a normal costs several field queries. With more than so
# many samples per ray the limit falls as their weights do.
_MIN_WEIGHT_FOR_NORMALS, _SAMPLES_OF_THAT_WEIGHT = 1e-3, 64
# Images may leave out this share of each ray's opacity in faint samples, and this opacity behind what is solid.
_FAINT_IN_IMAGES, _TERMINATION_IN_IMAGES = 1e-3, 2e-4
# The grid is made anew for an image whose samples are so many times as many as the points that it asks about. Of a
# finished scene a finer one is made, which serves all images, if one of them has as many samples as points are asked about.
_WORTH_A_SURVEY, _FINER = 4, 2
_TINY = 1e-6


@dataclass(frozen=True)
class RenderOutput:
    """What b cameras see, h by w pixels each; the per-sample parts are what losses need.

    Attributes:
        rgb: the object over its background, [0, 1].
        foreground_rgb: the object alone, premultiplied by opacity.
        opacity: sum of weights, [0, 1].
        distance: mean distance along the ray of what is seen, world units; 0 where opacity is 0.
        depth: the same along the camera's axis.
        background: what is behind the object, [0, 1].
        normals: unit, outward, world frame; 0 where opacity is 0; None unless asked for.
        rays_d: unit directions, world frame.
        samples: n packed samples of the b*h*w rays in row-major order; None for pictures.
        weights, sigmas: of the n samples; None for pictures.
        sample_normals: unit normals of the n samples; None for pictures and unless asked for.
    """

    rgb: Float[Tensor, "b h w 3"]
    foreground_rgb: Float[Tensor, "b h w 3"]
    opacity: Float[Tensor, "b h w"]
    distance: Float[Tensor, "b h w"]
    depth: Float[Tensor, "b h w"]
    background: Float[Tensor, "b h w 3"]
    normals: Float[Tensor, "b h w 3"] | None
    rays_d: Float[Tensor, "b h w 3"]
    samples: PackedSamples | None = None
    weights: Float[Tensor, " n"] | None = None
    sigmas: Float[Tensor, " n"] | None = None
    sample_normals: Float[Tensor, "n 3"] | None = None

    def over(self, backgrounds: Float[Tensor, "n h w 3"]) -> Float[Tensor, "n h w 3"]:
        """The object over other backgrounds, as `rgb` has it over its own: all b views, then all again, and so on."""
        behind = backgrounds.unflatten(0, (-1, len(self.rgb)))
        return (self.foreground_rgb + (1.0 - self.opacity)[..., None] * behind).flatten(0, 1)


@dataclass(frozen=True)
class _Rays:
    """Rays of one call, each with the light that its samples are lit by."""

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    lights: Float[Tensor, "rays 3"] | None


@dataclass(frozen=True)
class _Seen:
    """Sums along rays, weighted: red, green, blue, opacity, distance; and normals. The samples are for losses only."""

    sums: Float[Tensor, "rays 5"]
    normals: Float[Tensor, "rays 3"] | None
    samples: PackedSamples | None = None
    weights: Float[Tensor, " n"] | None = None
    sigmas: Float[Tensor, " n"] | None = None
    sample_normals: Float[Tensor, "n 3"] | None = None


class Renderer(nn.Module):
    """Renders `scene` by marching rays through its ball.

    The scene is neither a child nor part of the state: this module's own state is the occupancy grid alone.
    """

    def __init__(self, scene: Scene, config: RenderingConfig) -> None:
        super().__init__()
        # A tuple hides the scene from nn.Module, which would list its parameters twice.
        self._scene = (scene,)
        self.config = config
        step_size = 2.0 * scene.radius / config.samples_per_ray
        self.occupancy = OccupancyGrid(config.occupancy, scene.radius, step_size)
        self._kept: tuple[object, SampleShares] | None = None

    def train(self, mode: bool = True) -> Renderer:
        """False (`eval()`) says that the scene is finished: what images need of it is found once and kept."""
        self._kept = None
        self.scene.train(mode)
        return super().train(mode)

    @property
    def scene(self) -> Scene:
        return self._scene[0]

    def update_occupancy(self, step: int, generator: Generator) -> bool:
        """Let the occupancy grid look at the field, if it is time to; returns whether it did."""
        return self.occupancy.update(self.scene.field, step, generator)

    def render(
        self,
        cameras: Cameras,
        shading: ShadingSample | None = None,
        rays_generator: Generator | None = None,
        background_generator: Generator | None = None,
        with_normals: bool = False,
    ) -> RenderOutput:
        """What the cameras see, differentiable in the scene's parameters.

        Args:
            cameras: b of them.
            shading: kind and light; None is albedo.
            rays_generator: shifts the steps of each ray and draws which samples of thin matter are taken. None puts the
                steps where images have them and takes all samples: what is taken otherwise has this expectation.
            background_generator: for random backgrounds; None: the background of pictures.
            with_normals: return normals even where the shading does not need them.

        Raises:
            ConfigError: normals are needed and the scene has none.
        """
        shading = shading or ALBEDO
        with record_function(__name__):
            rays_o, rays_d = cameras.rays()
            lights = shading.light_position
            if lights is not None:
                lights = lights[:, None, None, :].expand_as(rays_d).reshape(-1, 3)
            rays = _Rays(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3), lights)
            seen = self._trace(rays, shading, rays_generator, with_normals)
            background = self.scene.background(rays_d, background_generator)
            return _developed(seen, rays_d, cameras.forward, background)

    @torch.no_grad()
    def render_image(
        self,
        cameras: Cameras,
        shading: ShadingSample | None = None,
        with_normals: bool = False,
        chunk: int = 1 << 14,
    ) -> RenderOutput:
        """What the cameras see, without gradients or chance, in bounded memory.

        Args:
            cameras: b of them; pictures of any size.
            shading: kind and light; None is albedo.
            with_normals: return normals even where the shading does not need them.
            chunk: rays at once, rounded to whole rows of pixels; it changes the memory needed, not the picture.

        Raises:
            ConfigError: normals are needed and the scene has none.
        """
        shading = shading or ALBEDO
        taken = self._shares_for_images(cameras)
        rows = max(1, chunk // cameras.width)
        views = []
        for view in range(len(cameras)):
            camera = cameras[view : view + 1]
            light = None if shading.light_position is None else shading.light_position[view]
            bands = [
                self._render_band(rays_o, rays_d, camera.forward, shading, light, with_normals, taken)
                for rays_o, rays_d in zip(*(rays.split(rows, dim=1) for rays in camera.rays()), strict=True)
            ]
            views.append(_joined(bands, dim=1))
        return _joined(views, dim=0)

    def _render_band(
        self,
        rays_o: Float[Tensor, "1 h w 3"],
        rays_d: Float[Tensor, "1 h w 3"],
        forward: Float[Tensor, "1 3"],
        shading: ShadingSample,
        light: Float[Tensor, "3"] | None,
        with_normals: bool,
        taken: SampleShares | None,
    ) -> RenderOutput:
        with record_function(__name__):
            lights = None if light is None else light.expand(rays_d[..., 0].numel(), 3)
            rays = _Rays(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3), lights)
            seen = self._look(rays, shading, with_normals, taken)
            return _developed(seen, rays_d, forward, self.scene.background(rays_d, None))

    def _trace(
        self, rays: _Rays, shading: ShadingSample, generator: Generator | None, with_normals: bool
    ) -> _Seen:
        """Everything that may be there, with gradients."""
        thinned = generator is not None and self.config.occupancy.enabled
        taken = self.occupancy.for_training() if thinned else None
        samples = self._march(rays, generator, taken, self.config.termination)
        positions = samples.positions(rays.origins, rays.directions)
        found = self._query(positions)
        weights = composite(found.sigmas, samples).weights
        seen = self._summed(rays, samples, positions, found.albedo, weights, shading, with_normals)
        return replace(seen, samples=samples, weights=weights, sigmas=found.sigmas)

    def _query(self, positions: Float[Tensor, "n 3"]) -> FieldOutput:
        """The field at the samples; in chunks that are computed again on the way back, if the config says so."""
        chunk = self.config.field_chunk
        if chunk is None or len(positions) <= chunk:
            return self.scene.field(positions)
        parts = [checkpoint(self.scene.field, part, use_reentrant=False) for part in positions.split(chunk)]
        return FieldOutput(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(FieldOutput)))

    def _dense_normals(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The density's normals at samples that matter; in chunks like `_query`."""

        def normals(part: Tensor) -> Tensor:
            return density_normals(self.scene.field, part, self.scene.normals_config)

        chunk = self.config.field_chunk
        if chunk is None or len(positions) <= chunk or not torch.is_grad_enabled():
            return normals(positions)
        return torch.cat([checkpoint(normals, part, use_reentrant=False) for part in positions.split(chunk)])

    def _look(
        self, rays: _Rays, shading: ShadingSample, with_normals: bool, taken: SampleShares | None
    ) -> _Seen:
        """What can be seen, without gradients."""
        # The grid's memory of what is solid may be old, and an image is to be right: rays end by the field itself.
        candidates = self._march(rays, None, taken, termination=0.0)
        termination = min(self.config.termination, _TERMINATION_IN_IMAGES)
        samples, weights = find_visible(
            self.scene.field, candidates, rays.origins, rays.directions, termination, _FAINT_IN_IMAGES
        )
        positions = samples.positions(rays.origins, rays.directions)
        albedo = self.scene.field.albedo(positions)
        seen = self._summed(rays, samples, positions, albedo, weights, shading, with_normals)
        return replace(seen, sample_normals=None)

    def _shares_for_images(self, cameras: Cameras) -> SampleShares | None:
        """Which samples images of these cameras take; None, all of them, where they are few."""
        samples = cameras.height * cameras.width * self.config.samples_per_ray
        if not self.config.occupancy.enabled or samples < _WORTH_A_SURVEY * self.occupancy.points_of_a_survey:
            return None
        if self.training:
            return self.occupancy.for_images(self.scene.field)
        finer = _FINER if samples >= _FINER**3 * self.occupancy.points_of_a_survey else 1
        state = (finer, self.scene.field.state_stamp(), tensors_stamp(self.occupancy.buffers()))
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self.occupancy.for_images(self.scene.field, finer)
        return self._kept[1]

    def _march(
        self, rays: _Rays, generator: Generator | None, taken: SampleShares | None, termination: float
    ) -> PackedSamples:
        steps = self.config.samples_per_ray
        return march(rays.origins, rays.directions, self.scene.radius, steps, taken, generator, termination)

    def _summed(
        self,
        rays: _Rays,
        samples: PackedSamples,
        positions: Float[Tensor, "n 3"],
        albedo: Float[Tensor, "n 3"],
        weights: Float[Tensor, " n"],
        shading: ShadingSample,
        with_normals: bool,
    ) -> _Seen:
        """Samples lit and added up along their rays."""
        normals, rgb = None, albedo
        if with_normals or shading.needs_normals:
            # Of a sample that stands for several, one of them decides.
            each = weights if samples.counts is None else weights / samples.counts
            normals = self._normals(positions, rays.directions.index_select(0, samples.ray_indices), each)
        if normals is not None and rays.lights is not None:
            light = rays.lights.index_select(0, samples.ray_indices)
            textureless = shading.kind == "textureless"
            rgb = shade(rgb, normals, positions, light, shading.ambient, shading.diffuse, textureless)
        columns = [rgb, torch.ones_like(weights)[:, None], samples.t_mids[:, None]]
        values = torch.cat(columns if normals is None else [*columns, normals], dim=-1)
        sums = accumulate(weights, values, samples.ray_indices, samples.n_rays)
        return _Seen(sums[:, :5], None if normals is None else sums[:, 5:], sample_normals=normals)

    def _normals(
        self, positions: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"], weights: Float[Tensor, " n"]
    ) -> Float[Tensor, "n 3"]:
        """Normals of the samples that matter; the others face the camera."""
        if self.scene.normals_config.kind == "none":
            raise ConfigError(
                "scene.normals.kind is none, but normals are needed",
                expected="analytic or finite_difference for lambertian and textureless shading and normal maps",
                hint="set scene.normals.kind=finite_difference, or rendering.shading.shaded_probability=0",
            )
        least = _MIN_WEIGHT_FOR_NORMALS * min(1.0, _SAMPLES_OF_THAT_WEIGHT / self.config.samples_per_ray)
        matter = (weights.detach() >= least).nonzero()[:, 0]
        if len(matter) == 0:
            return -rays_d
        found = self._dense_normals(positions.index_select(0, matter))
        return (-rays_d).index_copy(0, matter, found)


def _developed(
    seen: _Seen,
    rays_d: Float[Tensor, "b h w 3"],
    forward: Float[Tensor, "b 3"],
    background: Float[Tensor, "b h w 3"],
) -> RenderOutput:
    """The pictures that the sums along rays make."""
    sums = seen.sums.view(*rays_d.shape[:3], 5)
    foreground, opacity = sums[..., :3], sums[..., 3]
    # Below _TINY the mean fades to 0 instead of dividing by nothing.
    distance = sums[..., 4] / opacity.clamp(min=_TINY)
    normals = None
    if seen.normals is not None:
        summed = seen.normals.view(rays_d.shape)
        normals = summed / summed.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    return RenderOutput(
        rgb=foreground + (1.0 - opacity)[..., None] * background,
        foreground_rgb=foreground,
        opacity=opacity,
        distance=distance,
        depth=distance * (rays_d * forward[:, None, None, :]).sum(dim=-1),
        background=background,
        normals=normals,
        rays_d=rays_d,
        samples=seen.samples,
        weights=seen.weights,
        sigmas=seen.sigmas,
        sample_normals=seen.sample_normals,
    )


def _joined(parts: list[RenderOutput], dim: int) -> RenderOutput:
    """Pictures put together along rows (1) or views (0)."""
    joined = {}
    for field in fields(RenderOutput):
        tensors = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if tensors[0] is None else torch.cat(tensors, dim=dim)
    return RenderOutput(**joined)
