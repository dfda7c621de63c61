"""`dreamfusion sample`: what the frozen model itself draws for a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.commands.finished import check_writable_file
from dreamfusion.commands.prompts import check_prompt, tell_unknown_words
from dreamfusion.config import GuidanceConfig
from dreamfusion.progress import Bar, busy, result


@dataclass(frozen=True)
class SampleRequest:
    """What the user asked for; see `dreamfusion sample --help`."""

    prompt: str
    view: str | None
    count: int
    steps: int
    guidance_scale: float
    seed: int
    model: str
    output: Path | None


def sample(request: SampleRequest, device: str) -> None:
    """Draw the images on one sheet, and say where it is.

    Raises:
        PromptError, ModelNotFoundError, ModelUnsupportedError, DeviceError, OutputError.
    """
    prompt = check_prompt(request.prompt)
    from dreamfusion.guidance.models import find_model
    from dreamfusion.runs.directory import slug

    find_model(request.model, probe_hub=True)
    tell_unknown_words(prompt, request.model)
    name = f"{slug(prompt)}{'' if request.view is None else '-' + request.view}.png"
    path = request.output or Path("outputs") / "samples" / name
    check_writable_file(path)
    sheet, text = _draw(request, prompt, device)
    from dreamfusion.assets.images import write_image

    path = write_image(sheet, path)
    result(
        f"{path}  {request.count} images of '{text}'",
        event="sample",
        path=path,
        text=text,
        model=request.model,
        count=request.count,
        seed=request.seed,
    )


def _draw(request: SampleRequest, prompt: str, device: str) -> tuple[Any, str]:
    """The sheet's pixels and the text that was sampled."""
    from dreamfusion.doctor import choose_device

    with busy(f"loading {request.model}"):
        chosen = choose_device(device)
        import torch

        from dreamfusion.assets.images import contact_sheet, to_uint8
        from dreamfusion.guidance.factory import make_guidance
        from dreamfusion.guidance.prompts import ViewPrompts

        config = GuidanceConfig(model=request.model)
        text = (
            prompt if request.view is None else ViewPrompts(prompt, config.view_prompts).texts()[request.view]
        )
        guidance = make_guidance(config, prompt, chosen)
    with Bar("sampling", unit="step") as bar:
        images = guidance.sample(
            text,
            request.count,
            request.steps,
            request.guidance_scale,
            torch.Generator().manual_seed(request.seed),
            on_step=lambda done: bar(done, request.steps),
        )
    columns = min(request.count, 4)
    return contact_sheet(to_uint8(images), columns), text
