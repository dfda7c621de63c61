"""The loop that every part of the miniature is trained with: budgets, checkpoints, averaged weights, log lines.

A learner's step is a pure function of (weights, optimiser state, step number, data, share of the rate): all random draws come
from generators that are seeded with (seed, step), so a resumed training equals an unbroken one and no random state needs
saving. It does not where time has a say: under a budget of minutes whose rate falls, or with pictures that come meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamfusion.errors import CheckpointCorruptError, DreamfusionError
from dreamfusion.guidance.precision import preferred_cpu_dtype
from dreamfusion.miniature.training.optimisers import Muon, is_matrix


def step_generator(
    seed: int, step: int, stream: int = 0, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of one training step and purpose (`stream`)."""
    mixed = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))


def learning_rate(step: int, base: float, warmup: int, reference: int) -> float:
    """Linear warm-up, constant until `reference`, then falling with the inverse square root of the step.

    Karras et al. 2024 (EDM2): needs no end of training to be known beforehand.
    """
    return base * min(1.0, (step + 1) / warmup) / math.sqrt(max(step / reference, 1.0))


class Ema:
    """A running average of parameters whose window grows with training.

    The decay at step n is (1 - 1/n)^(gamma + 1) (Karras et al. 2024, sec. 3): always an average over the same
    share of the training, so that it neither remembers the start nor needs a warm-up; `longest` bounds the decay.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], gamma: float = 16.0, longest: float = 0.9998
    ) -> None:
        self.live = list(parameters)
        self.average = [p.detach().clone() for p in self.live]
        self.gamma, self.longest = gamma, longest

    def decay(self, step: int) -> float:
        """How much of the average is kept at `step` (1 is the first)."""
        return min((1.0 - 1.0 / step) ** (self.gamma + 1.0), self.longest)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the live weights."""
        torch._foreach_lerp_(self.average, [p.detach() for p in self.live], 1.0 - self.decay(step))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges live and averaged weights; calling it twice changes nothing."""
        for live, average in zip(self.live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)


class Averaged:
    """Context in which a learner's modules hold their averaged weights and are in evaluation mode."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def __enter__(self) -> None:
        self.learner.modules.eval()
        self.learner.ema.swap()

    def __exit__(self, *_: object) -> None:
        self.learner.ema.swap()
        self.learner.modules.train()


