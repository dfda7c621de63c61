"""Numbers of the embedded model alone, before any object is made: its autoencoder, its denoiser, its view words.

    python scripts/measure_miniature.py                                   # the shipped weights, asked for the core world
    python scripts/measure_miniature.py --world wide --model DIR --judge DIR --only samples,sheet

- nouns: how many a person can type, by the word list of the shipped weights.
- autoencoder: PSNR of held-out pictures that are encoded and decoded, meaned in dB.
- samples: one picture of each caption of `scripts/evaluate_miniature.py`, first seed, ranked among all of them by the judge that
  guides nothing; the held-out captions apart from the others.
- views: pictures of single nouns asked for from each side. A picture's side is that of the nearest true picture of its caption
  (`evaluation.ground_truth.ViewBank`); true pictures are asked the same first, and nouns whose sides it cannot tell (a ball's, a
  mushroom's) are left out. Beside it, to see where a side is lost: true pictures that the denoiser draws anew from part of
  their noise, told their own side. In little noise the side can still be seen: where it is lost from there, the drawing lost it.
- sheet: the first 100 captions as `sheet.png`, one picture each, first seed.

Writes `results.json` and `table.md` into `--output`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from dreamfusion.guidance.diffusion import DiffusionGuidance
    from dreamfusion.miniature.ground_truth import World

STAGES = ("nouns", "autoencoder", "samples", "views", "sheet")
SEED = 0
# Nobody's pictures but these tests': far from the seeds of all shards.
TRUTH_SEED = 777_000
SHEET_COUNT, SHEET_ACROSS = 100, 10
BATCH = 16
# A noun's sides count as told apart when so many of its true pictures are seen from the right one.
TOLD_APART = 0.85
QUERY_SCENES, QUERY_VIEWS = 6, 16
# From the noise of these timesteps one in so many of a noun's true pictures is redrawn.
REDRAWN_FROM, REDRAWN_EVERY = (300, 500, 700), 6


@dataclass
class Measuring:
    """The models and lists of one call, each loaded when it is first needed."""

    options: argparse.Namespace
    world: World
    table: list[tuple[str, str]] = field(default_factory=list)

    @cached_property
    def guidance(self) -> DiffusionGuidance:
        import torch

        from dreamfusion.config import GuidanceConfig
        from dreamfusion.guidance.factory import make_guidance

        guidance: Any = make_guidance(
            GuidanceConfig(model=self.options.model), "a picture", torch.device("cpu")
        )
        return guidance

    @cached_property
    def captions(self) -> list[str]:
        from evaluate_miniature import held_out_prompts

        return held_out_prompts(self.world, self.options.prompts, self.options.captions)[1]

    @cached_property
    def drawn(self) -> dict[str, Tensor]:
        """Pictures of captions that were drawn already."""
        return {}

    def draw(self, texts: Sequence[str]) -> Tensor:
        """One picture "n h w 3" in [0, 1] of each text, first seed."""
        import torch

        from dreamfusion.guidance.sampling import sample_images
        from dreamfusion.progress import Bar

        missing = [text for text in dict.fromkeys(texts) if text not in self.drawn]
        if missing:
            with Bar("sampling", unit="step") as bar:
                images = sample_images(
                    self.guidance, missing, [SEED], (self.options.guidance_scale,), self.options.steps,
                    on_step=bar, batch_size=BATCH, guidance_above=self.options.guidance_above,
                )[:, 0, 0]  # fmt: skip
            self.drawn.update(zip(missing, images, strict=True))
        return torch.stack([self.drawn[text] for text in texts])

    def redraw(self, images: Tensor, texts: Sequence[str], timestep: int) -> Tensor:
        """Pictures "n h w 3", noised up to `timestep` and denoised again as `draw` does, each by its own text."""
        import torch

        from dreamfusion.guidance.schedulers import load_sampler
        from dreamfusion.guidance.sds import guided_output

        guidance = self.guidance
        embeddings = guidance.encode_texts([*texts, ""])
        cond, uncond = embeddings[: len(texts)], embeddings[[len(texts)]].repeated(len(texts))
        sampler = load_sampler(guidance.directory, guidance.pixels, "DDIM", self.options.steps)
        left = sampler.timesteps[(sampler.timesteps - timestep).abs().argmin() :]
        latents = guidance.encode(images)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
        latents = sampler.add_noise(latents, noise, left[0].expand(len(images)))
        for step in left:
            scale = self.options.guidance_scale if step >= self.options.guidance_above else 1.0
            output = guided_output(guidance.denoise, latents, step.expand(len(images)), cond, uncond, scale)
            latents = sampler.step(output, step, latents).prev_sample
        return guidance.decode(latents)

    def told(self, what: str, number: str) -> None:
        """A row of the table."""
        self.table.append((what, number))
        print(f"{what}: {number}", flush=True)


def nouns(of: Measuring) -> dict[str, Any]:
    """Of the shipped word list, synonyms not counted."""
    from dreamfusion.miniature.vocabulary import known_words

    known = known_words()["nouns"]
    of.told("nouns that a person can type, synonyms not counted", str(len(known)))
    return {"nouns": list(known)}


def autoencoder(of: Measuring) -> dict[str, Any]:
    """PSNR on pictures of held-out scenes, drawn as the training's are."""
    import torch

    from dreamfusion.miniature.dataset import draw as render
    from dreamfusion.miniature.dataset import random_background, random_lights, random_views

    rng = np.random.default_rng(TRUTH_SEED)
    numbers = []
    vae = of.guidance.vae
    for _ in range(0, of.options.pictures, BATCH):
        scenes = [of.world.compose(of.world.sample_spec(rng, "held_out"), rng) for _ in range(BATCH)]
        cameras = random_views(rng, BATCH, of.guidance.image_size)
        behind = np.stack([random_background(rng, scene.colors, cameras.height) for scene in scenes])
        picture = render(scenes, cameras, torch.from_numpy(behind), random_lights(rng, cameras)).rgb
        images = (picture.clamp(0, 1) * 255).round() / 255
        planes = images.permute(0, 3, 1, 2).to(of.guidance.dtype) * 2 - 1
        made = vae.decode(vae.encode(planes).latent_dist.mean).sample.clamp(-1, 1)
        errors = ((made - planes).float() / 2).square().mean((1, 2, 3))
        numbers += (-10 * errors.log10()).tolist()
    psnr = float(np.mean(numbers))
    of.told(f"autoencoder, {len(numbers)} held-out pictures", f"{psnr:.1f} dB")
    return {
        "psnr_db": round(psnr, 2),
        "pictures": len(numbers),
        "worst_tenth_db": float(np.quantile(numbers, 0.1)),
    }


