"""The shards that the miniature learns from: rendered, given captions and latents, and taken in, all at once or as they come.

What is made lies beside the pictures, a file a shard, with the digest of what made it: another tokenizer's captions and another
autoencoder's latents are made anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature.lexicon import lexicon
from dreamfusion.miniature.training import export
from dreamfusion.miniature.training.autoencoder import encode_pictures
from dreamfusion.miniature.training.data import Pictures, load_pictures
from dreamfusion.miniature.training.loop import Learner
from dreamfusion.miniature.training.plan import Plan, say
from dreamfusion.miniature.training.stopping import Stopping
from dreamfusion.miniature.training.texts import Texts, is_made, load_texts, tokenizer_digest, write_texts
from dreamfusion.miniature.training.tokenizer import copy_tokenizer, knows, write_tokenizer

FEED_SECONDS = 2.0
# Number of the first shard of the core world among those of the wide one.
CORE_SHARDS_FROM = 1_000


def run_world(plan: Plan) -> None:
    """Renders the shards that are not there yet; for the wide world also a quarter as many of the core one.

    What the wide world holds back, the core one does too: its shares of held-out pairs and colours are the larger ones.
    """
    from dreamfusion.miniature import dataset

    common = ["--out", str(plan.work / "shards"), "--count", str(plan.shard_size)]
    common += ["--workers", str(plan.workers), "--device", str(plan.device), "--plaster", str(plan.plaster)]
    common += ["--sky"] if plan.sky else []
    own = [*common, "--world", plan.world, "--meshes", str(plan.meshes), "--first", str(plan.first_shard)]
    dataset.main([*own, "--shards", str(plan.shards)])
    dataset.main([*own, "--shards", "1", "--split", "held_out"])
    if plan.world == "wide":
        first = ["--first", str(plan.first_shard + CORE_SHARDS_FROM)]
        dataset.main([*common, *first, "--shards", str(max(1, plan.shards // 4))])


def run_tokenizer(plan: Plan) -> CLIPTokenizer:
    """The tokenizer of this training: work's own, else the shipped one, else, for new words, a new one."""
    folder, shipped = plan.work / "tokenizer", plan.package / export.PIPELINE_FOLDER / "tokenizer"
    words = lexicon(plan.world).vocabulary()
    if not knows(folder, words):
        if knows(shipped, words):
            copy_tokenizer(shipped, folder)
        else:
            write_tokenizer(folder, words)
            say(f"a new tokenizer for {len(words)} words")
    return CLIPTokenizer.from_pretrained(folder)


def run_texts(plan: Plan) -> None:
    """Writes the captions of every shard that has none of this tokenizer's, `workers` shards at a time."""
    run_tokenizer(plan)
    jobs = unwritten_texts(plan, plan.shard_paths("held_out") + plan.shard_paths("train"))
    if plan.workers == 1 or len(jobs) < 2:
        for job in jobs:
            say(f"captions of {write_texts(*job).stem}")
        return
    with ProcessPoolExecutor(plan.workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(write_texts, *job) for job in jobs]:
            say(f"captions of {done.result().stem}")


def unwritten_texts(plan: Plan, shards: Sequence[Path]) -> list[tuple[Path, Path, Path, str]]:
    """`write_texts`'s arguments for those of the shards that have no captions of this tokenizer's."""
    digest = tokenizer_digest(plan.work / "tokenizer")
    jobs = [(shard, plan.work / "tokenizer", _texts_path(plan, shard), plan.world) for shard in shards]
    return [job for job in jobs if not is_made(job[2], digest)]


def _texts_path(plan: Plan, shard: Path) -> Path:
    return plan.work / "texts" / f"{shard.stem}.safetensors"


def texts_of(plan: Plan, shards: Sequence[Path]) -> Texts:
    """The captions of the shards, on the device.

    Raises:
        DreamfusionError: if a shard has none yet.
    """
    missing = unwritten_texts(plan, shards)
    if missing:
        raise DreamfusionError(
            f"{len(missing)} shards have no captions, the first is {missing[0][0].name}",
            hint="run the stage 'texts' first",
        )
    return load_texts([_texts_path(plan, shard) for shard in shards]).to(plan.device)


