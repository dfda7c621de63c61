"""The stages of the miniature's training, each resumable on its own.

world -> tokenizer -> texts -> autoencoder -> latents -> clip -> diffusion -> export

`judge` stands apart: a second CLIP, by which nothing is guided, on pictures of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from dreamfusion.errors import DeviceError, DreamfusionError
from dreamfusion.miniature.lexicon import lexicon
from dreamfusion.miniature.training import export
from dreamfusion.miniature.training.autoencoder import (
    AutoencoderLearner,
    autoencoder_modules,
    encode_pictures,
)
from dreamfusion.miniature.training.contrastive import ContrastiveLearner, contrastive_modules
from dreamfusion.miniature.training.data import Pictures, load_pictures
from dreamfusion.miniature.training.diffusion import DiffusionLearner, diffusion_modules, picture_weights
from dreamfusion.miniature.training.loop import Averaged, Budget, Learner, fit, step_generator
from dreamfusion.miniature.training.models import (
    Sizes,
    make_autoencoder,
    make_clip,
    make_text_tower,
    make_unet,
    seeded,
    take_over,
)
from dreamfusion.miniature.training.new_words import place_new_words
from dreamfusion.miniature.training.stopping import Stopping
from dreamfusion.miniature.training.texts import Texts, is_made, load_texts, tokenizer_digest, write_texts
from dreamfusion.miniature.training.tokenizer import CaptionEncoder, copy_tokenizer, knows, write_tokenizer
from dreamfusion.miniature.training.widening import widen

STAGES = ("world", "tokenizer", "texts", "autoencoder", "latents", "clip", "diffusion", "export")
LATENT_STATISTICS_PICTURES = 2048
FEED_SECONDS = 2.0
# Of the judge's pictures and of its draws; far from all that the other stages use.
JUDGE_FIRST_SHARD, JUDGE_SEED = 10_000, 1_000
# Number of the first shard of the core world among those of the wide one.
CORE_SHARDS_FROM = 1_000
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


# ------------------------------------------------------------------------------------------------- stages


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
    jobs = _unwritten_texts(plan, plan.shard_paths("held_out") + plan.shard_paths("train"))
    if plan.workers == 1 or len(jobs) < 2:
        for job in jobs:
            say(f"captions of {write_texts(*job).stem}")
        return
    with ProcessPoolExecutor(plan.workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(write_texts, *job) for job in jobs]:
            say(f"captions of {done.result().stem}")


def _unwritten_texts(plan: Plan, shards: Sequence[Path]) -> list[tuple[Path, Path, Path, str]]:
    digest = tokenizer_digest(plan.work / "tokenizer")
    jobs = [(shard, plan.work / "tokenizer", _texts_path(plan, shard), plan.world) for shard in shards]
    return [job for job in jobs if not is_made(job[2], digest)]


def _texts_path(plan: Plan, shard: Path) -> Path:
    return plan.work / "texts" / f"{shard.stem}.safetensors"


def _texts_of(plan: Plan, shards: Sequence[Path]) -> Texts:
    missing = _unwritten_texts(plan, shards)
    if missing:
        raise DreamfusionError(
            f"{len(missing)} shards have no captions, the first is {missing[0][0].name}",
            hint="run the stage 'texts' first",
        )
    return load_texts([_texts_path(plan, shard) for shard in shards]).to(plan.device)


def _loaded(plan: Plan, shards: Sequence[Path]) -> Pictures:
    pictures = load_pictures(shards)
    say(f"{len(pictures)} pictures of {len(shards)} shards, the first is {shards[0].stem}")
    return replace(pictures, images=pictures.images.to(plan.device))


def autoencoder_learner(plan: Plan, with_data: bool = True) -> AutoencoderLearner:
    """A new one, or the shipped one with --from-shipped."""
    with seeded(plan.seed):
        vae = make_autoencoder(plan.sizes)
    if plan.from_shipped:
        shipped = AutoencoderKL.from_pretrained(
            plan.package / export.PIPELINE_FOLDER / "vae", torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
        widen(vae, shipped, step_generator(plan.seed, 0))
    return AutoencoderLearner(
        autoencoder_modules(vae),
        plan.device,
        seed=plan.seed,
        batch_size=plan.batch_size or (64 if plan.on_gpu else 8),
        base_lr=plan.learning_rate or 1.2e-3,
        warmup=60,
        lr_reference=400,
        pictures=_loaded(plan, plan.shard_paths("train")) if with_data else None,
        held_out=_loaded(plan, plan.shard_paths("held_out")) if with_data else None,
    )


def run_autoencoder(plan: Plan) -> None:
    """Trains the autoencoder and leaves its averaged weights, with the latents' scale, in work/vae."""
    learner = autoencoder_learner(plan)
    fit(learner, plan.checkpoint("autoencoder"), plan.budget, say)
    freeze_autoencoder(plan, learner)


