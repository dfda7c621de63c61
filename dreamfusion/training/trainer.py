"""One training step after another: cameras -> render -> guidance -> losses -> optimiser (DreamFusion, arXiv 2209.14988, fig. 3).

Where the configuration has `data`, photographs take the guidance's place: they choose the cameras, and they pull.

The trainer knows no files and draws no progress bar: whoever runs it does (`dreamfusion.runs.session`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from dreamfusion.cameras import Cameras, random_cameras
from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CheckpointCorruptError, CollapseError, ConfigError, OutOfMemoryError
from dreamfusion.rendering.rays import intersect_ball
from dreamfusion.rendering.renderer import Renderer, RenderOutput
from dreamfusion.rendering.shading import ShadingSample, lights_outside, sample_shading
from dreamfusion.scene.scene import make_scene
from dreamfusion.training.collapse import CollapseWatch, check_parameters
from dreamfusion.training.devices import peak_memory_bytes, synchronize
from dreamfusion.training.losses import needs_normals, total_loss, weighted_losses
from dreamfusion.training.memory import is_out_of_memory, release, rungs
from dreamfusion.training.optimizer import SceneOptimizer
from dreamfusion.training.photographs import Photographs, PhotometricPull
from dreamfusion.training.previews import png_bytes, preview_cameras, preview_strip
from dreamfusion.training.randomness import (
    generator_states,
    make_generators,
    restore_generators,
)

T = TypeVar("T")
OUTCOME_SIZE = 16
"""Pixels a side of the renders that a finished run is checked by."""


@runtime_checkable
class GuidanceResult(Protocol):
    """What a guidance answers with."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Differentiable; its value means nothing."""
        ...

    @property
    def gradient_norm(self) -> float:
        """Norm of the pull on the image or its latents."""
        ...

    @property
    def timesteps(self) -> Int[Tensor, " b"]:
        """The diffusion indices that were drawn."""
        ...


@runtime_checkable
class Guidance(Protocol):
    """Anything that pulls images towards a text; `DiffusionGuidance` is one, a test's oracle another.

    One with an attribute `copies` is given each view so many times, over a new background each time: all views, then
    all again. Azimuths and elevations are those of the views, once.
    """

    def __call__(
        self,
        images: Float[Tensor, "b h w 3"],
        azimuth_deg: Float[Tensor, " b"],
        elevation_deg: Float[Tensor, " b"],
        step: int,
        noise_generator: Generator,
        timestep_generator: Generator,
    ) -> GuidanceResult: ...


@dataclass(frozen=True)
class StepCost:
    """What a step took. All of it depends on the machine; two equal runs differ here and only here.

    Attributes:
        seconds: by part: render, guidance, backward, optimizer.
        steps_per_second: of this step alone.
        peak_memory_mb: so far; None where the system does not tell.
    """

    seconds: dict[str, float]
    steps_per_second: float
    peak_memory_mb: float | None


@dataclass(frozen=True)
class StepMetrics:
    """What one step did. Score distillation's loss is not here: it has no meaning.

    Attributes:
        step: steps done, this one included.
        sds_gradient_norm: the guidance's pull.
        opacity: mean over the image, 0 .. 1.
        ball_opacity: mean over the rays that pass the scene's ball, 0 .. 1; what the watchdog looks at.
        gradient_norm: of all parameters together, before clipping.
        learning_rate: the field's.
        timesteps: diffusion indices, one a view.
        shading: kind.
        losses: value of each further loss in use, before its weight; of photographs the squared error and its `psnr` in dB.
        skipped: whether this step was not taken because a gradient was not finite.
        skipped_steps: how many such steps there were.
        cost: time and memory.
    """

    step: int
    sds_gradient_norm: float
    opacity: float
    ball_opacity: float
    gradient_norm: float
    learning_rate: float
    timesteps: list[int]
    shading: str
    losses: dict[str, float]
    skipped: bool
    skipped_steps: int
    cost: StepCost

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-able dictionaries."""
        return asdict(self)


class _Stopwatch:
    """Seconds by part; waits for the device at the end of each."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[part] = now - self.last
        self.last = now