def loaded(plan: Plan, shards: Sequence[Path]) -> Pictures:
    """The pictures of the shards, on the device."""
    pictures = load_pictures(shards)
    say(f"{len(pictures)} pictures of {len(shards)} shards, the first is {shards[0].stem}")
    return replace(pictures, images=pictures.images.to(plan.device))


def frozen_autoencoder(plan: Plan) -> AutoencoderKL:
    """work/vae, else the shipped one.

    Raises:
        DreamfusionError: if there is neither.
    """
    for folder in (plan.work / "vae", plan.package / export.PIPELINE_FOLDER / "vae"):
        if (folder / "config.json").exists():
            vae = AutoencoderKL.from_pretrained(
                folder, torch_dtype=torch.float32, low_cpu_mem_usage=False
            ).to(plan.device)  # pyright: ignore[reportArgumentType]
            vae = vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            return vae.requires_grad_(False).eval()  # pyright: ignore[reportReturnType]
    raise DreamfusionError("there is no autoencoder yet", hint="run the stage 'autoencoder' first")


def autoencoder_digest(vae: AutoencoderKL) -> str:
    """What latents depend on: the encoder's weights."""
    digest = hashlib.sha256()
    for value in vae.encoder.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _latents_path(plan: Plan, shard: Path) -> Path:
    return plan.work / "latents" / f"{shard.stem}.safetensors"


def is_encoded(plan: Plan, digest: str, shard: Path) -> bool:
    """Whether the shard has latents of the autoencoder with this digest."""
    path = _latents_path(plan, shard)
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return file.metadata().get("vae") == digest


def run_latents(plan: Plan) -> None:
    """Encodes the shards that this autoencoder has not encoded yet; float16 means, unscaled."""
    vae = frozen_autoencoder(plan)
    digest = autoencoder_digest(vae)
    for shard in plan.shard_paths("held_out") + plan.shard_paths("train"):
        target = _latents_path(plan, shard)
        if is_encoded(plan, digest, shard):
            continue
        latents = encode_pictures(vae, load_pictures([shard]), plan.device)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        save_file({"latents": latents.contiguous()}, temporary, metadata={"vae": digest})
        temporary.replace(target)
        say(f"encoded {shard.stem}: {len(latents)}")


def encoded(plan: Plan, digest: str, split: str) -> list[Path]:
    """The shards of a split that the autoencoder with this digest has encoded.

    Raises:
        DreamfusionError: if there is none.
    """
    shards = [shard for shard in plan.shard_paths(split) if is_encoded(plan, digest, shard)]
    if not shards:
        raise DreamfusionError(
            f"no {split} latents of this autoencoder", hint="run the stage 'latents' first"
        )
    return shards


def scaled_latents(plan: Plan, vae: AutoencoderKL, shards: Sequence[Path]) -> Tensor:
    """Latents of the shards, scaled, on the device."""
    parts = [load_file(_latents_path(plan, shard))["latents"] for shard in shards]
    scale = float(vae.config["scaling_factor"])
    return (torch.cat(parts).float() * scale).half().to(plan.device)


def give_shards(
    plan: Plan,
    learner: Learner,
    shards: Sequence[Path],
    is_ready: Callable[[Path], bool],
    add: Callable[[Sequence[Path]], None],
) -> None:
    """Adds the training shards, or, in a plan that follows, those that are ready, and the others when they are.

    A training that follows depends on when its shards come: it is not the same twice.

    Raises:
        DreamfusionError: if none is ready in a plan that follows.
    """
    if not plan.follow:
        add(shards)
        return
    taken: set[Path] = set()

    def take_in() -> None:
        new = [shard for shard in plan.shard_paths("train") if shard not in taken and is_ready(shard)]
        if new:
            add(new)
            taken.update(new)

    take_in()
    if not taken:
        raise DreamfusionError(
            "no shard is ready to be followed",
            hint="run the stage 'feed' in another process, and start when it has made the first one ready",
        )
    learner.take_in = take_in


def run_feed(plan: Plan) -> None:
    """Captions and latents of the shards that other processes render, as they come, for trainings that follow."""
    started = time.monotonic()
    with Stopping() as stopping:
        while True:
            run_texts(plan)
            run_latents(plan)
            if stopping.asked or time.monotonic() - started > plan.budget.minutes * 60:
                return
            time.sleep(FEED_SECONDS)
