"""Score distillation against a closed form, with exact denoisers in place of a model.

When the data is the single point x_c (x_u without a condition), the exact denoiser is
eps(z_t) = (z_t - sqrt(abar) x) / sqrt(1 - abar), and whatever the noise and the timestep the gradient is

    w(t) sqrt(abar / (1 - abar)) [(z - x_u) + s (x_u - x_c)].
"""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.sds import guided_output, score_distillation, sds_gradient, sds_loss

SHAPE = (3, 4, 2, 2)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class PointMasses:
    """The exact denoiser of two point masses; which one is said by the embedding, 1 for the condition."""

    def __init__(self, prediction_type: str) -> None:
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,  # pyright: ignore[reportArgumentType]
        )
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        self.x_cond, self.x_uncond = draw(1), draw(2)
        self.calls: list[int] = []

    def __call__(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.calls.append(len(noisy))
        rows = len(noisy) // len(self.x_cond)
        which = embeddings[:, :1, :1, None]
        x = which * self.x_cond.repeat(rows, 1, 1, 1) + (1 - which) * self.x_uncond.repeat(rows, 1, 1, 1)
        abar = self.schedule.alphas_cumprod[timesteps][:, None, None, None]
        eps = (noisy - abar.sqrt() * x) / (1 - abar).sqrt()
        return (
            eps if self.schedule.prediction_type == "epsilon" else abar.sqrt() * eps - (1 - abar).sqrt() * x
        )


COND, UNCOND = torch.ones(3, 1, 1, dtype=torch.float64), torch.zeros(3, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "score_matching"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 100.0])
@pytest.mark.parametrize("seed", [10, 11])
def test_the_gradient_has_its_closed_form(prediction_type, weighting, scale, seed):
    exact = PointMasses(prediction_type)
    latents, noise = draw(seed), draw(seed + 100)
    timesteps = torch.randint(1, 1000, (3,), generator=torch.Generator().manual_seed(seed))
    gradient = score_distillation(
        exact, exact.schedule, latents, noise, timesteps, COND, UNCOND, scale, weighting
    )
    abar = exact.schedule.alphas_cumprod[timesteps]
    w = {"sigma2": 1 - abar, "uniform": torch.ones_like(abar), "score_matching": (abar / (1 - abar)).sqrt()}
    factor = (w[weighting] * (abar / (1 - abar)).sqrt()).view(-1, 1, 1, 1)
    expected = factor * ((latents - exact.x_uncond) + scale * (exact.x_uncond - exact.x_cond))
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


def test_descending_the_gradient_finds_the_conditional_point():
    exact = PointMasses("epsilon")
    latents = torch.nn.Parameter(draw(20))
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        timesteps = exact.schedule.sample_timesteps(3, 0.02, 0.98, generator)
        noise = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        gradient = score_distillation(
            exact, exact.schedule, latents.detach(), noise, timesteps, COND, UNCOND, 1.0, "sigma2"
        )
        (direction,) = torch.autograd.grad(sds_loss(latents, gradient), latents)
        with torch.no_grad():
            latents -= 0.3 * latents.numel() * direction
    torch.testing.assert_close(latents.detach(), exact.x_cond, rtol=1e-6, atol=1e-6)


def test_guidance_is_one_batched_call_with_the_unconditional_rows_first():
    seen = []

    def denoiser(noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        seen.append((noisy.clone(), timesteps.clone(), embeddings.clone()))
        return embeddings[:, :1, :1, None].expand_as(noisy)

    output = guided_output(denoiser, draw(3), torch.tensor([1, 2, 3]), COND * 5, UNCOND + 2, 4.0)
    torch.testing.assert_close(output, torch.full_like(output, 2 + 4 * (5 - 2)))
    ((noisy, timesteps, embeddings),) = seen
    assert torch.equal(noisy, torch.cat([draw(3), draw(3)]))
    assert timesteps.tolist() == [1, 2, 3, 1, 2, 3]
    assert embeddings.flatten().tolist() == [2, 2, 2, 5, 5, 5]


def test_no_guidance_leaves_the_unconditional_rows_out():
    exact = PointMasses("epsilon")
    guided_output(exact, draw(3), torch.tensor([1, 2, 3]), COND, UNCOND, 1.0)
    assert exact.calls == [3]


def test_each_view_has_its_own_weight():
    gradient = sds_gradient(draw(4), draw(5), torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(gradient[0], draw(4)[0] - draw(5)[0])
    assert not gradient[1].any()
    torch.testing.assert_close(gradient[2], 2 * (draw(4)[2] - draw(5)[2]))


@pytest.mark.parametrize("magnitude", [1e-20, 1.0, 1e6])
def test_the_surrogate_gives_exactly_the_gradient_divided_by_the_number_of_values(magnitude):
    latents = draw(6).float().requires_grad_()
    gradient = (draw(7) * magnitude).float()
    (got,) = torch.autograd.grad(sds_loss(latents, gradient), latents)
    assert torch.equal(got, gradient / latents.numel())


def test_the_pull_on_a_view_does_not_grow_with_resolution():
    # Constant images: an upsampled latent carries the same total gradient down to the one number behind it.
    totals = []
    for side in (2, 8):
        value = torch.tensor(0.3, requires_grad=True)
        latents = value.expand(1, 4, side, side)
        sds_loss(latents, torch.full_like(latents, 2.5)).backward()
        assert value.grad is not None
        totals.append(value.grad.item())
    assert totals == pytest.approx([2.5, 2.5])


def test_the_surrogate_does_not_differentiate_the_gradient():
    latents = draw(8).requires_grad_()
    gradient = latents * 3
    (got,) = torch.autograd.grad(sds_loss(latents, gradient), latents)
    torch.testing.assert_close(got, gradient.detach() / latents.numel())