class Trainer:
    """A scene being optimised under a guidance.

    Args:
        config: the whole experiment.
        device: where scene and rendering are computed.
        guidance: what pulls; by default the diffusion model's or CLIP's, from `config.guidance`, `config.clip` and
            `config.prompt`.
        photographs: what pulls instead; by default those of `config.data`, if it names any.

    Attributes:
        scene, renderer, and guidance or photographs: the three that this class joins.
        step: optimiser iterations done, also those whose step was skipped.
        skipped_steps: how many were skipped.

    Raises:
        ConfigError: normals are wanted and switched off; and what the guidance or the dataset raises.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        device: torch.device | str = "cpu",
        guidance: Guidance | None = None,
        photographs: Photographs | None = None,
    ) -> None:
        check_normals(config)
        self.config, self.device = config, torch.device(device)
        self.generators = make_generators(config.seed)
        self.photographs = photographs or _photographs(config)
        if self.photographs is None and guidance is None:
            guidance = _text_guidance(config, self.device)
        self.guidance = guidance
        self.scene = make_scene(config.scene, self.generators["init"]).to(self.device)
        self.renderer = Renderer(self.scene, config.rendering).to(self.device)
        self.optimizer = SceneOptimizer(self.scene, config.optimizer)
        self.watch = CollapseWatch(config.training)
        self.notices: list[str] = []
        self.step = self.skipped_steps = 0
        self.centre = [0.0, 0.0, 0.0]

    def train_step(self) -> StepMetrics:
        """Take one optimiser step, or skip it if its gradients are not finite.

        Where memory runs out, something is given up (`dreamfusion.training.memory`), said in `notices`, and the step is
        taken again with the same draws.

        Raises:
            CollapseError: the scene can no longer become an object; the step counts as done.
            OutOfMemoryError: there is nothing left to give up.
        """
        watch = _Stopwatch(self.device)
        self.scene.set_step(self.step)
        # Apart from the rest, which is taken again without it: a second look would age the grid twice.
        self._retried(lambda: self.renderer.update_occupancy(self.step, self.generators["occupancy"]))
        return self._retried(lambda: self._train_step(watch))

    def _retried(self, part: Callable[[], T]) -> T:
        while True:
            states = generator_states(self.generators)
            try:
                return part()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Here, not in the handler: there the error still holds the step's tensors.
            self.optimizer.zero_grad()
            release(self.device)
            restore_generators(self.generators, states)
            self._give_up_something()

    def _give_up_something(self) -> None:
        size = getattr(self.guidance, "image_size", None)
        step = next(rungs(self.config, size), None)
        if step is None:
            raise OutOfMemoryError(
                f"out of memory at step {self.step}, and nothing is left to give up",
                hint="take a smaller model or a smaller cameras.resolution, then `dreamfusion resume`",
            )
        text, self.config = step
        self.renderer.config = self.config.rendering
        if size is not None and self.guidance is not None:
            reconfigure: Callable[..., None] = self.guidance.reconfigure  # pyright: ignore[reportAttributeAccessIssue]
            reconfigure(self.config.guidance)
        self.notices.append(f"out of memory at step {self.step}: going on with {text}")

    def _train_step(self, watch: _Stopwatch) -> StepMetrics:
        step = self.step
        cameras, pixels = self._views()
        shading = self._shading(cameras)
        output = self._render(cameras, shading)
        watch.lap("render")
        pull = self._pull(output, cameras, pixels)
        watch.lap("guidance")
        weighted = weighted_losses(self.config.losses, output, cameras.c2w, step)
        self.optimizer.zero_grad()
        total_loss(pull.loss, weighted).backward()
        watch.lap("backward")
        taken, gradient_norm = self.optimizer.apply(step)
        watch.lap("optimizer")

        self._track_centre(output, cameras)
        self.step += 1
        self.skipped_steps += not taken
        opacity, ball_opacity = _mean_opacities(output, cameras, self.scene.radius)
        # Photographs of a room fill the ball, and rightly.
        solid_is_wrong = self.photographs is None
        self.watch.observe(
            self.step, ball_opacity if solid_is_wrong else min(ball_opacity, 0.5), skipped=not taken
        )
        return StepMetrics(
            step=self.step,
            sds_gradient_norm=pull.gradient_norm,
            opacity=opacity,
            ball_opacity=ball_opacity,
            gradient_norm=gradient_norm,
            learning_rate=self.optimizer.learning_rate(step),
            timesteps=pull.timesteps.tolist(),
            shading=shading.kind,
            losses={name: loss.item() for name, (_, loss) in weighted.items()}
            | (pull.losses if isinstance(pull, PhotometricPull) else {}),
            skipped=not taken,
            skipped_steps=self.skipped_steps,
            cost=_cost(watch),
        )

    @torch.no_grad()
    def _track_centre(self, output: RenderOutput, cameras: Cameras) -> None:
        """Follow the middle of what is seen, so that an object that grows to one side stays in the pictures (Dream Fields)."""
        memory = self.config.cameras.track_centre
        if not memory or output.samples is None or output.weights is None:
            return
        rays_o = cameras.positions[:, None, None, :].expand_as(output.rays_d).reshape(-1, 3)
        positions = output.samples.positions(rays_o, output.rays_d.reshape(-1, 3))
        total = output.weights.sum()
        if total.item() > 1.0:  # less than one opaque pixel says nothing
            middle = (output.weights[:, None] * positions).sum(dim=0) / total
            self.centre = [
                memory * old + (1 - memory) * new
                for old, new in zip(self.centre, middle.tolist(), strict=True)
            ]

    def _views(self) -> tuple[Cameras, Float[Tensor, "rays 1 1 4"] | None]:
        """Where this step looks from, and what was photographed there, if anything was."""
        generator = self.generators["cameras"]
        if self.photographs is None:
            side = self.config.cameras.resolution.at(self.step)
            cameras = random_cameras(self.config.cameras, generator, resolution=side)
            if self.config.cameras.track_centre:
                cameras.c2w[:, :3, 3] += torch.tensor(self.centre)
            return cameras.to(self.device), None
        cameras, pixels = self.photographs.draw(generator)
        return cameras.to(self.device), pixels

    def _shading(self, cameras: Cameras) -> ShadingSample:
        """How this step is lit, by lights that nothing solid hides."""
        config = self.config.rendering.shading
        shading = sample_shading(config, cameras, self.step, self.generators["shading"])
        if shading.light_position is None:
            return shading
        lights = lights_outside(shading.light_position, self.scene.field.density, self.scene.radius)
        return replace(shading, light_position=lights)

    def _pull(
        self, output: RenderOutput, cameras: Cameras, pixels: Float[Tensor, "rays 1 1 4"] | None
    ) -> GuidanceResult | PhotometricPull:
        if self.photographs is not None and pixels is not None:
            return self.photographs.pull(output, pixels)
        assert self.guidance is not None
        return self.guidance(
            self._pictures(output),
            cameras.azimuth_deg,
            cameras.elevation_deg,
            self.step,
            self.generators["noise"],
            self.generators["timesteps"],
        )

    def _pictures(self, output: RenderOutput) -> Float[Tensor, "n h w 3"]:
        """The views; for a guidance that asks for `copies` of each, further ones behind them, over backgrounds of their own."""
        further = getattr(self.guidance, "copies", 1) - 1
        if further == 0:
            return output.rgb
        drawn = self.scene.background(output.rays_d.repeat(further, 1, 1, 1), self.generators["background"])
        return torch.cat([output.rgb, output.over(drawn)])

    def _render(self, cameras: Cameras, shading: ShadingSample) -> RenderOutput:
        return self.renderer.render(
            cameras,
            shading,
            rays_generator=self.generators["rays"],
            background_generator=self.generators["background"],
            with_normals=needs_normals(self.config.losses, self.step),
        )

    def check_scene(self) -> None:
        """See that the scene's parameters are finite; CollapseError if not."""
        check_parameters(self.scene.named_parameters(), self.step)

    def check_outcome(self) -> None:
        """Look at what the run has come to at its end: the scene, its renders, and how many steps were taken.

        Raises:
            CollapseError: it is nothing that deserves to be called finished.
        """
        self.check_scene()
        self.watch.check_outcome(self.step, self.skipped_steps)
        self.scene.set_step(self.step)
        cameras = preview_cameras(self.config.cameras, OUTCOME_SIZE).to(self.device)
        check_parameters([("a render", self.renderer.render_image(cameras).rgb)], self.step)

    def preview_png(self) -> bytes:
        """Front, side, back and overhead as a PNG file; changes nothing and draws no random number."""
        self.scene.set_step(self.step)
        cameras = preview_cameras(self.config.cameras, self.config.training.preview_size).to(self.device)
        return png_bytes(preview_strip(self.renderer, cameras))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on: tensors by name, on the CPU, and a JSON-able rest."""
        parts = {
            "scene": self.scene.state_dict(),
            "renderer": self.renderer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": generator_states(self.generators),
        }
        tensors = {
            f"{part}.{name}": value.detach().to("cpu", copy=True).contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        return tensors, {
            "step": self.step,
            "skipped_steps": self.skipped_steps,
            "watch": self.watch.state_dict(),
            "centre": self.centre,
        }

    def load_state_dict(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; the next step is then the one that would have followed.

        Raises:
            CheckpointCorruptError: it does not fit this trainer's configuration.
        """
        try:
            restore_renderer(self.renderer, tensors, meta)
            self.optimizer.load_state_dict(_part(tensors, "optimizer"))
            restore_generators(self.generators, _part(tensors, "generator"))
            self.watch.load_state_dict(meta["watch"])
            self.centre = [float(value) for value in meta.get("centre", self.centre)]
            self.step, self.skipped_steps = int(meta["step"]), int(meta["skipped_steps"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise _does_not_fit(error) from error


def restore_renderer(renderer: Renderer, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Put a checkpoint's scene and occupancy grid into `renderer`.

    Raises:
        CheckpointCorruptError: they do not fit its configuration.
    """
    try:
        renderer.scene.load_state_dict(_part(tensors, "scene"))
        renderer.load_state_dict(_part(tensors, "renderer"))
        renderer.scene.set_step(int(meta["step"]))
        check_parameters(renderer.scene.named_parameters(), int(meta["step"]))
    except CollapseError as error:
        raise CheckpointCorruptError(
            error.what, expected=error.expected, got=error.got, hint=error.hint
        ) from error
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _does_not_fit(error) from error


def load_renderer(
    config: ExperimentConfig,
    tensors: dict[str, Tensor],
    meta: dict[str, Any],
    device: torch.device | str = "cpu",
) -> Renderer:
    """The scene and renderer of a checkpoint, ready for pictures and meshes; no guidance is loaded.

    Raises:
        CheckpointCorruptError: the checkpoint does not fit `config`.
    """
    scene = make_scene(config.scene, make_generators(config.seed)["init"])
    renderer = Renderer(scene, config.rendering)
    restore_renderer(renderer, tensors, meta)
    scene.to(device)
    return renderer.to(device)


def fits(config: ExperimentConfig, tensors: dict[str, Tensor], meta: dict[str, Any]) -> bool:
    """Whether a run of that configuration could resume from such a checkpoint; loads no guidance and no dataset."""

    def no_guidance(*_: object, **__: object) -> Any:
        raise NotImplementedError

    trainer = Trainer(config.model_copy(update={"data": None}), guidance=no_guidance)
    try:
        trainer.load_state_dict(tensors, meta)
    except CheckpointCorruptError:
        return False
    return True


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")
    }


def _does_not_fit(error: Exception) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        "the checkpoint does not fit the run's configuration",
        got=" ".join(str(error).split())[:300],
        hint="restore the run's config.yaml, or start a new run with `dreamfusion train`",
    )


def check_normals(config: ExperimentConfig) -> None:
    """Say at the start what would stop the run after an hour."""
    if config.scene.normals.kind != "none":
        return
    steps = config.training.steps
    looking = {"orientation": config.losses.orientation, "convexity": config.losses.convexity}
    asked = [name for name, loss in looking.items() if loss.acts_within(steps)]
    if asked:
        wanted, hint = f"losses.{asked[0]}", "set it to 0"
    elif config.rendering.shading.albedo_steps < steps and config.rendering.shading.shaded_probability > 0:
        wanted, hint = "rendering.shading", "set rendering.shading.shaded_probability=0"
    else:
        return
    raise ConfigError(
        f"{wanted} needs normals",
        expected="scene.normals.kind analytic or finite_difference",
        got="none",
        hint=f"{hint}, or choose one of these",
    )


def _text_guidance(config: ExperimentConfig, device: torch.device) -> Guidance:
    # diffusers takes seconds to import; whoever brings a guidance need not wait for it.
    from dreamfusion.guidance.clip_guidance import make_text_guidance

    make: Callable[..., Guidance] = make_text_guidance
    return make(config, device)


def _photographs(config: ExperimentConfig) -> Photographs | None:
    if config.data is None:
        return None
    from dreamfusion.posed_images.dataset import read_dataset

    return Photographs(read_dataset(config.data), config.data.rays_per_step)


@torch.no_grad()
def _mean_opacities(output: RenderOutput, cameras: Cameras, radius: float) -> tuple[float, float]:
    """Mean opacity of the image, and of the rays that pass the ball (0 if none does)."""
    rays_o = cameras.positions[:, None, None, :].expand_as(output.rays_d)
    t_near, t_far = intersect_ball(rays_o.reshape(-1, 3), output.rays_d.reshape(-1, 3), radius)
    through = (t_far > t_near).to(output.opacity.dtype)
    opacity = output.opacity.detach().flatten()
    mean = torch.stack([opacity.mean(), (opacity * through).sum() / through.sum().clamp(min=1.0)])
    return mean[0].item(), mean[1].item()


def _cost(watch: _Stopwatch) -> StepCost:
    peak = peak_memory_bytes(watch.device)
    return StepCost(
        seconds=watch.seconds,
        steps_per_second=1.0 / max(sum(watch.seconds.values()), 1e-9),
        peak_memory_mb=None if peak is None else peak / 2**20,
    )
