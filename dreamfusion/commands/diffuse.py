"""`dreamfusion diffuse`: the method in one picture. A picture, its noised versions, and what the frozen model says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.assets.files import STILLS, choose_format
from dreamfusion.commands.finished import check_folder, check_writable_file, find_run, load_view
from dreamfusion.commands.lists import numbers
from dreamfusion.commands.own_files import changed_guidance, check_own_files
from dreamfusion.commands.prompts import check_prompt, tell_unknown_words
from dreamfusion.commands.render import MAX_TURN_DEG
from dreamfusion.config import LARGEST, ExperimentConfig, GuidanceConfig
from dreamfusion.config_files import load_config
from dreamfusion.errors import ConfigError, RunNotFoundError
from dreamfusion.progress import busy, notice, result
from dreamfusion.runs.directory import RunDirectory

COLUMNS = ("noised", "predicted noise", "predicted clean", "SDS gradient")
SIDE = 128
USED = (
    "single_file_config", "loras", "embeddings", "negative_prompt", "image_size", "dtype", "slices", "weighting",
    "view_prompts",
)  # fmt: skip
"""What `--set guidance.KEY` can change here."""


@dataclass(frozen=True)
class DiffuseRequest:
    """What the user asked for; see `dreamfusion diffuse --help`.

    `guidance` has the model, what is added to it and the guidance scale, by dotted config keys as in `train`; None values
    are left out.
    """

    source: str
    prompt: str | None
    timesteps: str
    seed: int
    guidance: Mapping[str, Any]
    overrides: tuple[str, ...]
    azimuth_deg: float
    elevation_deg: float
    runs: Path
    output: Path | None


def diffuse(request: DiffuseRequest, device: str) -> None:
    """Write the sheet and say where it is, with the norm of the pull at each timestep.

    Raises:
        DreamfusionError: the source is neither picture nor run, no prompt, or of the kinds of models and outputs.
    """
    fractions = numbers("--timesteps", request.timesteps, 0, 1, example="0.1,0.5")
    _check_numbers(request)
    picture = Path(request.source).expanduser()
    run = None if picture.is_file() else _run(request)
    base = _as_in_training(request.guidance.get("guidance.model")) if run is None else run.config()
    config = changed_guidance(base, request.overrides, dict(request.guidance), USED, "diffuse")
    prompt = check_prompt(_prompt(request, run), "say what the picture shows: --prompt 'a red mushroom'")
    path = request.output or (Path("outputs") / "diffused" / f"{picture.stem}.png" if run is None else
                              run.path / "diffused.png")  # fmt: skip
    check_writable_file(path)
    choose_format(path, None, STILLS)
    from dreamfusion.guidance.models import find_model

    find_model(config.model, True, config.single_file_config)
    tell_unknown_words(prompt, config.model, own=check_own_files(config))
    image = _read(picture) if run is None else _render(request, run, device)
    _note_what_is_plain(config)
    sheet, norms = _explain(request, config, prompt, image, fractions, device)
    from dreamfusion.assets.images import write_image

    check_folder(path)
    write_image(sheet, path)
    told = ", ".join(f"t {step}: {norm:.3g}" for step, norm in norms.items())
    result(
        f"{path}  norm of the gradient at {told}",
        event="diffuse",
        path=path,
        text=prompt,
        model=config.model,
        loras=[lora.model_dump() for lora in config.loras],
        embeddings=[embedding.model_dump() for embedding in config.embeddings],
        negative_prompt=config.negative_prompt,
        guidance_scale=config.guidance_scale,
        gradient_norms=norms,
    )


def _note_what_is_plain(config: GuidanceConfig) -> None:
    """A run's own objective may add terms that one prediction per noise level does not have."""
    plain = GuidanceConfig()
    added = {
        "objective": config.objective != plain.objective,
        "perp_neg": config.perp_neg,
        "guidance_rescale": config.guidance_rescale != plain.guidance_rescale,
    }
    keys = [key for key, is_added in added.items() if is_added]
    if keys:
        names = ", ".join(f"guidance.{key}" for key in keys)
        notice(f"the sheet shows plain score distillation, without this run's {names}")


