# trimesh's annotations are narrower, or wider, than what it returns.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
"""Meshes that others wrote come in with the colours that their formats' own rules give, in closed form."""

from __future__ import annotations

import io
import itertools
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.formats import TEXTURED, WRITERS, write_mesh
from dreamfusion.assets.read_mesh import read_mesh
from dreamfusion.assets.texture import Texture, split_at_seams
from dreamfusion.errors import MeshError
from dreamfusion.posed_images.mesh_renderer import surface_colours

# A square in the plane z = 0, front to +z; its texture coordinates put texel middles on the corners' quarter points.
SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype="<f4")
FACES = np.array([[0, 1, 2], [0, 2, 3]], dtype="<u2")
CORNERS = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], dtype="<f4")
TEXELS = np.array([[[250, 20, 90], [10, 200, 40]], [[128, 64, 32], [255, 255, 255]]], dtype=np.uint8)
FACTOR = [0.2159, 0.8, 0.5]
LIGHT = [0.6, 0.2159, 0.9]


def srgb(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, written anew."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


class Gltf:
    """A glTF file that is put together piece by piece."""

    def __init__(self) -> None:
        self.binary = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}], "nodes": [], "meshes": [],
            "materials": [], "accessors": [], "bufferViews": [], "images": [], "textures": [], "samplers": [],
        }  # fmt: skip

    def view(self, content: bytes, **more: Any) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(content), **more}
        self.tree["bufferViews"].append(view)
        self.binary += content
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more: Any) -> int:
        codes = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        kind = "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}"
        code = codes[f"{values.dtype.kind}{values.dtype.itemsize}"]
        accessor = {"bufferView": self.view(values.tobytes()), "componentType": code, "count": len(values)}
        self.tree["accessors"].append({**accessor, "type": kind, **more})
        return len(self.tree["accessors"]) - 1

    def texture(self, texels: np.ndarray = TEXELS, **sampler: int) -> int:
        file = io.BytesIO()
        Image.fromarray(texels).save(file, format="PNG")
        self.tree["images"].append({"bufferView": self.view(file.getvalue()), "mimeType": "image/png"})
        self.tree["samplers"].append({"magFilter": 9728, **sampler})
        number = len(self.tree["images"]) - 1
        self.tree["textures"].append({"source": number, "sampler": number})
        return number

    def square(
        self,
        material: dict[str, Any] | None = None,
        colours: np.ndarray | None = None,
        node: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """A mesh of a square under a node of its own; `more` are further attributes' arrays."""
        attributes = {"POSITION": self.accessor(SQUARE), "TEXCOORD_0": self.accessor(CORNERS)}
        if colours is not None:
            attributes["COLOR_0"] = self.accessor(colours, normalized=colours.dtype.kind == "u")
        attributes |= {name: self.accessor(values) for name, values in more.items()}
        primitive: dict[str, Any] = {"attributes": attributes, "indices": self.accessor(FACES.ravel())}
        if material is not None:
            self.tree["materials"].append(material)
            primitive["material"] = len(self.tree["materials"]) - 1
        self.tree["meshes"].append({"primitives": [primitive]})
        self.tree["nodes"].append({"mesh": len(self.tree["meshes"]) - 1, **(node or {})})
        self.tree["scenes"][0]["nodes"].append(len(self.tree["nodes"]) - 1)

    def write(self, path: Path) -> Path:
        tree = {key: value for key, value in self.tree.items() if value != []}
        if path.suffix == ".gltf":
            path.with_suffix(".bin").write_bytes(self.binary)
            tree["buffers"] = [{"byteLength": len(self.binary), "uri": path.with_suffix(".bin").name}]
            path.write_text(json.dumps(tree))
            return path
        tree["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        path.write_bytes(
            struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary))
            + struct.pack("<I4s", len(text), b"JSON") + text
            + struct.pack("<I4s", len(binary), b"BIN\0") + binary
        )  # fmt: skip
        return path


