"""The forward process of a diffusion model: how much noise is in the latents at each timestep.

`timesteps` are diffusion indices 0..n-1, never optimiser iterations. Every constant is float64 and is cast to the
latents' precision last. abar stands for `alphas_cumprod` in the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.errors import ConfigError, ModelUnsupportedError

PredictionType = Literal["epsilon", "v_prediction"]
Weighting = Literal["sigma2", "uniform", "score_matching", "denoised"]


@dataclass(frozen=True)
class NoiseSchedule:
    """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps, for t = 0 .. n-1 (Ho et al., arXiv 2006.11239, eq. 4).

    Args:
        alphas_cumprod: abar_t, float64 on the CPU, strictly decreasing, in (0, 1]; the last may be 0.
        prediction_type: what the model's output is: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) z
            (Salimans & Ho, arXiv 2202.00512, app. D).
    """

    alphas_cumprod: Float[Tensor, " n"]
    prediction_type: PredictionType

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """Read the schedule of any diffusers scheduler that adds gaussian noise by betas.

        Raises ModelUnsupportedError for flow matching, whose score needs other maths, and for models that predict
        the clean sample, which is undefined where abar is 0 and unused by Stable Diffusion's family.
        """
        prediction_type = scheduler.config.get("prediction_type", "epsilon")
        betas = getattr(scheduler, "betas", None)
        if betas is None or prediction_type not in ("epsilon", "v_prediction"):
            raise ModelUnsupportedError(
                f"score distillation cannot use a {type(scheduler).__name__} with this prediction type",
                expected="epsilon or v_prediction under a gaussian noise schedule",
                got=prediction_type
                if betas is not None
                else "a schedule without betas, such as flow matching",
                hint="choose a checkpoint of the Stable Diffusion 1 or 2 family",
            )
        return cls(torch.cumprod(1.0 - betas.detach().cpu().double(), dim=0), prediction_type)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def add_noise(
        self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timesteps: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps, one timestep a row."""
        signal, noise_std = self.signal_and_noise_std(timesteps, latents)
        return signal * latents + noise_std * noise

    def to_epsilon(
        self,
        model_output: Float[Tensor, "b c h w"],
        noisy_latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """The noise that the model saw: its output itself, or sqrt(abar) v + sqrt(1 - abar) z_t for v-prediction."""
        if self.prediction_type == "epsilon":
            return model_output
        signal, noise_std = self.signal_and_noise_std(timesteps, noisy_latents)
        return signal * model_output + noise_std * noisy_latents

    def to_clean(
        self,
        model_output: Float[Tensor, "b c h w"],
        noisy_latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """The model's own clean latents: (z_t - sqrt(1 - abar) eps) / sqrt(abar), or sqrt(abar) z_t - sqrt(1 - abar) v.

        The second has no quotient, and means something also where abar is 0. For a model of the noise that timestep is
        undefined; see `last_timestep`.
        """
        signal, noise_std = self.signal_and_noise_std(timesteps, noisy_latents)
        if self.prediction_type == "v_prediction":
            return signal * noisy_latents - noise_std * model_output
        return (noisy_latents - noise_std * model_output) / signal

    @property
    def last_timestep(self) -> int:
        """The last timestep with a signal, abar > 0.

        Where abar is 0 (zero terminal SNR, Lin et al., arXiv 2305.08891) z_t is the noise itself: eps_hat - eps is 0 for
        any model of v, and `denoised` would weigh it with infinity. Nothing is learned there, and nothing is drawn.
        """
        return int((self.alphas_cumprod > 0.0).sum()) - 1

    def timestep_at(self, fraction: float) -> int:
        """The timestep at a fraction 0 .. 1 of the schedule's length; 1.0 is the last one with a signal."""
        # The small offset keeps 0.98 * 1000 = 979.9999 from becoming 979.
        return min(int(fraction * self.num_train_timesteps + 1e-6), self.last_timestep)

    def weight(self, timesteps: Int[Tensor, " b"], kind: Weighting) -> Float[Tensor, " b"]:
        """The w(t) of score distillation, float64 on the CPU.

        `sigma2`: 1 - abar (DreamFusion, arXiv 2209.14988, sec. 3.2). `uniform`: 1 (same place: "similar").
        `score_matching`: sqrt(abar / (1 - abar)), with which the gradient is that of the plain divergence
        KL(q(z_t) || p(z_t)) with respect to the latents, that is alpha_t times the difference of the two scores
        -eps_hat / sigma_t and -eps / sigma_t: DreamFusion's eq. 4 has w(t) sigma_t / alpha_t before the divergence,
        and this w makes that factor 1. It leans on small timesteps: about 8 at t = 20 of Stable Diffusion, 0.07 at t = 980.
        `denoised`: sqrt((1 - abar) / abar), with which the gradient is z - z_hat, the step to the model's own clean
        latents (SDI, arXiv 2405.15891, public code). It leans on large timesteps.
        """
        abar = self.alphas_cumprod[timesteps.cpu()]
        match kind:
            case "sigma2":
                return 1.0 - abar
            case "uniform":
                return torch.ones_like(abar)
            case "score_matching":
                return (abar / (1.0 - abar)).sqrt()
            case "denoised":
                return ((1.0 - abar) / abar).sqrt()

    def sample_timesteps(
        self, count: int, low: float, high: float, generator: torch.Generator
    ) -> Int[Tensor, " count"]:
        """Draw timesteps uniformly from [low, high], fractions of the schedule's length; int64 on the CPU.

        Both ends can be drawn; 1.0 means the last timestep with a signal. Raises ConfigError when low exceeds high or either is
        outside [0, 1].
        """
        first_index, last_index = self._indices(low, high)
        return torch.randint(first_index, last_index + 1, (count,), generator=generator)

    def dreamtime_timestep(
        self, share: float, low: float, high: float, centre: tuple[float, float], spread: tuple[float, float]
    ) -> int:
        """The timestep of DreamTime after a share 0 .. 1 of the run, never growing (arXiv 2306.12422).

        The run spends its steps on the timesteps of [low, high] in proportion to W(t), which is 1 between the two
        centres and falls like a gaussian outside them; all four numbers are shares of the schedule's length.

        Args:
            centre: m2 and m1, the ends of the plateau.
            spread: s2 and s1, the standard deviations below and above it.
        """
        first, last = self._indices(low, high)
        t = torch.arange(first, last + 1, dtype=torch.float64)
        n = self.num_train_timesteps
        (m2, m1), (s2, s1) = centre, spread
        outside = torch.where(t < m2 * n, (t / n - m2) / s2, torch.where(t > m1 * n, (t / n - m1) / s1, 0.0))
        weights = torch.exp(-0.5 * outside.square())
        # The share of W's mass at or above t; the run has come to the t where it reaches its own share.
        above = weights.flip(0).cumsum(0) / weights.sum()
        index = int(torch.searchsorted(above, torch.tensor(min(share, 1.0), dtype=torch.float64)))
        return last - min(index, len(t) - 1)

    def _indices(self, low: float, high: float) -> tuple[int, int]:
        """First and last timestep of a range of shares; ConfigError when it is empty or leaves the schedule."""
        if not 0.0 <= low <= high <= 1.0:
            raise ConfigError(
                "the range guidance.timestep_min .. guidance.timestep_max is empty or leaves the schedule",
                expected="0 <= min <= max <= 1",
                got=f"{low:g} .. {high:g}",
            )
        return self.timestep_at(low), self.timestep_at(high)

    def signal_and_noise_std(
        self, timesteps: Int[Tensor, " b"], like: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
        """sqrt(abar_t) and sqrt(1 - abar_t) of each row, of the type and on the device of `like`."""
        abar = self.alphas_cumprod[timesteps.cpu()][:, None, None, None]
        return abar.sqrt().to(like), (1.0 - abar).sqrt().to(like)