def freeze_autoencoder(plan: Plan, learner: AutoencoderLearner) -> None:
    """Measures the latents' spread and writes work/vae: from here on the autoencoder is what it is."""
    assert learner.pictures is not None
    some = Pictures(
        learner.pictures.images[:LATENT_STATISTICS_PICTURES],
        learner.pictures.specs[:LATENT_STATISTICS_PICTURES],
        learner.pictures.views[:LATENT_STATISTICS_PICTURES],
    )
    with Averaged(learner), torch.no_grad():
        spread = encode_pictures(learner.model, some, plan.device).float().std()
        learner.model.register_to_config(scaling_factor=round(1.0 / float(spread), 4))
        learner.model.save_pretrained(plan.work / "vae")
        figures = learner.evaluate()
    say(f"latents' standard deviation {float(spread):.4f}; held out {figures}")


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


def _digest(vae: AutoencoderKL) -> str:
    digest = hashlib.sha256()
    for value in vae.encoder.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _latents_path(plan: Plan, shard: Path) -> Path:
    return plan.work / "latents" / f"{shard.stem}.safetensors"


def _is_encoded(plan: Plan, digest: str, shard: Path) -> bool:
    path = _latents_path(plan, shard)
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return file.metadata().get("vae") == digest


def run_latents(plan: Plan) -> None:
    """Encodes the shards that this autoencoder has not encoded yet; float16 means, unscaled."""
    vae = frozen_autoencoder(plan)
    digest = _digest(vae)
    for shard in plan.shard_paths("held_out") + plan.shard_paths("train"):
        target = _latents_path(plan, shard)
        if _is_encoded(plan, digest, shard):
            continue
        latents = encode_pictures(vae, load_pictures([shard]), plan.device)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        save_file({"latents": latents.contiguous()}, temporary, metadata={"vae": digest})
        temporary.replace(target)
        say(f"encoded {shard.stem}: {len(latents)}")


def _encoded(plan: Plan, digest: str, split: str) -> list[Path]:
    """The shards of a split whose latents of this autoencoder are there."""
    shards = [shard for shard in plan.shard_paths(split) if _is_encoded(plan, digest, shard)]
    if not shards:
        raise DreamfusionError(
            f"no {split} latents of this autoencoder", hint="run the stage 'latents' first"
        )
    return shards


def _scaled_latents(plan: Plan, vae: AutoencoderKL, shards: Sequence[Path]) -> Tensor:
    """Latents of the shards, scaled, on the device."""
    parts = [load_file(_latents_path(plan, shard))["latents"] for shard in shards]
    scale = float(vae.config["scaling_factor"])
    return (torch.cat(parts).float() * scale).half().to(plan.device)