def samples(of: Measuring) -> dict[str, Any]:
    """The judge's rank of each caption's own picture among all captions."""
    from dreamfusion.evaluation.r_precision import judge_renders
    from dreamfusion.guidance.clip import load_clip

    captions = of.captions
    if of.options.count:
        asked = captions[: of.options.count]
    else:
        asked = captions
    judge, rows = load_clip(of.options.judge), []
    for caption, image in zip(asked, of.draw(asked), strict=True):
        verdict = judge_renders(judge, image[None], captions, caption)
        held_out = of.world.is_held_out(of.world.lexicon.parse(caption))
        rows.append(
            {
                "caption": caption,
                "held_out": held_out,
                "rank": verdict.rank,
                "taken_for": captions[verdict.best],
            }
        )
    for name, kind in (("held-out", True), ("other", False)):
        ranks = [row["rank"] for row in rows if row["held_out"] == kind]
        if ranks:
            share = 100 * sum(rank == 1 for rank in ranks) / len(ranks)
            of.told(f"samples of {len(ranks)} {name} captions, first among {len(captions)}", f"{share:.0f} %")
    return {"captions": len(captions), "rows": rows}


def views(of: Measuring) -> dict[str, Any]:
    """Of pictures asked for from a side, how many show it; for nouns whose sides true pictures tell apart."""
    from dreamfusion.evaluation.ground_truth import view_bank
    from dreamfusion.miniature.captions import VIEWS, plain_caption
    from dreamfusion.miniature.world import SceneSpec, Thing

    rng = np.random.default_rng(TRUTH_SEED)
    chosen = list(of.world.nouns)
    if len(chosen) > of.options.nouns:
        chosen = [chosen[index] for index in sorted(rng.permutation(len(chosen))[: of.options.nouns])]
    rows = []
    for noun in chosen:
        spec = SceneSpec((Thing(noun),))
        bank = view_bank(of.world, spec, seed=TRUTH_SEED)
        true_images, true_words = true_pictures(of.world, spec)
        row: dict[str, Any] = {"noun": noun, "truth": agreement(bank.views_seen(true_images), true_words)}
        if row["truth"]["right"] >= TOLD_APART:
            texts = [f"{plain_caption(spec)}, {view} view" for view in VIEWS]
            row["samples"] = agreement(bank.views_seen(of.draw(texts)), VIEWS)
            some, words = true_images[::REDRAWN_EVERY], true_words[::REDRAWN_EVERY]
            texts = [f"{plain_caption(spec)}, {word} view" for word in words]
            for timestep in REDRAWN_FROM:
                seen = bank.views_seen(of.redraw(some, texts, timestep))
                row[f"redrawn_{timestep}"] = agreement(seen, words)
        rows.append(row)
        print(
            f"  {noun:20s} {row['truth']['right']:.2f}  {row.get('samples', {}).get('right', '')}", flush=True
        )
    tell_views(of, rows)
    return {"rows": rows}


