"""The stages of the miniature's training, each resumable on its own.

world -> tokenizer -> texts -> autoencoder -> latents -> clip -> diffusion -> export

Two stand apart. `judge` is a second CLIP, by which nothing is guided, on pictures of its own. `feed` makes captions and
latents of shards that are still being rendered, for trainings that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from dreamfusion.errors import DreamfusionError
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
from dreamfusion.miniature.training.loop import Averaged, fit, step_generator
from dreamfusion.miniature.training.models import (
    make_autoencoder,
    make_clip,
    make_text_tower,
    make_unet,
    seeded,
    take_over,
)
from dreamfusion.miniature.training.new_words import place_new_words
from dreamfusion.miniature.training.plan import Plan, judge_plan, say
from dreamfusion.miniature.training.shards import (
    autoencoder_digest,
    encoded,
    frozen_autoencoder,
    give_shards,
    is_encoded,
    loaded,
    run_feed,
    run_latents,
    run_texts,
    run_tokenizer,
    run_world,
    scaled_latents,
    texts_of,
    unwritten_texts,
)
from dreamfusion.miniature.training.tokenizer import CaptionEncoder
from dreamfusion.miniature.training.widening import widen

STAGES = ("world", "tokenizer", "texts", "autoencoder", "latents", "clip", "diffusion", "export")
LATENT_STATISTICS_PICTURES = 2048


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
        pictures=loaded(plan, plan.shard_paths("train")) if with_data else None,
        held_out=loaded(plan, plan.shard_paths("held_out")) if with_data else None,
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
        held_out=loaded(plan, plan.shard_paths("held_out")) if with_data else None,
        encode_captions=CaptionEncoder(tokenizer),
        lexicon=lexicon(plan.world),
    )

    def add(shards: Sequence[Path]) -> None:
        learner.add(loaded(plan, shards), texts_of(plan, shards))

    if with_data:
        give_shards(
            plan, learner, plan.shard_paths("train"), lambda shard: not unwritten_texts(plan, [shard]), add
        )
    return learner


def run_clip(plan: Plan) -> None:
    """Trains the small CLIP."""
    fit(clip_learner(plan), plan.checkpoint("clip"), plan.budget, say)


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
    digest = autoencoder_digest(vae)

    def add(shards: Sequence[Path]) -> None:
        latents, texts = scaled_latents(plan, vae, shards), texts_of(plan, shards)
        learner.add(latents, texts, picture_weights(texts.labels, list(lexicon(plan.world).nouns)))
        spread = float(latents[:4096].float().std())
        say(f"{len(latents)} latents more, spread {spread:.3f}")

    def is_ready(shard: Path) -> bool:
        return is_encoded(plan, digest, shard) and not unwritten_texts(plan, [shard])

    give_shards(plan, learner, encoded(plan, digest, "train"), is_ready, add)
    shards = encoded(plan, digest, "held_out")
    learner.held_out_latents, learner.held_out = scaled_latents(plan, vae, shards), load_pictures(shards)


def run_diffusion(plan: Plan) -> None:
    """Trains the UNet and its text tower on the encoded pictures."""
    learner = diffusion_learner(plan)
    count = sum(p.numel() for p in learner.modules.parameters() if p.requires_grad)
    say(f"{count / 1e6:.2f} M parameters, batch {learner.batch_size}, {plan.device}")
    fit(learner, plan.checkpoint("diffusion"), plan.budget, say)


def run_export(plan: Plan) -> None:
    """Writes what has been trained so far into the package, and says how large it is.

    Raises:
        DreamfusionError: if nothing has been trained, or the weights are too large to ship.
    """
    # The weights come from the checkpoints alone; a judge may not have been shipped yet.
    plan = replace(plan, from_shipped=False)
    clips = [one for one in (plan, judge_plan(plan)) if one.checkpoint("clip").exists()]
    has_denoiser = plan.checkpoint("diffusion").exists()
    if not clips and not has_denoiser:
        raise DreamfusionError(
            f"nothing in {plan.work} has been trained", hint="run the stages 'clip' or 'diffusion' first"
        )
    if has_denoiser:
        _export_pipeline(plan)
    for one in clips:
        _export_clip(one)
    sizes = export.shipped_sizes(plan.package)
    for name, size in sizes.items():
        say(f"{name} {size / 2**20:.2f} MiB")
    if sum(sizes.values()) > export.TOTAL_LIMIT or max(sizes.values()) > export.FILE_LIMIT:
        raise DreamfusionError("the weights are too large to ship", expected="60 MB in all, 16 MiB a file")


def _export_pipeline(plan: Plan) -> None:
    learner = diffusion_learner(plan, with_data=False)
    assert learner.vae is not None
    target = plan.package / export.PIPELINE_FOLDER
    learner.load(plan.checkpoint("diffusion"))
    with Averaged(learner):
        export.export_pipeline(target, learner.vae, learner.unet, learner.text, plan.work / "tokenizer")
    # What a prompt may say is what the denoiser has learnt; a CLIP that is exported alone changes nothing about it.
    export.write_vocabulary(plan.package / export.VOCABULARY_FILE, lexicon(plan.world))


def _export_clip(plan: Plan) -> None:
    learner = clip_learner(plan, with_data=False)
    learner.load(plan.checkpoint("clip"))
    with Averaged(learner):
        export.export_clip(plan.package / plan.clip_folder, learner.model, plan.work / "tokenizer")


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
