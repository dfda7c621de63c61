"""What to train with: folders, device, sizes and budget of all stages, and of the judge's, which are its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dreamfusion.errors import DeviceError, DreamfusionError
from dreamfusion.miniature.training import export
from dreamfusion.miniature.training.loop import Budget
from dreamfusion.miniature.training.models import Sizes

# Of the judge's pictures and of its draws; far from all that the other stages use.
JUDGE_FIRST_SHARD, JUDGE_SEED = 10_000, 1_000
# Share of its scenes in white plaster, without which no textureless render means anything to it.
JUDGE_PLASTER = 0.15


@dataclass(frozen=True)
class Plan:
    """What to train with: folders, device, sizes, budget."""

    work: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sizes: Sizes = field(default_factory=Sizes)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    shards: int = 20
    first_shard: int = 0
    shard_size: int = 8192
    workers: int = 1
    from_shipped: bool = False
    text_tower: str = "joint"
    batch_size: int | None = None
    learning_rate: float | None = None
    muon: bool = False
    follow: bool = False
    package: Path = export.PACKAGE
    clip_folder: str = export.CLIP_FOLDER
    world: str = "core"
    meshes: Path = Path(".cache/meshes")
    plaster: float = 0.0
    sky: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether batches can be large."""
        return self.device.type == "cuda"

    def checkpoint(self, stage: str) -> Path:
        """The stage's checkpoint."""
        return self.work / f"{stage}.safetensors"

    def shard_paths(self, split: str) -> list[Path]:
        """The shards that are there."""
        return sorted((self.work / "shards").glob(f"{split}_*.npz"))


def say(text: str) -> None:
    """One line with the time, at once."""
    print(time.strftime("%H:%M:%S"), text, flush=True)  # noqa: T201


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA if there, else the CPU.

    Raises:
        DeviceError: if the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name!r} is not there", hint="use --device auto") from error
    return device


def settle_world(plan: Plan) -> None:
    """Marks the work folder as this world's: captions and word list of the other would be taken as well, and be wrong.

    Raises:
        DreamfusionError: if it is another world's.
    """
    marks = {path.stem for path in plan.work.glob("*.world")}
    if other := marks - {plan.world}:
        raise DreamfusionError(
            f"what lies in {plan.work} is of the {other.pop()} world",
            got=f"--world {plan.world}",
            hint="say its --world, or another --work",
        )
    plan.work.mkdir(parents=True, exist_ok=True)
    (plan.work / f"{plan.world}.world").touch()


def judge_plan(plan: Plan) -> Plan:
    """A second CLIP's plan, which shares nothing with the first one's: folder, pictures, light, seed, widths and depths."""
    sizes = replace(
        plan.sizes,
        clip_width=plan.sizes.clip_width * 3 // 4,
        clip_projection=plan.sizes.clip_projection * 3 // 4,
        clip_layers=plan.sizes.clip_layers + 2,
    )
    return replace(
        plan,
        work=plan.work / "judge",
        sizes=sizes,
        seed=plan.seed + JUDGE_SEED,
        first_shard=plan.first_shard + JUDGE_FIRST_SHARD,
        clip_folder=export.JUDGE_FOLDER,
        plaster=JUDGE_PLASTER,
        sky=True,
    )
