"""The true scene of a caption as a mesh file, and as a picture: what the embedded model's training means by its words.

    python scripts/build_scene.py "a peacock on a surfboard" --output scene.glb
    python scripts/build_scene.py "a red armchair next to a lamp" --world wide --seed 3 --output scene.ply --picture scene.png

In any format that `dreamfusion export` writes. Each solid of the scene is a closed part of its own; another seed gives other
proportions, colours that were not named, and in the wide world other meshes (`scripts/fetch_training_meshes.py` brings them).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Builds and writes; an error of the user's is one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("caption")
    parser.add_argument("--output", type=Path, required=True, help="glb, obj, ply, stl, 3mf or usdz")
    parser.add_argument("--picture", type=Path, help="PNG of four views besides")
    parser.add_argument("--world", default="core", choices=["core", "wide"])
    parser.add_argument("--meshes", type=Path, default=Path(".cache/meshes"), help="the wide world's meshes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    import torch
    from PIL import Image

    from dreamfusion.assets.formats import write_mesh
    from dreamfusion.assets.images import contact_sheet, to_uint8
    from dreamfusion.cameras import turntable_cameras
    from dreamfusion.errors import DreamfusionError
    from dreamfusion.miniature.dataset import draw
    from dreamfusion.miniature.ground_truth import open_world, scene_mesh
    from dreamfusion.miniature.pictures import Lights

    try:
        world = open_world(options.world, options.meshes)
        (scene,) = world.scenes(world.lexicon.parse(options.caption), 1, options.seed)
        mesh = scene_mesh(scene)
        print(f"{write_mesh(mesh, options.output)}  {len(mesh.faces)} faces")
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.picture is not None:
        cameras = turntable_cameras(4, 20.0, 2.5, 43.5, 256)
        lamp = Lights(
            cameras.positions + torch.tensor([0.6, 0.9, 0.3]), torch.full((4,), 0.45), torch.full((4,), 0.55)
        )
        seen = draw([scene] * 4, cameras, torch.full((4, 256, 256, 3), 0.75), lamp)
        Image.fromarray(contact_sheet(to_uint8(seen.rgb), columns=4)).save(options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