def tell_views(of: Measuring, rows: Sequence[dict[str, Any]]) -> None:
    """Means over the nouns whose sides are told."""
    told = [row for row in rows if "samples" in row]
    kinds = {"truth": "true pictures", "samples": "samples"}
    kinds |= {f"redrawn_{at}": f"true pictures redrawn from timestep {at}" for at in REDRAWN_FROM}
    for kind, what in kinds.items() if told else ():
        either, apart = (
            100 * float(np.mean([row[kind][key] for row in told])) for key in ("right", "right_with_sides")
        )
        of.told(
            f"view word right, {what} of {len(told)} nouns (of {len(rows)}; left and right told apart)",
            f"{either:.0f} % ({apart:.0f} %)",
        )


def true_pictures(world: World, spec: Any) -> tuple[Tensor, list[str]]:
    """Pictures of other scenes of the same words than a bank has, as the training's are, and their view words."""
    import torch

    from dreamfusion.miniature.captions import view_word
    from dreamfusion.miniature.dataset import draw as render
    from dreamfusion.miniature.dataset import random_background, random_lights, random_views

    rng = np.random.default_rng(TRUTH_SEED + 1)
    scenes = [s for s in world.scenes(spec, QUERY_SCENES, TRUTH_SEED + 1) for _ in range(QUERY_VIEWS)]
    cameras = random_views(rng, len(scenes))
    behind = np.stack([random_background(rng, scene.colors, cameras.height) for scene in scenes])
    picture = render(scenes, cameras, torch.from_numpy(behind), random_lights(rng, cameras)).rgb.clamp(0, 1)
    angles = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
    return picture, [view_word(azimuth, elevation) for azimuth, elevation in angles]


