"""Each guidance option against its closed form, with exact denoisers of point masses, or against a reference.

The exact denoiser of a single point x is eps(z_t) = (z_t - sqrt(abar) x) / sqrt(1 - abar).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from pydantic import ValidationError
from torch import Tensor

from dreamfusion.config import GuidanceConfig, ViewPromptConfig
from dreamfusion.guidance import sds
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.prompts import ViewPrompts
from dreamfusion.guidance.sds import (
    classifier_score_distillation,
    distil,
    guided_output,
    inverted_noise,
    perp_neg_output,
    perpendicular,
    rescaled_output,
)

SHAPE = (3, 4, 2, 2)
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Points:
    """The exact denoiser of several point masses; the embedding says which, by its index."""

    def __init__(self, count: int, prediction_type: str = "epsilon") -> None:
        options: Any = {"prediction_type": prediction_type, **BETAS}
        self.schedule = NoiseSchedule.from_scheduler(DDIMScheduler(**options))
        self.points = [draw(index) for index in range(count)]
        self.texts = [torch.full((3, 1, 1), float(index), dtype=torch.float64) for index in range(count)]
        self.rows: list[int] = []

    def __call__(self, noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        self.rows.append(len(noisy))
        which = texts.flatten().long().tolist()
        x = torch.stack([self.points[index][row % 3] for row, index in enumerate(which)])
        abar = self.schedule.alphas_cumprod[timesteps][:, None, None, None]
        eps = (noisy - abar.sqrt() * x) / (1 - abar).sqrt()
        if self.schedule.prediction_type == "epsilon":
            return eps
        return abar.sqrt() * eps - (1 - abar).sqrt() * x


TIMESTEPS = torch.tensor([20, 500, 980])


def factors(points: Points, timesteps: Tensor = TIMESTEPS) -> tuple[Tensor, Tensor]:
    """w(t) = 1 - abar, and sqrt(abar / (1 - abar)), of each row."""
    abar = points.schedule.alphas_cumprod[timesteps][:, None, None, None]
    return 1 - abar, (abar / (1 - abar)).sqrt()


# --------------------------------------------------------------------------------------------------- Perp-Neg


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_perp_neg_has_its_closed_form(prediction_type: str):
    exact = Points(4, prediction_type)
    uncond, wanted, first, second = exact.texts
    coefficients = torch.tensor([[-1.5, 0.0], [-0.3, -0.7], [0.0, 0.0]], dtype=torch.float64)

    def prediction(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return perp_neg_output(exact, noisy, timesteps, uncond, wanted, (first, second), coefficients, 7.5)

    z = draw(30)
    got = distil(prediction, exact.schedule, z, draw(31), TIMESTEPS, "sigma2")
    assert exact.rows == [12]  # four rows a view, in one call
    x_u, x_p, *others = exact.points
    p = x_u - x_p  # in units of sqrt(abar / (1 - abar)) every difference of predictions is one of points
    direction = p.clone()
    for x_n, c in zip(others, coefficients.T, strict=True):
        n = x_u - x_n
        dots, squares = (n * p).flatten(1).sum(1), (p * p).flatten(1).sum(1)
        direction += c.view(-1, 1, 1, 1) * (n - (dots / squares).view(-1, 1, 1, 1) * p)
    w, ratio = factors(exact)
    torch.testing.assert_close(got, w * ratio * ((z - x_u) + 7.5 * direction), rtol=1e-8, atol=1e-8)


def test_perp_neg_is_rescaled_to_the_spread_of_the_text_that_is_wanted():
    exact = Points(4)
    uncond, wanted, first, second = exact.texts
    args = (exact, draw(5), TIMESTEPS, uncond, wanted, (first, second), -torch.ones(3, 2), 7.5)
    plain, got = perp_neg_output(*args), perp_neg_output(*args, rescale=0.7)
    conditional = exact(draw(5), TIMESTEPS, wanted)
    torch.testing.assert_close(got, rescale_noise_cfg(plain, conditional, guidance_rescale=0.7))


def test_the_projection_is_perpendicular_and_safe_where_there_is_nothing_to_project_on():
    a, b = draw(1), draw(2)
    across = perpendicular(a, b)
    torch.testing.assert_close(
        (across * b).flatten(1).sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert torch.equal(perpendicular(a, torch.zeros_like(a)), a)
    tiny = (b * 1e-12).float()
    assert ((perpendicular(a.float(), tiny) * tiny).flatten(1).sum(1) / tiny.norm()).abs().max() < 1e-5
    torch.testing.assert_close(perpendicular(b * 3, b), torch.zeros_like(b), atol=1e-14, rtol=0)


def decay(a: float, c: float, r: float) -> float:
    return a * math.exp(-0.5 * r) + c


def test_perp_negs_texts_follow_the_camera():
    prompts = ViewPrompts("a duck", ViewPromptConfig(rule="nearest"))
    azimuth = torch.tensor([0.0, -45.0, 90.0, 135.0, -180.0, 10.0])
    elevation = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 80.0])
    wanted, (first, second), coefficients = prompts.perp_neg(azimuth, elevation)
    front, side, back, overhead = torch.eye(4)
    expected = torch.stack([front, (front + side) / 2, side, (side + back) / 2, back, overhead])
    torch.testing.assert_close(wanted, expected)
    assert torch.equal(first, torch.stack([front, front, side, side, side, front]))
    assert torch.equal(second, torch.stack([side, side, front, front, front, side]))
    fs, sb, fsb = (4.0, -2.426), (1.0, -0.606), (1.0, 0.967)
    weights = [
        [decay(*fs, 1.0), decay(*fs, 0.0)],
        [decay(*fs, 0.5), decay(*fs, 0.5)],
        [decay(*sb, 1.0), decay(*fsb, 1.0)],
        [decay(*sb, 0.5), decay(*fsb, 0.5)],
        [decay(*sb, 0.0), decay(*fsb, 0.0)],
        [0.0, 0.0],
    ]
    torch.testing.assert_close(coefficients, -torch.tensor(weights).clamp(min=0), atol=1e-5, rtol=1e-5)
    # Nobody jumps at the side: front is pushed away as much from one side of it as from the other.
    _, _, before = prompts.perp_neg(torch.tensor([89.999]), torch.tensor([0.0]))
    torch.testing.assert_close(before[0].flip(0)[1], coefficients[2, 1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rule", ["nearest", "interpolate"])
def test_perp_neg_tells_the_sides_apart_where_the_texts_do(rule: Literal["nearest", "interpolate"]):
    plain, split = (
        ViewPrompts("a duck", ViewPromptConfig(rule=rule, split_sides=sides)) for sides in (False, True)
    )
    azimuth, elevation = torch.tensor([60.0, -60.0, 100.0, -100.0, 0.0]), torch.zeros(5)
    expected, expected_others, coefficients = plain.perp_neg(azimuth, elevation)
    wanted, others, same = split.perp_neg(azimuth, elevation)
    assert torch.equal(same, coefficients)
    left, right = split.views.index("left"), split.views.index("right")
    for rows, plain_rows in zip((wanted, *others), (expected, *expected_others), strict=True):
        torch.testing.assert_close(rows[:, left] + rows[:, right], plain_rows[:, 1])
        assert not rows[azimuth < 0, left].any() and not rows[azimuth > 0, right].any()
        torch.testing.assert_close(rows[:, [0, right + 1]], plain_rows[:, [0, 2]])


def test_perp_neg_takes_the_cameras_texts(tiny_sd1: Path):
    config = GuidanceConfig.model_validate({"model": str(tiny_sd1), "dtype": "float32", "perp_neg": True})
    guidance = make_guidance(config, "a duck")
    latents, noise, t = draw(1, 1, 4, 8, 8).float(), draw(2, 1, 4, 8, 8).float(), torch.tensor([500])
    front, side, null = guidance.encode_texts(["a duck, front view", "a duck, side view", ""]).split(1)
    texts = guidance.encode_texts(["a duck, front view", "a duck, side view"])
    wanted = texts.mixed(torch.tensor([[2 / 3, 1 / 3]]))
    coefficients = -torch.tensor([[decay(4.0, -2.426, 2 / 3), decay(4.0, -2.426, 1 / 3)]])

    def prediction(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return perp_neg_output(
            guidance.denoise,
            noisy,
            timesteps,
            null,
            wanted,
            (front, side),
            coefficients,
            config.guidance_scale,
        )

    got = guidance.gradient(latents, noise, t, torch.tensor([-30.0]), torch.zeros(1), 0)
    expected = distil(prediction, guidance.schedule, latents, noise, t, "sigma2")
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------- rescale and negatives


@pytest.mark.parametrize("perp_neg", [False, True])
def test_the_rescale_reaches_the_prediction(tiny_sd1: Path, monkeypatch, perp_neg: bool):
    seen, rescaled = [], sds.rescaled_output
    monkeypatch.setattr(
        sds,
        "rescaled_output",
        lambda output, cond, share: seen.append(share) or rescaled(output, cond, share),
    )
    options = {"model": str(tiny_sd1), "dtype": "float32", "guidance_rescale": 0.7, "perp_neg": perp_neg}
    guidance = make_guidance(GuidanceConfig.model_validate(options), "a duck")
    latents, noise = draw(1, 1, 4, 8, 8).float(), draw(2, 1, 4, 8, 8).float()
    guidance.gradient(latents, noise, torch.tensor([500]), torch.zeros(1), torch.zeros(1), 0)
    assert seen == [0.7]


@pytest.mark.parametrize("rescale", [0.0, 0.3, 1.0])
def test_the_rescale_is_diffusers(rescale: float):
    output, out_cond = draw(3) * 5, draw(4)
    expected = rescale_noise_cfg(output, out_cond, guidance_rescale=rescale)
    torch.testing.assert_close(rescaled_output(output, out_cond, rescale), expected)
    exact = Points(2)
    plain = guided_output(exact, draw(5), TIMESTEPS, exact.texts[1], exact.texts[0], 9.0)
    got = guided_output(exact, draw(5), TIMESTEPS, exact.texts[1], exact.texts[0], 9.0, rescale)
    conditional = exact(draw(5), TIMESTEPS, exact.texts[1])
    torch.testing.assert_close(got, rescale_noise_cfg(plain, conditional, guidance_rescale=rescale))
    if rescale == 1.0:
        torch.testing.assert_close(got.flatten(1).std(1), conditional.flatten(1).std(1))


def test_each_view_may_have_its_own_negative_prompt(tiny_sd1: Path):
    options = {"negative": {"back": "face"}, "rule": "nearest"}
    config = GuidanceConfig.model_validate(
        {"model": str(tiny_sd1), "dtype": "float32", "negative_prompt": "red", "view_prompts": options}
    )
    guidance = make_guidance(config, "a duck")
    _, uncond = guidance.embeddings_of_views(torch.tensor([0.0, 180.0, 0.0]), torch.tensor([0.0, 0.0, 80.0]))
    red, face = guidance.encode_texts(["red", "face"]).tokens
    torch.testing.assert_close(uncond.tokens, torch.stack([red, face, red]))


# -------------------------------------------------------------------------------------------------- timesteps


def dreamtime(share: float, **changes: Any) -> int:
    options: dict[str, Any] = {"low": 0.0, "high": 1.0, "centre": (0.5, 0.8), "spread": (0.1, 0.3)} | changes
    return NoiseSchedule.from_scheduler(DDIMScheduler(**BETAS)).dreamtime_timestep(share, **options)


def test_dreamtime_never_rises_and_spends_its_steps_by_its_weights():
    steps = 20_000
    timesteps = torch.tensor([dreamtime(index / steps) for index in range(0, steps, 4)])
    assert (timesteps.diff() <= 0).all()
    assert timesteps[0] == 999 and timesteps[-1] < 300
    counts = torch.bincount(timesteps, minlength=1000).double() * 4
    t = torch.arange(1000).double()
    below, above = torch.exp(-((t - 500) ** 2) / 2e4), torch.exp(-((t - 800) ** 2) / 1.8e5)
    weights = torch.where(t < 500, below, torch.where(t > 800, above, 1.0))
    torch.testing.assert_close(counts, steps * weights / weights.sum(), atol=9.0, rtol=0)


def test_dreamtime_with_flat_weights_is_a_straight_line():
    got = [dreamtime(share, centre=(0.0, 1.0), low=0.02, high=0.98) for share in (0.0, 0.25, 0.5, 1.0, 2.0)]
    assert got == pytest.approx([980, 740, 500, 20, 20], abs=1)


def test_all_views_share_dreamtimes_timestep(tiny_sd1: Path):
    sampling = {"kind": "dreamtime", "steps": 100}
    config = GuidanceConfig.model_validate({"model": str(tiny_sd1), "timestep_sampling": sampling})
    guidance = make_guidance(config, "a duck")
    early, late = (guidance.timesteps_at(step, 3, seeded(0)).tolist() for step in (0, 90))
    assert early == [980] * 3
    assert len(set(late)) == 1 and 300 < late[0] < 600


# --------------------------------------------------------------------------------------------------- CSD, SDI


@pytest.mark.parametrize(("share", "rows"), [(0.0, 6), (0.4, 9), (1.0, 6)])
def test_csd_has_its_closed_form(share: float, rows: int):
    exact = Points(3)
    null, wanted, negative = exact.texts
    got = classifier_score_distillation(
        exact, exact.schedule, draw(30), draw(31), TIMESTEPS, wanted, null, negative, share, 7.5, "sigma2"
    )
    assert exact.rows == [rows]
    x_0, x_c, x_n = exact.points
    w, ratio = factors(exact)
    # Neither the scene nor the noise appears: only where the texts differ.
    expected = 7.5 * w * ratio * ((1 - share) * x_0 + share * x_n - x_c)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_csd_asks_for_the_empty_text(tiny_sd1: Path):
    objective = {"kind": "csd", "negative_weight": {"kind": "linear", "start": 0, "end": 1, "steps": 10}}
    config = GuidanceConfig.model_validate(
        {"model": str(tiny_sd1), "dtype": "float32", "negative_prompt": "red", "objective": objective}
    )
    guidance = make_guidance(config, "a duck")
    torch.testing.assert_close(guidance.null_embedding.tokens, guidance.encode_texts([""]).tokens)
    latents, noise = draw(1, 1, 4, 8, 8).float(), draw(2, 1, 4, 8, 8).float()
    view = (torch.zeros(1), torch.zeros(1))
    for step, other in ((0, ""), (10, "red")):
        got = guidance.gradient(latents, noise, torch.tensor([500]), *view, step)
        noisy = guidance.schedule.add_noise(latents, noise, torch.tensor([500]))
        cond, against = guidance.encode_texts(["a duck, front view", other]).split(1)
        t = torch.tensor([500])
        difference = guidance.denoise(noisy, t, cond) - guidance.denoise(noisy, t, against)
        expected = config.guidance_scale * guidance.schedule.weight(t, "sigma2").item() * difference
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4])
def test_inversion_on_a_point_mass_has_its_closed_form(prediction_type: str, steps: int):
    """From clean latents the first prediction fixes the noise; towards a point it never changes again."""
    exact = Points(1, prediction_type)
    z, (x,) = draw(30), exact.points

    def prediction(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return exact(noisy, timesteps, exact.texts[0])

    got = inverted_noise(prediction, exact.schedule, z, TIMESTEPS, steps)
    noisy, signal, noise_std = z, torch.ones(3, 1, 1, 1).double(), torch.zeros(3, 1, 1, 1).double()
    for index in range(1, steps + 1):
        abar = exact.schedule.alphas_cumprod[TIMESTEPS * index // steps][:, None, None, None]
        eps = (noisy - abar.sqrt() * x) / (1 - abar).sqrt()
        clean = (noisy - noise_std * eps) / signal
        signal, noise_std = abar.sqrt(), (1 - abar).sqrt()
        noisy = signal * clean + noise_std * eps
    torch.testing.assert_close(got, (noisy - signal * z) / noise_std)
    if steps == 1:
        torch.testing.assert_close(got, (z - signal * x) / noise_std)


def test_inversion_is_diffusers(tiny_sd1: Path):
    config = GuidanceConfig.model_validate({"model": str(tiny_sd1), "dtype": "float32"})
    guidance = make_guidance(config, "a duck")
    text = guidance.encode_texts(["a duck"])
    scheduler: Any = DDIMInverseScheduler(timestep_spacing="trailing", clip_sample=False, **BETAS)
    scheduler.set_timesteps(10)
    latents = draw(7, 1, 4, 8, 8).float()
    noisy = latents
    for timestep in scheduler.timesteps[:5]:  # 99, 199, .. 499: the first step begins with clean latents
        noisy = scheduler.step(guidance.denoise(noisy, timestep[None], text), timestep, noisy).prev_sample
    noise = inverted_noise(
        lambda z, at: guidance.denoise(z, at, text), guidance.schedule, latents, torch.tensor([499]), 5
    )
    got = guidance.schedule.add_noise(latents, noise, torch.tensor([499]))
    torch.testing.assert_close(got, noisy, rtol=1e-4, atol=1e-5)


def test_sdi_follows_the_inverted_noise(tiny_sd1: Path):
    objective = {"kind": "sdi", "inversion_steps": 5, "inversion_guidance_scale": -2.0}
    config = GuidanceConfig.model_validate(
        {"model": str(tiny_sd1), "dtype": "float32", "objective": objective, "weighting": "denoised"}
    )
    guidance = make_guidance(config, "a duck")
    latents, t = draw(1, 1, 4, 8, 8).float(), torch.tensor([600])
    view = (torch.zeros(1), torch.zeros(1))
    cond, uncond = guidance.embeddings_of_views(*view)
    noise = inverted_noise(
        lambda z, at: guided_output(guidance.denoise, z, at, cond, uncond, -2.0),
        guidance.schedule, latents, t, 3,  # three fifths of the way
    )  # fmt: skip
    noisy = guidance.schedule.add_noise(latents, noise, t)
    eps = guided_output(guidance.denoise, noisy, t, cond, uncond, config.guidance_scale)
    signal, noise_std = guidance.schedule.signal_and_noise_std(t, latents)
    clean = (noisy - noise_std * eps) / signal
    for seed in (1, 2):  # whatever noise was drawn
        got = guidance.gradient(latents, draw(seed, 1, 4, 8, 8).float(), t, *view, 0)
        torch.testing.assert_close(got, latents - clean, rtol=1e-3, atol=1e-4)


def test_the_random_part_of_the_inversion_is_diffusers():
    """After each step the share eta of the standard deviation that DDIM's own variance has between the two timesteps."""
    exact = Points(1)
    scheduler = DDIMScheduler(set_alpha_to_one=True, **BETAS)
    drawn = draw(40, 5, *SHAPE)
    z, t = draw(30), torch.tensor([499, 499, 499])

    def prediction(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return exact(noisy, timesteps, exact.texts[0])

    noisy, before = z, -1
    for index in range(1, 6):
        end = 499 * index // 5
        old, new = (1.0 if at < 0 else exact.schedule.alphas_cumprod[at] for at in (before, end))
        eps = prediction(noisy, torch.tensor([end] * 3))
        noisy = new**0.5 * (noisy - (1 - old) ** 0.5 * eps) / old**0.5 + (1 - new) ** 0.5 * eps
        noisy = noisy + 0.3 * scheduler._get_variance(end, before) ** 0.5 * drawn[index - 1]
        before = end
    got = inverted_noise(prediction, exact.schedule, z, t, 5, 0.3, drawn)
    abar = exact.schedule.alphas_cumprod[499]
    torch.testing.assert_close(got, (noisy - abar.sqrt() * z) / (1 - abar).sqrt(), rtol=1e-5, atol=1e-5)
    plain = inverted_noise(prediction, exact.schedule, z, t, 5)
    assert not torch.allclose(got, plain, atol=0.05)
    assert torch.equal(inverted_noise(prediction, exact.schedule, z, t, 5, 0.0, drawn), plain)


def test_the_inversions_chance_is_the_runs_own(tiny_sd1: Path):
    def gradient(eta: float, seed: int) -> Tensor:
        objective = {"kind": "sdi", "inversion_steps": 3, "eta": eta}
        config = GuidanceConfig.model_validate(
            {"model": str(tiny_sd1), "dtype": "float32", "objective": objective} | at(1.0)
        )
        images = torch.rand(1, 32, 32, 3, generator=seeded(3)).requires_grad_()
        output = make_guidance(config, "a duck")(
            images, torch.zeros(1), torch.zeros(1), 0, seeded(seed), seeded(1)
        )
        return torch.autograd.grad(output.loss, images)[0]

    assert torch.equal(gradient(0.3, 5), gradient(0.3, 5))
    assert not torch.equal(gradient(0.3, 5), gradient(0.3, 6))
    assert torch.equal(gradient(0.0, 5), gradient(0.0, 6))


def at(share: float) -> dict[str, Any]:
    """Every timestep at this share of the schedule."""
    return {"timestep_min": share, "timestep_max": share}


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [2]),
        ({"guidance_scale": 1.0}, [1]),
        ({"perp_neg": True}, [4]),
        ({"objective": {"kind": "csd"}}, [2]),
        ({"objective": {"kind": "sdi", "inversion_steps": 3}} | at(1.0), [2, 2, 2, 2]),
        ({"objective": {"kind": "sdi", "inversion_steps": 10}} | at(0.3), [2, 2, 2, 2]),
        ({"objective": {"kind": "sdi", "inversion_steps": 10}} | at(0.05), [2, 2]),
        ({"objective": {"kind": "sdi", "inversion_steps": 2}, "perp_neg": True} | at(1.0), [4, 4, 4]),
    ],
)
def test_rows_of_the_unet_in_a_step(tiny_sd1: Path, monkeypatch, options: dict[str, Any], rows: list[int]):
    config = GuidanceConfig.model_validate({"model": str(tiny_sd1), "dtype": "float32", **options})
    guidance = make_guidance(config, "a duck")
    calls = []
    forward = guidance.unet.forward
    monkeypatch.setattr(
        guidance.unet, "forward", lambda z, *a, **o: calls.append(len(z)) or forward(z, *a, **o)
    )
    images = torch.rand(1, 32, 32, 3).requires_grad_()
    guidance(images, torch.tensor([30.0]), torch.zeros(1), 0, seeded(0), seeded(1)).loss.backward()
    assert calls == rows
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().max() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"perp_neg": True, "view_prompts": {"rule": "none"}},
        {"perp_neg": True, "objective": {"kind": "csd"}},
        {"guidance_rescale": 0.5, "objective": {"kind": "csd"}},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any]):
    with pytest.raises(ValidationError, match=r"(perp_neg|guidance_rescale) with"):
        GuidanceConfig.model_validate(options)