def material(
    factor: list[float] | None = None, texture: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    surface: dict[str, Any] = {}
    if factor is not None:
        surface["baseColorFactor"] = [*factor, 1.0]
    if texture is not None:
        surface["baseColorTexture"] = texture
    return {"pbrMetallicRoughness": surface, **more}


def seen(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """sRGB at points of the mesh's surface."""
    triangles = np.asarray(mesh.triangles)
    faces, shares = [], []
    for point in points:
        found = trimesh.triangles.points_to_barycentric(
            triangles, np.repeat(point[None], len(triangles), axis=0)
        )
        there = trimesh.triangles.barycentric_to_points(triangles, found)
        misses = np.linalg.norm(there - point, axis=-1) + np.maximum(-found.min(axis=1), 0)
        faces.append(int(misses.argmin()))
        shares.append(found[faces[-1]])
    return surface_colours(mesh, np.array(faces), np.array(shares))


# Where each texel of TEXELS is seen on the square, row by row.
QUARTERS = np.array([[0.25, 0.75, 0], [0.75, 0.75, 0], [0.25, 0.25, 0], [0.75, 0.25, 0]])
ENCODINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float": lambda values: values.astype("<f4"),
    "byte": lambda values: np.round(values * 255).astype("u1"),
    "short": lambda values: np.round(values * 65535).astype("<u2"),
}


@pytest.mark.parametrize("ending", [".glb", ".gltf"])
@pytest.mark.parametrize(
    ("textured", "factored", "encoding", "alpha"),
    [
        (*flags, encoding, alpha)
        for flags in itertools.product((False, True), repeat=2)
        for encoding, alpha in [(None, False), *itertools.product(ENCODINGS, (False, True))]
    ],
)
def test_gltf_is_texture_times_factor_times_vertex_colour_in_light(
    tmp_path: Path, textured: bool, factored: bool, encoding: str | None, alpha: bool, ending: str
) -> None:
    file = Gltf()
    wanted = np.ones((4, 3))
    if textured:
        wanted = wanted * linear(TEXELS.reshape(4, 3) / 255)
    if factored:
        wanted = wanted * FACTOR
    colours = None
    if encoding is not None:
        values = np.repeat([[*LIGHT, 0.25][: 4 if alpha else 3]], 4, axis=0)
        colours = ENCODINGS[encoding](values)
        scale = 1.0 if colours.dtype.kind == "f" else np.iinfo(colours.dtype).max
        wanted = wanted * (colours[:, :3] / scale)
    told = material(FACTOR if factored else None, {"index": file.texture()} if textured else None)
    file.square(told, colours)
    found = seen(read_mesh(file.write(tmp_path / f"square{ending}")), QUARTERS)
    np.testing.assert_allclose(found, srgb(wanted), atol=1e-6)


def test_the_grey_of_21_59_percent_of_the_light_is_128(tmp_path: Path) -> None:
    factor, colour, both = Gltf(), Gltf(), Gltf()
    factor.square(material([0.2159] * 3))
    colour.square(None, np.full((4, 3), 0.2159, dtype="<f4"))
    both.square(material([0.2159**0.5] * 3), np.full((4, 3), 0.2159**0.5, dtype="<f4"))
    for file in (factor, colour, both):
        mesh = read_mesh(file.write(tmp_path / "grey.glb"))
        assert np.round(seen(mesh, QUARTERS) * 255).tolist() == [[128] * 3] * 4
        # What trimesh hands on, a file of the truth among it.
        assert np.asarray(mesh.visual.vertex_colors)[:, :3].tolist() == [[128] * 3] * 4


def test_each_part_keeps_its_own_colours_where_its_node_puts_it(tmp_path: Path) -> None:
    file = Gltf()
    file.square(material(None, {"index": file.texture()}))
    file.square(material(FACTOR), node={"translation": [2, 0, 0]})
    half = np.repeat([[0.5, 0.25, 1.0]], 4, axis=0).astype("<f4")
    quarter_turn = {"rotation": [0, 0, 0.5**0.5, 0.5**0.5], "scale": [2, 2, 2], "translation": [0, 5, 0]}
    file.square(None, half, node=quarter_turn)
    other = 255 - TEXELS
    file.square(
        material(None, {"index": file.texture(other)}),
        node={"matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 4, 0, 0, 1]},
    )
    # Another scene's square is nobody's here, and a point is no triangle.
    file.square(material([1, 0, 0]))
    file.tree["scenes"].append({"nodes": [file.tree["scenes"][0]["nodes"].pop()]})
    file.tree["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 0})
    mesh = read_mesh(file.write(tmp_path / "parts.glb"))
    assert len(mesh.faces) == 8
    np.testing.assert_allclose(mesh.bounds, [[-2, 0, 0], [5, 7, 0]], atol=1e-12)
    np.testing.assert_allclose(seen(mesh, QUARTERS) * 255, TEXELS.reshape(4, 3), atol=1e-6)
    np.testing.assert_allclose(
        seen(mesh, QUARTERS + np.array([2, 0, 0])), np.repeat([srgb(np.array(FACTOR))], 4, axis=0)
    )
    np.testing.assert_allclose(
        seen(mesh, QUARTERS + np.array([4, 0, 0])) * 255, other.reshape(4, 3), atol=1e-6
    )
    np.testing.assert_allclose(
        seen(mesh, QUARTERS * [-2, 2, 0] + [0, 5, 0]), srgb(half.astype(float)), atol=1e-6
    )
    # Moved, copied and cut as everywhere else.
    moved = mesh.copy().apply_translation([0, 0, 1])
    there = QUARTERS + np.array([0, 0, 1])
    np.testing.assert_allclose(seen(moved, there) * 255, TEXELS.reshape(4, 3), atol=1e-6)
    moved.update_faces(moved.triangles_center[:, 0] > 4)
    assert len(moved.faces) == 2
    there = QUARTERS + np.array([4, 0, 1])
    np.testing.assert_allclose(seen(moved, there) * 255, other.reshape(4, 3), atol=1e-6)


def test_vertex_colours_are_interpolated_as_light(tmp_path: Path) -> None:
    file = Gltf()
    file.square(None, np.array([[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]], dtype="<f4"))
    mesh = read_mesh(file.write(tmp_path / "ramp.glb"))
    np.testing.assert_allclose(seen(mesh, np.array([[0.5, 0.25, 0]])), srgb(np.full((1, 3), 0.5)), atol=1e-6)


@pytest.mark.parametrize(
    ("wrap", "columns"), [(10497, [1, 0, 1, 0]), (33071, [0, 0, 1, 1]), (33648, [0, 0, 1, 1])]
)
def test_textures_repeat_clamp_or_mirror(tmp_path: Path, wrap: int, columns: list[int]) -> None:
    """Four columns from u = -0.5 to 1.5: texels -1, 0, 1, 2 of a row of two."""
    file = Gltf()
    moved = {"extensions": {"KHR_texture_transform": {"offset": [-0.5, 0], "scale": [2, 1]}}}
    file.square(material(None, {"index": file.texture(wrapS=wrap, wrapT=33071), **moved}))
    points = np.array([[(k + 0.5) / 4, 0.75, 0] for k in range(4)])
    found = seen(read_mesh(file.write(tmp_path / "wrap.glb")), points)
    np.testing.assert_allclose(found * 255, TEXELS[0, columns], atol=1e-6)
    # The same downwards: each direction has its own way.
    down = Gltf()
    moved = {"extensions": {"KHR_texture_transform": {"offset": [0, -0.5], "scale": [1, 2]}}}
    other = 33071 if wrap != 33071 else 10497
    down.square(material(None, {"index": down.texture(wrapS=other, wrapT=wrap), **moved}))
    found = seen(
        read_mesh(down.write(tmp_path / "down.glb")), points[:, [1, 0, 2]] * [1 / 3, -1, 1] + [0, 1, 0]
    )
    np.testing.assert_allclose(found * 255, TEXELS[columns, 0], atol=1e-6)
    mirrored_twice = Gltf()
    far = {"extensions": {"KHR_texture_transform": {"offset": [2, 0], "scale": [2, 1]}}}
    mirrored_twice.square(material(None, {"index": mirrored_twice.texture(wrapS=33648), **far}))
    found = seen(read_mesh(mirrored_twice.write(tmp_path / "far.glb")), points)
    np.testing.assert_allclose(found * 255, TEXELS[0, [0, 1, 1, 0]], atol=1e-6)


def test_texture_transforms_and_the_second_set_of_coordinates(tmp_path: Path) -> None:
    """The extension's own example: a quarter turn, half the size, shows the lower left quadrant alone."""
    big = np.zeros((4, 4, 3), dtype=np.uint8)
    big[2:, :2] = TEXELS
    file = Gltf()
    moved = {"offset": [0, 1], "rotation": np.pi / 2, "scale": [0.5, 0.5], "texCoord": 1}
    info = {"index": file.texture(big), "texCoord": 0, "extensions": {"KHR_texture_transform": moved}}
    file.square(material(None, info), TEXCOORD_1=CORNERS)
    file.tree["extensionsRequired"] = ["KHR_texture_transform"]
    found = seen(read_mesh(file.write(tmp_path / "turned.glb")), QUARTERS)
    # (u, v) shows the image at (v / 2, 1 - u / 2).
    np.testing.assert_allclose(
        found.reshape(2, 2, 3) * 255, TEXELS[[[1, 0], [1, 0]], [[0, 0], [1, 1]]], atol=1e-6
    )


def test_bilinear_textures_are_filtered_as_light(tmp_path: Path) -> None:
    file = Gltf()
    file.square(material(None, {"index": file.texture(magFilter=9729)}))
    found = seen(read_mesh(file.write(tmp_path / "smooth.glb")), np.array([[0.5, 0.5, 0]]))
    np.testing.assert_allclose(found[0], srgb(linear(TEXELS.reshape(4, 3) / 255).mean(axis=0)), atol=1e-6)


@pytest.mark.parametrize(("filter", "is_smooth"), [(9728, False), (9729, True), (None, True)])
def test_a_sampler_says_whether_texels_are_mixed(tmp_path: Path, filter: int | None, is_smooth: bool) -> None:
    file = Gltf()
    file.square(material(None, {"index": file.texture()}))
    file.tree["samplers"] = [{} if filter is None else {"magFilter": filter}]
    found = seen(read_mesh(file.write(tmp_path / "it.glb")), np.array([[0.45, 0.55, 0]])) * 255
    assert (np.abs(found - TEXELS[0, 0]).max() > 5) == is_smooth


def test_sparse_strided_and_quantised_accessors_strips_fans_and_mirrors(tmp_path: Path) -> None:
    file = Gltf()
    file.square(material(FACTOR), node={"scale": [-1, 1, 1]})
    mesh = read_mesh(file.write(tmp_path / "mirror.glb"))
    np.testing.assert_allclose(mesh.face_normals, [[0, 0, 1]] * 2)
    accessors, primitive = file.tree["accessors"], file.tree["meshes"][0]["primitives"][0]
    del file.tree["nodes"][0]["scale"]
    for mode, order in ((5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])):
        primitive |= {"mode": mode, "indices": file.accessor(np.array(order, dtype="u1"))}
        mesh = read_mesh(file.write(tmp_path / "strip.glb"))
        np.testing.assert_allclose(mesh.face_normals, [[0, 0, 1]] * 2)
        assert mesh.area == pytest.approx(1)
    primitive |= {"mode": 4, "indices": file.accessor(FACES.ravel())}
    # Interleaved shorts, of which 32767 stands for 1; then one corner is replaced.
    shorts = np.zeros((4, 4), dtype="<i2")
    shorts[:, :3] = np.round(SQUARE * 32767)
    view = file.view(shorts.tobytes(), byteStride=8)
    accessors[0] = {"bufferView": view, "componentType": 5122, "count": 4, "type": "VEC3", "normalized": True}
    assert read_mesh(file.write(tmp_path / "short.glb")).bounds.tolist() == [[0, 0, 0], [1, 1, 0]]
    accessors[0] = {
        "bufferView": file.view(SQUARE.tobytes()),
        "componentType": 5126,
        "count": 4,
        "type": "VEC3",
    }
    accessors[0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": file.view(np.array([2], dtype="u1").tobytes()), "componentType": 5121},
        "values": {"bufferView": file.view(np.array([3, 4, 0], dtype="<f4").tobytes())},
    }
    assert read_mesh(file.write(tmp_path / "sparse.glb")).bounds.tolist() == [[0, 0, 0], [3, 4, 0]]


def test_a_skin_is_in_its_rest_pose_and_morph_targets_at_their_weights(tmp_path: Path) -> None:
    file = Gltf()
    ones = np.zeros((4, 4), dtype="<f4")
    ones[:, 0] = 1
    file.square(
        node={"skin": 0, "translation": [9, 9, 9]}, JOINTS_0=np.zeros((4, 4), dtype="u1"), WEIGHTS_0=ones
    )
    file.tree["nodes"].append({"translation": [0, 2, 0], "scale": [2, 2, 2]})
    file.tree["scenes"][0]["nodes"].append(1)
    # First to the joint's own frame, then to where the joint is.
    inverse = np.eye(4, dtype="<f4")
    inverse[3, :3] = [1, 0, 0]
    view = file.view(inverse.tobytes())
    file.tree["accessors"].append({"bufferView": view, "componentType": 5126, "count": 1, "type": "MAT4"})
    file.tree["skins"] = [{"joints": [1], "inverseBindMatrices": len(file.tree["accessors"]) - 1}]
    primitive = file.tree["meshes"][0]["primitives"][0]
    primitive["targets"] = [{"POSITION": file.accessor(np.repeat([[0, 0, 4]], 4, axis=0).astype("<f4"))}]
    file.tree["meshes"][0]["weights"] = [0.5]
    assert read_mesh(file.write(tmp_path / "skin.glb")).bounds.tolist() == [[2, 2, 4], [4, 4, 4]]


def test_a_nodes_transform_comes_before_those_above_it_and_an_instances_before_the_nodes(
    tmp_path: Path,
) -> None:
    file = Gltf()
    file.square(node={"translation": [3, 0, 0]})
    above = {
        "rotation": [0, 0, 0.5**0.5, 0.5**0.5],
        "scale": [2, 2, 2],
        "translation": [0, 5, 0],
        "children": [0],
    }
    file.tree["nodes"].append(above)
    file.tree["scenes"][0]["nodes"] = [1]
    mesh = read_mesh(file.write(tmp_path / "tree.glb"))
    np.testing.assert_allclose(mesh.bounds, [[-2, 11, 0], [0, 13, 0]], atol=1e-9)
    places = file.accessor(np.array([[0, 0, 0], [0, 7, 0]], dtype="<f4"))
    file.tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": places}}}
    mesh = read_mesh(file.write(tmp_path / "instances.glb"))
    assert len(mesh.faces) == 4
    np.testing.assert_allclose(mesh.bounds, [[-16, 11, 0], [0, 13, 0]], atol=1e-9)
    above["extensions"] = {"KHR_node_visibility": {"visible": False}}
    with pytest.raises(MeshError, match="no triangles"):
        read_mesh(file.write(tmp_path / "hidden.glb"))


@pytest.mark.parametrize(
    ("name", "help"),
    [
        ("KHR_draco_mesh_compression", "DracoPy"),
        ("EXT_meshopt_compression", "meshoptimizer"),
        ("KHR_texture_basisu", "ktxdecompress"),
        ("ACME_secret", "without that extension"),
    ],
)
def test_extensions_that_cannot_be_read_are_named(tmp_path: Path, name: str, help: str) -> None:
    file = Gltf()
    file.square()
    file.tree["extensionsRequired"] = file.tree["extensionsUsed"] = [name]
    with pytest.raises(MeshError, match=f"{name}.*not supported.*{help}"):
        read_mesh(file.write(tmp_path / "needs.glb"))
    # As an offer beside a plain version it is no obstacle.
    del file.tree["extensionsRequired"]
    assert len(read_mesh(file.write(tmp_path / "offers.glb")).faces) == 2


def test_extensions_that_change_no_colour_are_no_obstacle(tmp_path: Path) -> None:
    file = Gltf()
    file.square(material(FACTOR, extensions={"KHR_materials_unlit": {}}))
    file.tree["extensionsRequired"] = ["KHR_materials_unlit", "KHR_mesh_quantization", "KHR_lights_punctual"]
    found = seen(read_mesh(file.write(tmp_path / "unlit.glb")), QUARTERS[:1])
    np.testing.assert_allclose(found, srgb(np.array([FACTOR])), atol=1e-6)


def test_a_texture_that_is_only_there_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    file = Gltf()
    file.square(material(None, {"index": file.texture()}))
    file.tree["textures"][0] = {"extensions": {"KHR_texture_basisu": {"source": 0}}}
    with pytest.raises(MeshError, match="KHR_texture_basisu"):
        read_mesh(file.write(tmp_path / "ktx.glb"))
    file.tree["textures"][0] = {"extensions": {"EXT_texture_webp": {"source": 0}}}
    assert len(read_mesh(file.write(tmp_path / "webp.glb")).faces) == 2
    primitive = file.tree["meshes"][0]["primitives"][0]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    del file.tree["accessors"][primitive["attributes"]["POSITION"]]["bufferView"]
    with pytest.raises(MeshError, match="KHR_draco_mesh_compression"):
        read_mesh(file.write(tmp_path / "draco.glb"))


@pytest.mark.parametrize(
    ("mode", "opacity", "reported"),
    [
        ("OPAQUE", 0.1, False),
        ("MASK", 0.4, True),
        ("MASK", 0.6, False),
        ("BLEND", 0.9, True),
        ("BLEND", 1.0, False),
    ],
)
def test_transparency_is_reported(tmp_path: Path, mode: str, opacity: float, reported: bool) -> None:
    file = Gltf()
    surface = {"baseColorFactor": [1, 1, 1, opacity]}
    file.square({"name": "glass", "alphaMode": mode, "pbrMetallicRoughness": surface})
    told: list[str] = []
    read_mesh(file.write(tmp_path / "glass.glb"), told.append)
    assert [text for text in told if "'glass' is transparent" in text] == told and bool(told) == reported


def test_light_that_a_material_gives_is_reported(tmp_path: Path) -> None:
    """A black material that glows red looks red in every viewer, and comes in black."""
    table: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"emissiveFactor": [0, 0, 0]}, False),
        ({"emissiveFactor": [1, 0, 0]}, True),
        ({"emissiveTexture": {"index": 0}}, True),
    ]
    for more, reported in table:
        file, told = Gltf(), list[str]()
        file.square(material([0, 0, 0], name="lamp", **more))
        read_mesh(file.write(tmp_path / "lamp.glb"), told.append)
        assert [text for text in told if "'lamp' glows" in text] == told and bool(told) == reported