def agreement(seen: Sequence[str], asked: Sequence[str]) -> dict[str, float]:
    """Share that is right of each side asked for, meaned over the sides: with left and right as one, and apart."""

    def share(one: Callable[[str], str]) -> float:
        sides = sorted({one(word) for word in asked})
        hits = {
            side: [one(s) == side for s, a in zip(seen, asked, strict=True) if one(a) == side]
            for side in sides
        }
        return round(float(np.mean([np.mean(hits[side]) for side in sides])), 4)

    return {
        "right": share(lambda word: "side" if word in ("left", "right") else word),
        "right_with_sides": share(lambda word: word),
    }


def sheet(of: Measuring) -> dict[str, Any]:
    """The first captions' pictures with their words below."""
    from PIL import Image

    from dreamfusion.assets.sheets import captioned_sheet, cell

    captions = of.captions[:SHEET_COUNT]
    cells = [cell(image, max(2 * image.shape[0], 128)) for image in of.draw(captions)]
    path = of.options.output / "sheet.png"
    Image.fromarray(captioned_sheet(np.stack(cells), captions, SHEET_ACROSS)).save(path)
    print(path, flush=True)
    return {"path": str(path)}


RUNNERS: dict[str, Callable[[Measuring], dict[str, Any]]] = {
    "nouns": nouns,
    "autoencoder": autoencoder, "samples": samples, "views": views, "sheet": sheet,
}  # fmt: skip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from evaluate_miniature import COUNTS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(STAGES), help="some of them, with commas")
    parser.add_argument("--world", default="core", choices=list(COUNTS))
    parser.add_argument("--meshes", type=Path, default=Path(".cache/meshes"), help="the wide world's meshes")
    parser.add_argument("--model", default="miniature", help="alias or directory of the diffusion model")
    parser.add_argument("--judge", default="judge", help="directory or hub id of a CLIP that guides nothing")
    parser.add_argument("--prompts", type=int, help="how many of the captions are held-out prompts")
    parser.add_argument(
        "--captions", type=int, help="to rank among; 100 of the core world, 300 of the wide one"
    )
    parser.add_argument("--count", type=int, help="sample only the first of the captions")
    parser.add_argument("--pictures", type=int, default=256, help="for the autoencoder")
    parser.add_argument("--nouns", type=int, default=60, help="for the views; more are drawn from")
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument(
        "--guidance-above", type=int, help="guide from this timestep up; the miniature's default"
    )
    parser.add_argument("--steps", type=int, default=50, help="of DDIM")
    parser.add_argument("--output", type=Path, help="outputs/measured, or measured-wide")
    options = parser.parse_args(argv)
    options.output = options.output or Path("outputs/measured" + ("-wide" if options.world == "wide" else ""))
    prompts, captions = COUNTS[options.world]
    options.prompts, options.captions = options.prompts or prompts, options.captions or captions
    if options.guidance_above is None:
        from dreamfusion.guidance.models import guidance_above

        # A directory of weights that may ship is measured as they would be.
        options.guidance_above = guidance_above("miniature")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measures what was asked for; an error of the user's is one line."""
    options = parse(argv)
    import torch

    from dreamfusion.errors import ConfigError, DreamfusionError
    from dreamfusion.miniature.ground_truth import open_world

    with torch.no_grad():
        results: dict[str, Any] = {}
        try:
            stages = options.only.split(",")
            if unknown := [stage for stage in stages if stage not in RUNNERS]:
                raise ConfigError("--only", expected=", ".join(STAGES), got=unknown[0])
            measuring = Measuring(options, open_world(options.world, options.meshes))
            options.output.mkdir(parents=True, exist_ok=True)
            for stage in stages:
                started = time.perf_counter()
                results[stage] = RUNNERS[stage](measuring)
                print(f"{stage}: {time.perf_counter() - started:.0f} s", flush=True)
        except DreamfusionError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        rows = [f"| {what} | {number} |" for what, number in measuring.table]
        (options.output / "table.md").write_text(
            "\n".join(["| What | Number |", "|---|---|", *rows]) + "\n", encoding="utf-8"
        )
        return 0


if __name__ == "__main__":
    sys.exit(main())