def _start(
    plan: Plan,
    learner: Learner,
    shards: Sequence[Path],
    is_ready: Callable[[Path], bool],
    add: Callable[[Sequence[Path]], None],
) -> None:
    """Adds the training shards, or, in a plan that follows, those that are ready, and the others when they are.

    A training that follows depends on when its shards come: it is not the same twice.
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
    learner.take_in = take_in


def clip_learner(plan: Plan, with_data: bool = True) -> ContrastiveLearner:
    """A new one, or the shipped one with --from-shipped."""
    tokenizer = run_tokenizer(plan)
    with seeded(plan.seed + 1):
        clip = make_clip(plan.sizes, tokenizer)
        if plan.from_shipped:
            shipped = plan.package / plan.clip_folder
            old = CLIPModel.from_pretrained(shipped, dtype=torch.float32)
            take_over(clip, old, tokenizer.get_vocab(), CLIPTokenizer.from_pretrained(shipped).get_vocab())
        modules = contrastive_modules(clip, lexicon(plan.world))
    learner = ContrastiveLearner(
        modules,
        plan.device,
        seed=plan.seed + 1,
        batch_size=plan.batch_size or (1024 if plan.on_gpu else 64),
        base_lr=plan.learning_rate or 1e-3,
        warmup=200,
        lr_reference=3000,
        weight_decay=0.05,
        muon=plan.muon,
        held_out=_loaded(plan, plan.shard_paths("held_out")) if with_data else None,
        encode_captions=CaptionEncoder(tokenizer),
        lexicon=lexicon(plan.world),
    )

    def add(shards: Sequence[Path]) -> None:
        learner.add(_loaded(plan, shards), _texts_of(plan, shards))

    if with_data:
        _start(
            plan, learner, plan.shard_paths("train"), lambda shard: not _unwritten_texts(plan, [shard]), add
        )
    return learner


def run_clip(plan: Plan) -> None:
    """Trains the small CLIP."""
    fit(clip_learner(plan), plan.checkpoint("clip"), plan.budget, say)


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


def run_judge(plan: Plan) -> None:
    """Renders another draw of the world and trains the judge on it, in work/judge."""
    plan = judge_plan(plan)
    run_world(plan)
    run_texts(plan)
    run_clip(plan)


def _text_tower(plan: Plan, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    if plan.text_tower == "joint":
        return make_text_tower(plan.sizes, tokenizer)
    learner = clip_learner(plan, with_data=False)
    learner.load(plan.checkpoint("clip"))
    with Averaged(learner):
        clip = learner.model
        tower = CLIPTextModel(clip.config.text_config)  # pyright: ignore[reportArgumentType]
        weights = {
            k.removeprefix("text_model."): v for k, v in clip.state_dict().items() if "text_model." in k
        }
        own = {k.removeprefix("text_model."): k for k in tower.state_dict()}
        tower.load_state_dict({own[k]: v.clone() for k, v in weights.items()})
    return tower


def _shipped_unet(plan: Plan) -> UNet2DConditionModel:
    # The shipped denoiser, widened to the plan's.
    shipped = UNet2DConditionModel.from_pretrained(
        plan.package / export.PIPELINE_FOLDER / "unet", torch_dtype=torch.float32, low_cpu_mem_usage=False
    )
    unet = make_unet(plan.sizes)
    widen(unet, shipped, step_generator(plan.seed, 0))
    return unet


def _place_new_words(plan: Plan, text: CLIPTextModel, vocab: dict[str, int], known: dict[str, int]) -> None:
    # Where this training's CLIP, if there is one, sees them.
    if not plan.checkpoint("clip").exists():
        return
    clip = clip_learner(plan, with_data=False)
    clip.load(plan.checkpoint("clip"))
    embedding = text.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    with Averaged(clip):
        generator = step_generator(plan.seed, 0, stream=1)
        place_new_words(embedding, vocab, known, lexicon(plan.world), clip.text_features, generator)


def diffusion_learner(plan: Plan, with_data: bool = True) -> DiffusionLearner:
    """A new one, or the shipped one with --from-shipped; `text_tower` says where the tower comes from."""
    tokenizer = run_tokenizer(plan)
    vae = frozen_autoencoder(plan)
    shipped = plan.package / export.PIPELINE_FOLDER
    with seeded(plan.seed + 2):
        if plan.from_shipped:
            unet = _shipped_unet(plan)
            text = make_text_tower(plan.sizes, tokenizer)
            old = CLIPTextModel.from_pretrained(shipped / "text_encoder", dtype=torch.float32)
            known = CLIPTokenizer.from_pretrained(shipped / "tokenizer").get_vocab()
            take_over(text, old, tokenizer.get_vocab(), known)
            _place_new_words(plan, text, tokenizer.get_vocab(), known)
        else:
            text = _text_tower(plan, tokenizer)
            unet = make_unet(plan.sizes)
    learner = DiffusionLearner(
        diffusion_modules(unet.to(memory_format=torch.channels_last), text),  # pyright: ignore
        plan.device,
        seed=plan.seed + 2,
        muon=plan.muon,
        batch_size=plan.batch_size or (1024 if plan.on_gpu else 32),
        base_lr=plan.learning_rate or 1e-3,
        warmup=300,
        lr_reference=3000,
        text_frozen=plan.text_tower == "clip-frozen",
        encode_captions=CaptionEncoder(tokenizer),
        vae=vae,
    )
    if with_data:
        _give_data(plan, learner, vae)
    return learner


def _give_data(plan: Plan, learner: DiffusionLearner, vae: AutoencoderKL) -> None:
    digest = _digest(vae)

    def add(shards: Sequence[Path]) -> None:
        latents, texts = _scaled_latents(plan, vae, shards), _texts_of(plan, shards)
        learner.add(latents, texts, picture_weights(texts.labels, list(lexicon(plan.world).nouns)))
        spread = float(latents[:4096].float().std())
        say(f"{len(latents)} latents more, spread {spread:.3f}")

    def is_ready(shard: Path) -> bool:
        return _is_encoded(plan, digest, shard) and not _unwritten_texts(plan, [shard])

    _start(plan, learner, _encoded(plan, digest, "train"), is_ready, add)
    shards = _encoded(plan, digest, "held_out")
    learner.held_out_latents, learner.held_out = _scaled_latents(plan, vae, shards), load_pictures(shards)


def run_diffusion(plan: Plan) -> None:
    """Trains the UNet and its text tower on the encoded pictures."""
    learner = diffusion_learner(plan)
    count = sum(p.numel() for p in learner.modules.parameters() if p.requires_grad)
    say(f"{count / 1e6:.2f} M parameters, batch {learner.batch_size}, {plan.device}")
    fit(learner, plan.checkpoint("diffusion"), plan.budget, say)


def _averaged(learner: Learner, checkpoint: Path, do: Callable[[], None]) -> bool:
    if not checkpoint.exists():
        return False
    learner.load(checkpoint)
    with Averaged(learner):
        do()
    return True


def run_export(plan: Plan) -> None:
    """Writes what has been trained so far into the package, and says how large it is."""
    # The weights come from the checkpoints alone; a judge may not have been shipped yet.
    plan, tokenizer = replace(plan, from_shipped=False), plan.work / "tokenizer"
    if plan.checkpoint("diffusion").exists():
        diffusion = diffusion_learner(plan, with_data=False)
        assert diffusion.vae is not None
        vae, target = diffusion.vae, plan.package / export.PIPELINE_FOLDER
        _averaged(
            diffusion,
            plan.checkpoint("diffusion"),
            lambda: export.export_pipeline(target, vae, diffusion.unet, diffusion.text, tokenizer),
        )
    for one in (plan, judge_plan(plan)):
        if one.checkpoint("clip").exists():
            _export_clip(one)
    export.write_vocabulary(plan.package / export.VOCABULARY_FILE, lexicon(plan.world))
    sizes = export.shipped_sizes(plan.package)
    for name, size in sizes.items():
        say(f"{name} {size / 2**20:.2f} MiB")
    if sum(sizes.values()) > export.TOTAL_LIMIT or max(sizes.values(), default=0) > export.FILE_LIMIT:
        raise DreamfusionError("the weights are too large to ship", expected="60 MB in all, 16 MiB a file")


def _export_clip(plan: Plan) -> None:
    clip, tokenizer = clip_learner(plan, with_data=False), plan.work / "tokenizer"
    target = plan.package / plan.clip_folder
    _averaged(clip, plan.checkpoint("clip"), lambda: export.export_clip(target, clip.model, tokenizer))


RUNNERS: dict[str, Callable[[Plan], object]] = {
    "world": run_world,
    "tokenizer": run_tokenizer,
    "texts": run_texts,
    "autoencoder": run_autoencoder,
    "latents": run_latents,
    "clip": run_clip,
    "diffusion": run_diffusion,
    "judge": run_judge,
    "feed": run_feed,
    "export": run_export,
}