def test_an_index_below_0_is_not_the_last_vertex(tmp_path: Path) -> None:
    file = Gltf()
    file.square()
    primitive = file.tree["meshes"][0]["primitives"][0]
    primitive["indices"] = file.accessor(np.array([0, 1, -1], "i1"))
    with pytest.raises(MeshError, match="not one of 4"):
        read_mesh(file.write(tmp_path / "signed.glb"))


DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a negative material": lambda tree: tree["meshes"][0]["primitives"][0].update(material=-1),
    "no such mesh": lambda tree: tree["nodes"][0].update(mesh=7),
    "a view beyond its buffer": lambda tree: tree["bufferViews"][0].update(byteLength=10**9),
    "a negative offset": lambda tree: tree["bufferViews"][0].update(byteOffset=-4),
    "an accessor beyond its view": lambda tree: tree["accessors"][0].update(count=10**6),
    "more values than memory": lambda tree: tree["accessors"][0].update(count=10**15),
    "an index beyond the vertices": lambda tree: tree["accessors"][0].update(count=2),
    "a circle of nodes": lambda tree: tree["nodes"][0].update(children=[0]),
    "another version": lambda tree: tree["asset"].update(version="1.0"),
    "no components of that kind": lambda tree: tree["accessors"][0].update(componentType=5130),
    "a list for a mapping": lambda tree: tree.update(asset=[]),
    "no coordinates for the texture": lambda tree: tree["meshes"][0]["primitives"][0]["attributes"].pop(
        "TEXCOORD_0"
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_gltf_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    file = Gltf()
    file.square(material(None, {"index": file.texture()}))
    DAMAGE[what](file.tree)
    with pytest.raises(MeshError) as caught:
        read_mesh(file.write(tmp_path / "damaged.glb"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [3, 11, 19, 40, 400, -1])
def test_a_glb_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    file = Gltf()
    file.square()
    path = file.write(tmp_path / "whole.glb")
    (tmp_path / "cut.glb").write_bytes(path.read_bytes()[:length])
    with pytest.raises(MeshError):
        read_mesh(tmp_path / "cut.glb")


# ------------------------------------------------------------------------------------------------ obj

OBJ = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
TEXTURED_FACE = "usemtl skin\nf 1/1 2/2 3/3 4/4\n"


def write_obj(folder: Path, statement: str, texture: str = "skin.png", faces: str = TEXTURED_FACE) -> Path:
    (folder / texture).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(TEXELS.repeat(8, axis=0).repeat(8, axis=1)).save(folder / texture)
    (folder / "it.mtl").write_text(f"newmtl skin\n{statement}\n")
    (folder / "it.obj").write_text(f"mtllib it.mtl\n{OBJ}{faces}")
    return folder / "it.obj"


NAMES = {
    "as it is": ("skin.png", "skin.png"),
    "options": ("-s 1 1 1 skin.png", "skin.png"),
    "more options": ("-blendu on -o 0 0 0 -mm 0 1 -clamp off -imfchan r -bm 0.5 skin.png", "skin.png"),
    "options of one number": ("-s 1 -o 0 skin.png", "skin.png"),
    "spaces": ("my skin no. 2.png", "my skin no. 2.png"),
    "spaces and options": ("-s 1 1 my skin.png", "my skin.png"),
    "a number": ("-o 0 0 0 7.png", "7.png"),
    "quotes": ('"skin.png"', "skin.png"),
    "backslashes": ("maps\\sub\\skin.png", "maps/sub/skin.png"),
    "case": ("Maps/SKIN.PNG", "maps/skin.png"),
    "a folder that is gone": ("textures/x/skin.png", "skin.png"),
    "somebody's disk": ("C:\\Users\\ada\\My Models\\skin.png", "skin.png"),
    "somebody's home": ("/home/ada/models/skin.png", "skin.png"),
    "somebody's disk, a folder of textures": ("D:\\work\\Skin.png", "textures/skin.png"),
    "the folder above": ("../skin.png", "../skin.png"),
    "a folder beside the mesh's": ("/ada/skin.png", "../Textures/skin.png"),
}


@pytest.mark.parametrize("what", NAMES)
def test_textures_are_found_however_they_are_named(tmp_path: Path, what: str) -> None:
    (tmp_path / "mesh").mkdir()
    told: list[str] = []
    mesh = read_mesh(write_obj(tmp_path / "mesh", f"map_Kd {NAMES[what][0]}", NAMES[what][1]), told.append)
    np.testing.assert_allclose(seen(mesh, QUARTERS) * 255, TEXELS.reshape(4, 3), atol=1e-6)
    assert told == []


def test_what_an_obj_names_and_is_not_there_is_reported(tmp_path: Path) -> None:
    told: list[str] = []

    def reports(path: Path) -> str:
        told.clear()
        assert len(read_mesh(path, told.append).faces) == 2
        return "\n".join(told)

    assert "texture 'gone.png', which is not beside it" in reports(write_obj(tmp_path, "map_Kd gone.png"))
    assert "other.mtl" in reports(obj(tmp_path, f"mtllib other.mtl\n{OBJ}{TEXTURED_FACE}"))
    assert "material 'skin'" in "\n".join(told)
    (tmp_path / "skin.png").write_bytes(b"BM no PNG")
    (tmp_path / "it.mtl").write_text("newmtl skin\nmap_Kd skin.png\n")
    assert "a BMP" in reports(obj(tmp_path, f"mtllib it.mtl\n{OBJ}{TEXTURED_FACE}"))
    assert "transparent" in reports(write_obj(tmp_path, "Kd 1 0 0\nd 0.5"))
    assert "-mm" in reports(write_obj(tmp_path, "map_Kd -mm 0.5 1 skin.png"))
    assert "spectral" in reports(write_obj(tmp_path, "Kd spectral file.rfl"))
    assert reports(write_obj(tmp_path, "Kd 1 0 0\nd 1\nillum 2\nmap_Bump x.png")) == ""


def obj(folder: Path, text: str) -> Path:
    (folder / "it.obj").write_text(text)
    return folder / "it.obj"


def test_obj_is_texture_times_kd_or_vertex_colour(tmp_path: Path) -> None:
    color, vertex = np.array([0.9, 0.5, 0.2]), np.array([0.5, 1.0, 0.25])
    plain = write_obj(tmp_path, "Kd 0.9 0.5 0.2")
    np.testing.assert_allclose(seen(read_mesh(plain), QUARTERS), np.repeat([color], 4, axis=0), atol=1e-6)
    both = write_obj(tmp_path, "Kd 0.9 0.5 0.2\nmap_Kd skin.png")
    wanted = linear(TEXELS.reshape(4, 3) / 255) * linear(color)
    np.testing.assert_allclose(seen(read_mesh(both), QUARTERS), srgb(wanted), atol=1e-6)
    # Exporters that mean the texture alone write black.
    black = write_obj(tmp_path, "Kd 0 0 0\nmap_Kd skin.png")
    np.testing.assert_allclose(seen(read_mesh(black), QUARTERS) * 255, TEXELS.reshape(4, 3), atol=1e-6)
    # Colours of vertices, which a texture hides and which hide the material's own, in bytes as well.
    text = both.read_text()
    for x in ("0 0", "1 0", "1 1", "0 1"):
        text = text.replace(f"v {x} 0\n", f"v {x} 0 0.5 1.0 0.25\n")
    both = write_obj(tmp_path, "Kd 0.9 0.5 0.2\nmap_Kd skin.png")
    np.testing.assert_allclose(seen(read_mesh(obj(tmp_path, text)), QUARTERS), srgb(wanted), atol=1e-6)
    write_obj(tmp_path, "Kd 0.9 0.5 0.2")
    for colours in ("0.5 1.0 0.25", "127.5 255 63.75"):
        found = seen(read_mesh(obj(tmp_path, text.replace("0.5 1.0 0.25", colours))), QUARTERS)
        np.testing.assert_allclose(found, np.repeat([vertex], 4, axis=0), atol=1e-6)


@pytest.mark.parametrize("named", ["mtllib first.mtl\nmtllib second.mtl\n", "mtllib first.mtl second.mtl\n"])
def test_obj_takes_materials_of_all_its_files(tmp_path: Path, named: str) -> None:
    colours = np.array([[0.9, 0.5, 0.2], [0.1, 0.3, 0.8]])
    for name, (r, g, b) in zip(("first", "second"), colours.tolist(), strict=True):
        (tmp_path / f"{name}.mtl").write_text(f"newmtl {name}\nKd {r} {g} {b}\n")
    faces = "usemtl first\nf 1 2 3\nusemtl second\nf 1 3 4\n"
    mesh = read_mesh(obj(tmp_path, f"{named}{OBJ}{faces}"), pytest.fail)
    corner = np.array([[1.0, 0.0, 0.0]] * 2)
    np.testing.assert_allclose(surface_colours(mesh, np.array([0, 1]), corner), colours, atol=1e-6)


def test_obj_parts_with_a_texture_with_vertex_colours_and_with_neither_keep_their_own(tmp_path: Path) -> None:
    both = write_obj(tmp_path, "map_Kd skin.png\nnewmtl plain\nKd 0.9 0.5 0.2")
    more = "".join(f"v {x} {y} 0 0 0.5 1\n" for x, y in ((2, 0), (3, 0), (3, 1), (2, 1)))
    more += "usemtl plain\nf 5 6 7 8\n"
    more += "".join(f"v {x} {y} 0\n" for x, y in ((4, 0), (5, 0), (5, 1), (4, 1))) + "f 9 10 11 12\n"
    mesh = read_mesh(
        obj(tmp_path, both.read_text() + more.replace("f 9", "usemtl skin2\nf 9")), lambda text: None
    )
    np.testing.assert_allclose(seen(mesh, QUARTERS) * 255, TEXELS.reshape(4, 3), atol=1e-6)
    np.testing.assert_allclose(seen(mesh, QUARTERS + np.array([2, 0, 0])), [[0, 0.5, 1]] * 4, atol=1e-6)
    np.testing.assert_allclose(seen(mesh, QUARTERS + np.array([4, 0, 0])), [[0.4] * 3] * 4, atol=1e-6)


def test_obj_textures_repeat_clamp_and_move(tmp_path: Path) -> None:
    repeated = write_obj(tmp_path, "map_Kd -s 2 2 1 skin.png")
    found = seen(read_mesh(repeated), QUARTERS / 2)
    np.testing.assert_allclose(found * 255, TEXELS.reshape(4, 3), atol=1e-6)
    clamped = write_obj(tmp_path, "map_Kd -clamp on -o 1 0 0 skin.png")
    found = seen(read_mesh(clamped), QUARTERS)
    np.testing.assert_allclose(found * 255, TEXELS[[0, 0, 1, 1], 1], atol=1e-6)
    moved = write_obj(tmp_path, "map_Kd -clamp off -o 1 0 0 skin.png")
    np.testing.assert_allclose(seen(read_mesh(moved), QUARTERS) * 255, TEXELS.reshape(4, 3), atol=1e-6)


def test_obj_counts_from_either_end_continues_lines_and_cuts_polygons(tmp_path: Path) -> None:
    square = read_mesh(obj(tmp_path, OBJ + "f -4 -3 \\\n -2 -1\nl 1 2\n"))
    assert square.area == pytest.approx(1) and len(square.faces) == 2
    # A corner that points inwards: fans overlap and their signed areas still add up.
    arrow = "v 0 0 0\nv 2 0 0\nv 0.5 0.5 0\nv 0 2 0\nf 1//1 2//1 3//1 4//1\nvn 0 0 1\n"
    mesh = read_mesh(obj(tmp_path, arrow))
    signed = np.cross(*np.diff(np.asarray(mesh.triangles), axis=1).swapaxes(0, 1))[:, 2].sum() / 2
    assert signed == pytest.approx(1)
    for text in ("f 1 2 5\n", "f 0 1 2\n", "f 1 2 x\n", "v 1 y 2\n", "v 1 2\n"):
        with pytest.raises(MeshError):
            read_mesh(obj(tmp_path, OBJ + "f 1 2 3\n" + text))


# ------------------------------------------------------------------------------------------------ others


# Name, numpy's type, and the numbers of each face.
Lists = list[tuple[str, str, Any]]


def write_ply(
    path: Path,
    kind: str,
    columns: list[tuple[str, str, list[float]]],
    lists: Lists,
    head: str = "",
) -> Path:
    """A square of two faces: columns of the vertices (name, numpy's type, values) and lists of the faces."""
    names = {"u1": "uchar", "u2": "ushort", "i4": "int", "f4": "float", "f8": "double"}
    columns = [(axis, "f4", SQUARE[:, k].tolist()) for k, axis in enumerate("xyz")] + columns
    text = f"ply\nformat {kind} 1.0\n{head}element vertex 4\n"
    text += "".join(f"property {names[kind]} {name}\n" for name, kind, _ in columns)
    text += f"element face {len(lists[0][2])}\n"
    text += "".join(f"property list uchar {names[kind]} {name}\n" for name, kind, _ in lists) + "end_header\n"
    content = text.encode()
    order = "<" if "little" in kind else ">"
    for row in range(4):
        for _, dtype, values in columns:
            value = np.array(values[row], order + dtype)
            content += f"{value:.9g} ".encode() if kind == "ascii" else value.tobytes()
    for row in range(len(lists[0][2])):
        for _, dtype, values in lists:
            numbers = np.array(values[row], order + dtype)
            content += (
                " ".join([str(len(numbers)), *(f"{n:.9g}" for n in numbers), "\n"]).encode() if kind == "ascii"
                else bytes([len(numbers)]) + numbers.tobytes()
            )  # fmt: skip
    path.write_bytes(content)
    return path


PLY_KINDS = ("ascii", "binary_little_endian", "binary_big_endian")
QUAD: Lists = [("vertex_indices", "i4", [[0, 1, 2, 3]])]
TWO: Lists = [("vertex_index", "i4", [[0, 1, 2], [0, 2, 3]])]


@pytest.mark.parametrize("kind", PLY_KINDS)
@pytest.mark.parametrize(
    ("dtype", "largest"), [("u1", 255), ("u2", 65535), ("f4", 1), ("f8", 255), ("i4", 255)]
)
def test_ply_colours_are_srgb_of_any_type(tmp_path: Path, kind: str, dtype: str, largest: float) -> None:
    values = np.array([0.2, 1.0, 0.6]) * largest
    colours = [
        (name, dtype, [value] * 4) for name, value in zip(("red", "green", "blue"), values, strict=True)
    ]
    # Coordinates without a texture take no colours away, as Blender writes them.
    plain = [("s", "f4", [0.0] * 4), ("t", "f4", [0.0] * 4)]
    for lists in (QUAD, TWO, [("vertex_indices", "i4", [[0, 1, 2], [0, 2, 3], [0, 1]])]):
        mesh = read_mesh(write_ply(tmp_path / "it.ply", kind, plain + colours, lists))
        assert mesh.area == pytest.approx(1)
        np.testing.assert_allclose(seen(mesh, QUARTERS), [[0.2, 1.0, 0.6]] * 4, atol=1e-6)


@pytest.mark.parametrize("kind", PLY_KINDS)
@pytest.mark.parametrize("at", ["vertices", "faces"])
def test_ply_textures_are_found_and_hide_the_colours(tmp_path: Path, kind: str, at: str) -> None:
    Image.fromarray(TEXELS.repeat(8, axis=0).repeat(8, axis=1)).save(tmp_path / "skin.png")
    uv = np.stack([CORNERS[:, 0], 1 - CORNERS[:, 1]], axis=-1)
    columns = [(name, "u1", [9.0] * 4) for name in ("red", "green", "blue")]
    lists = list(TWO)
    if at == "vertices":
        columns += [("s", "f4", uv[:, 0].tolist()), ("t", "f4", uv[:, 1].tolist())]
    else:
        lists.append(("texcoord", "f4", uv[FACES].reshape(2, 6).tolist()))
    told: list[str] = []
    path = write_ply(tmp_path / "it.ply", kind, columns, lists, "comment TextureFile C:\\work\\SKIN.png\n")
    found = seen(read_mesh(path, told.append), QUARTERS)
    np.testing.assert_allclose(found * 255, TEXELS.reshape(4, 3), atol=1e-6)
    assert told == []
    path = write_ply(tmp_path / "it.ply", kind, columns, lists, "comment TextureFile gone.png\n")
    found = seen(read_mesh(path, told.append), QUARTERS)
    np.testing.assert_allclose(found * 255, [[9] * 3] * 4, atol=1e-6)
    assert len(told) == 1 and "gone.png" in told[0]


def test_each_face_of_a_ply_has_the_texture_of_its_number(tmp_path: Path) -> None:
    for name, texel in (("one", TEXELS[0, 0]), ("two", TEXELS[0, 1])):
        Image.fromarray(np.tile(texel, (2, 2, 1))).save(tmp_path / f"{name}.png")
    head = ["ply", "format ascii 1.0", "comment TextureFile one.png", "comment TextureFile two.png"]
    head += ["element vertex 4", *(f"property float {axis}" for axis in "xyz"), "element face 2"]
    head += ["property list uchar int vertex_indices", "property list uchar float texcoord"]
    head += ["property int texnumber", "end_header"]
    rows = [" ".join(map(str, point)) for point in SQUARE.tolist()]
    rows += ["3 0 1 2 6 .5 .5 .5 .5 .5 .5 1", "3 0 2 3 6 .5 .5 .5 .5 .5 .5 0"]
    (tmp_path / "it.ply").write_text("\n".join([*head, *rows, ""]))
    found = seen(read_mesh(tmp_path / "it.ply"), np.array([[0.75, 0.25, 0], [0.25, 0.75, 0]]))
    np.testing.assert_allclose(found * 255, TEXELS[0, ::-1], atol=1e-6)


@pytest.mark.parametrize("kind", PLY_KINDS)
def test_a_ply_that_is_cut_off_or_wrong_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_ply(tmp_path / "it.ply", kind, [], QUAD)
    content = path.read_bytes()
    for length in range(0, len(content) - (1 if kind == "ascii" else 0), 7):
        path.write_bytes(content[:length])
        with pytest.raises(MeshError):
            read_mesh(path)
    for wrong in ([[0, 1, 4]], [[-1, 1, 2]]):
        with pytest.raises(MeshError, match="do not exist"):
            read_mesh(write_ply(path, kind, [], [("vertex_index", "i4", wrong)]))
    path.write_bytes(content.replace(b"face 1", b"face 99999999"))
    with pytest.raises(MeshError):
        read_mesh(path)


def test_faces_colours_and_files_without_colours(tmp_path: Path) -> None:
    mesh = trimesh.Trimesh(SQUARE, FACES, process=False)
    mesh.visual.face_colors = [[10, 20, 30, 255], [40, 50, 60, 255]]
    mesh.export(tmp_path / "it.ply")
    found = seen(read_mesh(tmp_path / "it.ply"), QUARTERS[[0, 3]])
    assert np.round(found * 255).tolist() == [[40, 50, 60], [10, 20, 30]]
    for ending in ("stl", "off"):
        mesh.export(tmp_path / f"it.{ending}")
        assert read_mesh(tmp_path / f"it.{ending}").area == pytest.approx(1)


def test_glb_is_known_by_its_content_and_archives_are_refused(tmp_path: Path) -> None:
    file = Gltf()
    file.square(material(FACTOR))
    found = seen(read_mesh(file.write(tmp_path / "avatar.VRM")), QUARTERS[:1])
    np.testing.assert_allclose(found, srgb(np.array([FACTOR])), atol=1e-6)
    with zipfile.ZipFile(tmp_path / "it.zip", "w") as archive:
        archive.write(tmp_path / "avatar.VRM", "avatar.glb")
    with pytest.raises(MeshError, match="Unpack"):
        read_mesh(tmp_path / "it.zip")


@pytest.mark.parametrize(("up", "wanted"), [("y", (1, 2, 3)), ("z", (1, 3, -2)), ("x", (-2, 1, 3))])
def test_the_axis_that_is_up_can_be_said(tmp_path: Path, up: Any, wanted: tuple[int, ...]) -> None:
    mesh = read_mesh(obj(tmp_path, "v 1 2 3\nv 4 2 3\nv 1 5 3\nf 1 2 3\n"), up=up)
    assert mesh.vertices[0].tolist() == list(wanted)
    # Turned, not mirrored.
    normal = read_mesh(obj(tmp_path, OBJ + "f 1 2 3\n"), up=up).face_normals[0]
    assert normal.tolist() == {"y": [0, 0, 1], "z": [0, 1, 0], "x": [0, 0, 1]}[up]


# ------------------------------------------------------------------------------------------------ our own exports


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_that_is_exported_comes_back_with_its_vertex_colours(
    tmp_path: Path, format: str
) -> None:
    """At the vertices to the last bit, all 256 greys among them."""
    mesh = trimesh.creation.icosphere(3, radius=0.7)
    colours = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices), 4), dtype=np.uint8)
    colours[:256, :3], colours[:, 3] = np.arange(256)[:, None], 255
    mesh.visual.vertex_colors = colours
    path = write_mesh(mesh, tmp_path / f"it.{format}")
    told: list[str] = []
    again = read_mesh(path, told.append)
    assert told == [] and len(again.faces) == len(mesh.faces)
    size = np.ptp(again.vertices[:, 1]) / np.ptp(mesh.vertices[:, 1])
    centres = again.triangles_center / size
    centres[:, 1] += np.mean(mesh.bounds[:, 1]) - np.mean(again.bounds[:, 1]) / size
    # The same faces in the same order and the same corners first: up is up, and the front in front.
    np.testing.assert_allclose(centres, mesh.triangles_center, atol=1e-4)
    if format == "stl":
        return
    face = np.repeat(np.arange(len(mesh.faces)), 3)
    shares = np.tile(np.eye(3), (len(mesh.faces), 1))
    found = surface_colours(again, face, shares) * 255
    np.testing.assert_allclose(found, colours[mesh.faces.ravel(), :3], atol=0.05)


@pytest.mark.parametrize("format", TEXTURED)
def test_every_textured_format_comes_back_with_its_texture(tmp_path: Path, format: str) -> None:
    mesh = trimesh.creation.icosphere(2, radius=0.7)
    size = 128
    atlas = box_atlas(mesh, size)
    split = split_at_seams(mesh, atlas)
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    texture = Texture(atlas.uvs, image, atlas.method)
    told: list[str] = []
    again = read_mesh(write_mesh(split, tmp_path / f"it.{format}", texture=texture), told.append)
    face = np.arange(len(mesh.faces))
    # On the middle of each face, by the nearest four texels' light.
    u, v = atlas.uvs[split.faces].mean(axis=1).T * size - 0.5
    x, y = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - x)[:, None], (v - y)[:, None]
    light = linear(image / 255)
    wanted = (light[y, x] * (1 - a) + light[y, x + 1] * a) * (1 - b) + (
        light[y + 1, x] * (1 - a) + light[y + 1, x + 1] * a
    ) * b
    found = surface_colours(again, face, np.full((len(face), 3), 1 / 3))
    assert told == []
    np.testing.assert_allclose(found, srgb(wanted), atol=0.5 / 255)