def _run(request: DiffuseRequest) -> RunDirectory:
    try:
        return find_run(request.source, request.runs)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"{request.source} is neither a picture's file nor a run in {request.runs}", hint=error.hint
        ) from error


def _as_in_training(model: str | None) -> ExperimentConfig:
    """Scale, weighting and view words that training with such a model would take."""
    preset = "miniature" if model in (None, "miniature") else "stable-diffusion"
    return load_config(preset, (), {"prompt": "any"})


def _prompt(request: DiffuseRequest, run: RunDirectory | None) -> str:
    if request.prompt is not None or run is None:
        return request.prompt or ""
    return run.config().prompt


def _check_numbers(request: DiffuseRequest) -> None:
    for option, value, largest in (
        ("--guidance-scale", request.guidance.get("guidance.guidance_scale"), LARGEST),
        ("--azimuth-deg", request.azimuth_deg, MAX_TURN_DEG),
        ("--elevation-deg", request.elevation_deg, 90),
    ):
        if value is not None and not abs(value) <= largest:
            raise ConfigError(option, expected=f"a number from -{largest:g} to {largest:g}", got=str(value))


def _read(path: Path) -> Any:
    """The middle square of a picture, sRGB, over white where it is transparent, turned as the file says."""
    import numpy as np
    import torch

    from dreamfusion.image_files import read_image

    pixels = read_image(path, ConfigError, upright=True).astype(np.float32) / 255.0
    rgb = pixels[..., :3] * pixels[..., 3:] + 1.0 - pixels[..., 3:]
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return torch.from_numpy(rgb[top : top + side, left : left + side].copy())


def _render(request: DiffuseRequest, run: Any, device: str) -> Any:
    from dreamfusion.cameras import orbit_cameras

    renderer, _ = load_view(run, device)
    cameras = run.config().cameras
    distance, fovy_deg = sum(cameras.distance) / 2, sum(cameras.fovy_deg) / 2
    side = cameras.resolution.largest
    seen = orbit_cameras(request.azimuth_deg, request.elevation_deg, distance, fovy_deg, side)
    return renderer.render_image(seen.to(next(renderer.scene.parameters()).device)).rgb[0].clamp(0, 1)


def _explain(
    request: DiffuseRequest,
    config: GuidanceConfig,
    prompt: str,
    image: Any,
    fractions: list[float],
    device: str,
) -> tuple[Any, dict[int, float]]:
    """The sheet, and the pull's norm by timestep."""
    with busy(f"loading {config.model}"):
        import numpy as np
        import torch

        from dreamfusion.assets.sheets import cell, labelled_sheet
        from dreamfusion.doctor import choose_device
        from dreamfusion.guidance.diffuse import diffuse
        from dreamfusion.guidance.factory import make_guidance

        guidance = make_guidance(config, prompt, choose_device(device))
        levels = diffuse(
            guidance,
            image,
            fractions,
            torch.Generator().manual_seed(request.seed),
            request.azimuth_deg,
            request.elevation_deg,
        )

    strongest = max(float(level.gradient.norm(dim=0).max()) for level in levels)
    white = torch.ones(1, 1, 3)
    rows = [[cell(image, SIDE), *[cell(white, SIDE)] * 3]]
    for level in levels:
        # Latents have no colours: three of their channels, three standard deviations to either side of grey.
        noise = (level.predicted_noise[:3].permute(1, 2, 0) / 6 + 0.5).clamp(0, 1)
        pull = (level.gradient.norm(dim=0) / max(strongest, 1e-12))[..., None].expand(-1, -1, 3)
        rows.append([
            cell(level.noisy, SIDE), cell(noise, SIDE, smooth=False),
            cell(level.clean, SIDE), cell(pull, SIDE, smooth=False),
        ])  # fmt: skip
    labels = ["picture", *(f"t = {level.timestep}" for level in levels)]
    sheet = labelled_sheet(np.stack([np.stack(row) for row in rows]), labels, COLUMNS)
    return sheet, {level.timestep: round(float(level.gradient.norm()), 4) for level in levels}