@dataclass
class Learner(ABC):
    """A thing that learns: modules, their optimiser, averaged weights and a step counter."""

    modules: nn.ModuleDict
    device: torch.device
    seed: int = 0
    batch_size: int = 16
    base_lr: float = 1e-3
    warmup: int = 100
    lr_reference: int = 2000
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    muon: bool = False
    step: int = 0
    # Called now and then while it trains: gives it what has been rendered since.
    take_in: Callable[[], None] | None = None
    ema: Ema = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.modules.to(self.device).train()
        self.reset_optimizer()
        self.ema = Ema([p for p in self.modules.parameters() if p.requires_grad])

    def reset_optimizer(self) -> None:
        """A fresh optimiser: matrices decay, gains and offsets do not."""
        trained = [(name, p) for name, p in self.modules.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if self.muon and is_matrix(name, p)]
        taken = {id(p) for p in matrices}
        others = [p for _, p in trained if id(p) not in taken]
        groups = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        if self.muon:
            groups.append({"params": matrices, "weight_decay": self.weight_decay, "matrices": True})
            self.optimizer = Muon(
                groups,
                lr=self.base_lr,
                betas=self.betas,
                product_dtype=torch.bfloat16 if self.has_bfloat16 else torch.float32,
            )
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=self.base_lr, betas=self.betas, foreach=True)

    @abstractmethod
    def loss(self) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of the step that comes now, and figures to log; random draws depend on (seed, step) only.

        The figures stay on the device: a GPU that is asked for a number has to finish first.
        """

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights; nothing by default."""
        return {}

    def sheet(self, path: Path) -> None:  # noqa: B027
        """Draws what there is to look at; nothing by default."""

    def autocast(self) -> torch.autocast:
        """bfloat16 on CUDA and on a CPU that multiplies it in hardware (others are 20 times slower with it)."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.has_bfloat16)

    @property
    def has_bfloat16(self) -> bool:
        """Whether the device multiplies bfloat16 in hardware."""
        on_cpu = self.device.type == "cpu"
        return self.device.type == "cuda" or (on_cpu and preferred_cpu_dtype() == torch.bfloat16)

    def attention(self) -> AbstractContextManager:
        """On a CPU plain matrix products: its flash kernel's backward pass took a fifth of a denoiser's step."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def train_step(self, share: float = 1.0) -> dict[str, float | Tensor]:
        """One optimiser step at `share` of the rate; one whose gradient is not finite changes no weight and is counted."""
        with self.attention():
            loss, figures = self.loss()
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        lr = share * learning_rate(self.step, self.base_lr, self.warmup, self.lr_reference)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.step)
        return {
            "loss": loss.detach(),
            "gradient": norm,
            "skipped": float(not finite),
            **figures,
        }

    # ------------------------------------------------------------------------------------- checkpoints

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything that the next step depends on: flat tensors and a JSON-able rest."""
        tensors = {f"model.{k}": v for k, v in self.modules.state_dict().items()}
        tensors |= {f"ema.{i}": v for i, v in enumerate(self.ema.average)}
        saved = self.optimizer.state_dict()
        for index, entries in saved["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entries.items()}
        return {k: v.detach().contiguous() for k, v in tensors.items()}, {
            "step": self.step,
            "seed": self.seed,
            "optimizer": type(self.optimizer).__name__,
        }

    def load_state(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """The inverse of `state`."""
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.modules.load_state_dict(model)
        for i, average in enumerate(self.ema.average):
            average.copy_(tensors[f"ema.{i}"])
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                # Counts stay on the CPU: a GPU would have to finish first, once a parameter, to tell them.
                entries.setdefault(int(index), {})[key] = value.cpu() if key == "step" else value
        # A checkpoint of the other optimiser gives its weights only: momenta do not carry over.
        if meta.get("optimizer") == type(self.optimizer).__name__:
            self.optimizer.load_state_dict(
                {"state": entries, "param_groups": self.optimizer.state_dict()["param_groups"]}
            )
        self.step, self.seed = int(meta["step"]), int(meta["seed"])

    def save(self, path: Path) -> None:
        """Writes a checkpoint under a temporary name, then renames it: a kill leaves the last one whole."""
        tensors, meta = self.state()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        save_file(tensors, temporary, metadata={"meta": json.dumps(meta)})
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Reads what `save` wrote.

        Raises:
            CheckpointCorruptError: if the file cannot be read or belongs to models of another shape.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                meta = json.loads(file.metadata()["meta"])
            self.load_state(load_file(path, device=str(self.device)), meta)
        except (SafetensorError, KeyError, RuntimeError, OSError, ValueError) as error:
            raise CheckpointCorruptError(
                f"cannot resume from {path}: {error}", hint="delete the file to start this stage anew"
            ) from error


@dataclass(frozen=True)
class Budget:
    """When a stage ends and how often it reports; whichever of the two limits comes first ends it.

    Over the last share `fall` of it the learning rate falls to nothing, in a line.

    Raises:
        DreamfusionError: if `fall` is no share.
    """

    minutes: int | float = math.inf
    steps: int | float = math.inf
    fall: float = 0.0
    log_every: int = 50
    checkpoint_seconds: float = 150.0
    sheet_seconds: float = 600.0
    take_in_seconds: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.fall <= 1.0:
            raise DreamfusionError(
                "the learning rate cannot fall over this share of the budget",
                expected="0 to 1",
                got=f"{self.fall:g}",
            )

    def rate(self, step: int, seconds: float) -> float:
        """The share of the learning rate after `step` steps in all and `seconds` of this run."""
        if not self.fall:
            return 1.0
        left = min(1.0 - seconds / max(60 * self.minutes, 1e-9), 1.0 - step / max(self.steps, 1))
        return min(1.0, max(left, 0.0) / self.fall)


def fit(learner: Learner, checkpoint: Path, budget: Budget, say: Callable[[str], None]) -> None:
    """Trains until the budget is spent or a SIGTERM/SIGINT arrives, resuming from and leaving a checkpoint."""
    from dreamfusion.miniature.training.stopping import Stopping

    if checkpoint.exists():
        learner.load(checkpoint)
        say(f"resumed {checkpoint.name} at step {learner.step}")
    started = last_log = last_save = last_sheet = last_look = now = time.monotonic()
    first_step = last_step = learner.step
    sums: dict[str, float | Tensor] = {}
    with Stopping() as stopping:
        while not stopping.asked and learner.step < budget.steps:
            for name, value in learner.train_step(budget.rate(learner.step, now - started)).items():
                sums[name] = sums.get(name, 0.0) + value
            now = time.monotonic()
            if learner.take_in and now - last_look > budget.take_in_seconds:
                learner.take_in()
                last_look = time.monotonic()
            done = now - started > budget.minutes * 60
            if learner.step % budget.log_every == 0:
                steps = learner.step - last_step
                figures = " ".join(
                    f"{k} {float(v) / steps:.4g}" for k, v in sums.items() if k != "skipped" or v
                )
                rate = steps * learner.batch_size / max(now - last_log, 1e-9)
                left = _minutes_left(learner.step, first_step, now - started, budget)
                say(f"step {learner.step} {figures} | {rate:.1f} img/s, {left}")
                sums, last_step, last_log = {}, learner.step, now
            if now - last_save > budget.checkpoint_seconds or done:
                learner.save(checkpoint)
                last_save = now
            if now - last_sheet > budget.sheet_seconds or done:
                report(learner, checkpoint.parent, say)
                last_sheet = time.monotonic()
            if done:
                break
        learner.save(checkpoint)
    say(f"stopped at step {learner.step}")


def report(learner: Learner, folder: Path, say: Callable[[str], None]) -> None:
    """Evaluates and draws with the averaged weights."""
    with Averaged(learner), torch.no_grad():
        figures = learner.evaluate()
        learner.sheet(folder / "sheets" / f"{type(learner).__name__}_{learner.step:07d}.png")
    if figures:
        say(f"step {learner.step} held out: " + " ".join(f"{k} {v:.4g}" for k, v in figures.items()))


def _minutes_left(step: int, first: int, seconds: float, budget: Budget) -> str:
    by_time = budget.minutes - seconds / 60
    by_steps = (budget.steps - step) * seconds / 60 / max(step - first, 1)
    left = min(by_time, by_steps)
    return f"{left:.0f} min left" if math.isfinite(left) else "no end set"
