# usd-core fills its modules when they are imported, which no type checker sees.
# pyright: reportAttributeAccessIssue=false
"""3MF packages and USD stages that others wrote: transforms, axes, and the colours of each kind."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.assets.read_mesh import read_mesh
from dreamfusion.errors import MeshError
from dreamfusion.posed_images.mesh_renderer import surface_colours

MODEL = """<?xml version="1.0"?>
<model unit="millimeter" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
 xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
 xmlns:p="http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
 xmlns:b="http://schemas.microsoft.com/3dmanufacturing/beamlattice/2017/02" {head}>
<resources>{resources}</resources><build>{build}</build></model>"""
# A right angle in the plane of the bed, seen from above.
POINTS = (
    '<vertices><vertex x="0" y="0" z="1"/><vertex x="4" y="0" z="1"/><vertex x="0" y="2" z="1"/></vertices>'
)


def body(number: int, triangle: str = "", more: str = "") -> str:
    return (
        f'<object id="{number}" {more}><mesh>{POINTS}<triangles>'
        f'<triangle v1="0" v2="1" v3="2" {triangle}/></triangles></mesh></object>'
    )


def package(
    path: Path, resources: str, build: str, head: str = "", files: dict[str, bytes] | None = None
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("3D/3dmodel.model", MODEL.format(head=head, resources=resources, build=build))
        for name, content in (files or {}).items():
            archive.writestr(name, content)
    return path


def middles(mesh: trimesh.Trimesh) -> np.ndarray:
    """sRGB bytes in the middle of each face."""
    count = len(mesh.faces)
    return np.round(surface_colours(mesh, np.arange(count), np.full((count, 3), 1 / 3)) * 255)


def test_3mf_objects_lie_where_the_build_puts_them_and_the_bed_is_below(tmp_path: Path) -> None:
    components = (
        '<object id="2"><components><component objectid="1" transform="1 0 0 0 1 0 0 0 1 10 0 0"/>'
        '<component objectid="1"/></components></object>'
    )
    # Rows are where x, y and z lead: x to y, y to -x.
    build = '<item objectid="2" transform="0 1 0 -1 0 0 0 0 1 0 0 5"/>'
    mesh = read_mesh(package(tmp_path / "it.3mf", body(1) + components, build))
    assert len(mesh.faces) == 2
    # In the file from x = -2 to 0, y = 0 to 14 and z = 6; there +Z is up and -Y the front.
    assert mesh.bounds.tolist() == [[-2, 6, -14], [0, 6, 0]]
    np.testing.assert_allclose(mesh.face_normals, [[0, 1, 0]] * 2, atol=1e-12)
    mirrored = package(
        tmp_path / "it.3mf", body(1), '<item objectid="1" transform="-1 0 0 0 1 0 0 0 1 0 0 0"/>'
    )
    np.testing.assert_allclose(read_mesh(mirrored).face_normals, [[0, 1, 0]], atol=1e-12)
    other = MODEL.format(head="", resources=body(7), build="").encode()
    apart = package(
        tmp_path / "it.3mf", "", '<item objectid="7" p:path="/3D/Other.model"/>', 'requiredextensions="p"',
        {"3D/other.model": other},
    )  # fmt: skip
    assert len(read_mesh(apart).faces) == 1


TEXELS = np.array([[[250, 20, 90], [10, 200, 40]], [[128, 64, 32], [255, 255, 255]]], np.uint8)
# How coordinates go on along u and v, and the texel (row, column) at (1.25, 1.25), counted from the lower left corner.
WRAPS = [
    (("wrap", "repeat"), ("wrap", "repeat"), (1, 0)),
    (("clamp", "clamp"), ("wrap", "repeat"), (1, 1)),
    (("wrap", "repeat"), ("clamp", "clamp"), (0, 0)),
    (("mirror", "mirror"), ("wrap", "repeat"), (1, 1)),
    (("wrap", "repeat"), ("mirror", "mirror"), (0, 0)),
]


@pytest.mark.parametrize(("u", "v", "texel"), WRAPS)
def test_3mf_textures_go_on_along_each_direction_in_its_own_way(
    tmp_path: Path, u: tuple[str, str], v: tuple[str, str], texel: tuple[int, int]
) -> None:
    file = io.BytesIO()
    Image.fromarray(TEXELS).save(file, format="PNG")
    resources = (
        f'<m:texture2d id="7" path="/it.png" filter="nearest" tilestyleu="{u[0]}" tilestylev="{v[0]}"/>'
        '<m:texture2dgroup id="8" texid="7"><m:tex2coord u="1.25" v="1.25"/></m:texture2dgroup>'
    ) + body(1, 'pid="8" p1="0"')
    path = package(tmp_path / "it.3mf", resources, '<item objectid="1"/>', files={"it.png": file.getvalue()})
    assert middles(read_mesh(path)).tolist() == [TEXELS[texel].tolist()]


@pytest.mark.parametrize(
    ("triangle", "of_object", "wanted"),
    [
        ('pid="5" p1="1"', "", [0, 128, 255]),
        ('pid="5" p1="0" p2="0" p3="1"', "", [170, 43, 85]),
        ("", 'pid="5" pindex="1"', [0, 128, 255]),
        ('pid="6" p1="0"', 'pid="5" pindex="1"', [10, 20, 30]),
        ("", "", [102, 102, 102]),
        ('pid="8" p1="0"', "", [40, 200, 90]),
    ],
)
def test_3mf_colours_are_srgb_of_triangles_or_of_their_object(
    tmp_path: Path, triangle: str, of_object: str, wanted: list[int]
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (40, 200, 90)).save(file, format="PNG")
    resources = (
        '<m:colorgroup id="5"><m:color color="#FF0000"/><m:color color="#0080FFFF"/></m:colorgroup>'
        '<basematerials id="6"><base name="dark" displaycolor="#0A141E"/></basematerials>'
        '<m:texture2d id="7" path="/3D/Textures/it.png" contenttype="image/png"/>'
        '<m:texture2dgroup id="8" texid="7"><m:tex2coord u="0.5" v="0.5"/></m:texture2dgroup>'
    )
    path = package(
        tmp_path / "it.3mf", resources + body(1, triangle, of_object), '<item objectid="1"/>',
        files={"3D/Textures/it.png": file.getvalue()},
    )  # fmt: skip
    assert middles(read_mesh(path)).tolist() == [wanted]


def test_3mf_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(MeshError) as caught:
            read_mesh(path)
        return str(caught.value)

    item, path = '<item objectid="1"/>', tmp_path / "it.3mf"
    assert "beamlattice" in refused(package(path, body(1), item, 'requiredextensions="b"'))
    assert "no object" in refused(package(path, body(2), item))
    circle = '<object id="1"><components><component objectid="1"/></components></object>'
    assert "nested" in refused(package(path, circle, item))
    assert "do not exist" in refused(package(path, body(1).replace('v3="2"', 'v3="3"'), item))
    assert "no triangles" in refused(package(path, body(1), ""))
    path.write_bytes(b"no zip")
    assert "no 3MF package" in refused(path)


# ------------------------------------------------------------------------------------------------ usd

STAGE = """#usda 1.0
(
    upAxis = "{up}"
)
def Xform "world"
{{
    double3 xformOp:translate = (10, 20, 30)
    uniform token[] xformOpOrder = ["xformOp:translate"]
    def Mesh "square" (prepend apiSchemas = ["MaterialBindingAPI"])
    {{
        int[] faceVertexCounts = {counts}
        int[] faceVertexIndices = {indices}
        point3f[] points = [(0, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0)]
        {more}
    }}
    {materials}
}}
"""


def stage(path: Path, more: str = "", materials: str = "", up: str = "Y", quad: bool = True) -> Path:
    counts, indices = ("[4]", "[0, 1, 2, 3]") if quad else ("[3, 3]", "[0, 1, 2, 0, 2, 3]")
    path.write_text(STAGE.format(up=up, counts=counts, indices=indices, more=more, materials=materials))
    return path


def preview(name: str, diffuse: str, shaders: str = "") -> str:
    return f"""def Material "{name}"
    {{
        token outputs:surface.connect = </world/{name}/surface.outputs:surface>
        def Shader "surface"
        {{
            uniform token info:id = "UsdPreviewSurface"
            {diffuse}
            token outputs:surface
        }}
        {shaders}
    }}
    """


@pytest.fixture
def usd() -> None:
    pytest.importorskip("pxr")


@pytest.mark.usefixtures("usd")
def test_usd_stages_of_either_axis_lie_where_they_are_put(tmp_path: Path) -> None:
    mesh = read_mesh(stage(tmp_path / "it.usda"))
    assert mesh.bounds.tolist() == [[10, 20, 30], [12, 21, 30]] and len(mesh.faces) == 2
    np.testing.assert_allclose(mesh.face_normals, [[0, 0, 1]] * 2)
    mesh = read_mesh(stage(tmp_path / "it.usda", up="Z"))
    assert mesh.bounds.tolist() == [[10, 30, -21], [12, 30, -20]]
    np.testing.assert_allclose(mesh.face_normals, [[0, 1, 0]] * 2)
    left = read_mesh(stage(tmp_path / "it.usda", 'uniform token orientation = "leftHanded"'))
    np.testing.assert_allclose(left.face_normals, [[0, 0, -1]] * 2)
    with pytest.raises(MeshError, match="no triangles"):
        read_mesh(stage(tmp_path / "it.usda", 'token visibility = "invisible"'))
    (tmp_path / "it.usda").write_text("no stage")
    with pytest.raises(MeshError, match="as USD"):
        read_mesh(tmp_path / "it.usda")


LIGHT = "(0.2158605, 0, 1)"  # sRGB 128, 0, 255
GREY = "(0.0512695, 0.0512695, 0.0512695)"  # sRGB 64
RED = "(1, 0, 0)"


@pytest.mark.usefixtures("usd")
@pytest.mark.parametrize(
    ("interpolation", "values", "wanted"),
    [
        ("constant", f"[{LIGHT}]", [[128, 0, 255]] * 2),
        ("uniform", f"[{LIGHT}, {RED}]", [[128, 0, 255], [255, 0, 0]]),
        ("vertex", f"[{LIGHT}, {LIGHT}, {LIGHT}, {LIGHT}]", [[128, 0, 255]] * 2),
        ("faceVarying", f"[{LIGHT}, {LIGHT}, {LIGHT}, {RED}, {RED}, {RED}]", [[128, 0, 255], [255, 0, 0]]),
    ],
)
def test_usd_display_colours_are_linear_and_of_any_interpolation(
    tmp_path: Path, interpolation: str, values: str, wanted: list[list[int]]
) -> None:
    more = f'color3f[] primvars:displayColor = {values} (interpolation = "{interpolation}")'
    assert middles(read_mesh(stage(tmp_path / "it.usda", more, quad=False))).tolist() == wanted


@pytest.mark.usefixtures("usd")
@pytest.mark.parametrize("orientation", ["rightHanded", "leftHanded"])
def test_usd_corners_keep_their_colours_when_polygons_are_cut(tmp_path: Path, orientation: str) -> None:
    """Of a square whose corners are black, red, violet and grey."""
    values = f"[(0, 0, 0), {RED}, {LIGHT}, {GREY}]"
    more = f'color3f[] primvars:displayColor = {values} (interpolation = "faceVarying")'
    mesh = read_mesh(stage(tmp_path / "it.usda", f'{more}\nuniform token orientation = "{orientation}"'))
    face, corner = np.indices(mesh.faces.shape).reshape(2, -1)
    found = np.round(surface_colours(mesh, face, np.eye(3)[corner]) * 255)
    wanted = {(10, 20): [0, 0, 0], (12, 20): [255, 0, 0], (12, 21): [128, 0, 255], (10, 21): [64, 64, 64]}
    places = mesh.vertices[mesh.faces[face, corner]][:, :2].tolist()
    assert found.tolist() == [wanted[x, y] for x, y in places]


@pytest.mark.usefixtures("usd")
def test_usd_materials_of_meshes_and_subsets(tmp_path: Path) -> None:
    bound = "rel material:binding = </world/{}>"
    violet = preview("violet", f"color3f inputs:diffuseColor = {LIGHT}")
    told: list[str] = []
    mesh = read_mesh(stage(tmp_path / "it.usda", bound.format("violet"), violet), told.append)
    assert middles(mesh).tolist() == [[128, 0, 255]] * 2 and told == []
    subset = f"""def GeomSubset "second" (prepend apiSchemas = ["MaterialBindingAPI"])
        {{
            uniform token elementType = "face"
            uniform token familyName = "materialBind"
            int[] indices = [1]
            {bound.format("red")}
        }}"""
    both = violet + preview("red", f"color3f inputs:diffuseColor = {RED}\nfloat inputs:opacity = 0.5")
    path = stage(tmp_path / "it.usda", bound.format("violet") + "\n" + subset, both, quad=False)
    mesh = read_mesh(path, told.append)
    assert sorted(middles(mesh).tolist()) == [[128, 0, 255], [255, 0, 0]]
    assert len(told) == 1 and "transparent" in told[0]


@pytest.mark.usefixtures("usd")
def test_usd_textures_are_srgb_times_their_scale(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[128, 0, 255], [255, 0, 0]]], np.uint8).repeat(8, 1)).save(tmp_path / "it.png")
    shaders = """def Shader "image"
        {{
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @{name}@
            float4 inputs:scale = (1, 1, {scale}, 1)
            float2 inputs:st.connect = </world/skin/reader.outputs:result>
            float3 outputs:rgb
        }}
        def Shader "reader"
        {{
            uniform token info:id = "UsdPrimvarReader_float2"
            string inputs:varname = "uv"
            float2 outputs:result
        }}"""
    diffuse = "color3f inputs:diffuseColor.connect = </world/skin/image.outputs:rgb>"
    # The left half of the image on the first triangle, the right half on the second.
    more = """texCoord2f[] primvars:uv = [(0.2, 0), (0.2, 1), (0.2, 1), (0.8, 0), (0.8, 0), (0.8, 1)] (
            interpolation = "faceVarying"
        )
        rel material:binding = </world/skin>"""
    told: list[str] = []

    def read(name: str, scale: float = 1) -> list[list[int]]:
        skin = preview("skin", diffuse, shaders.format(name=name, scale=scale))
        return middles(read_mesh(stage(tmp_path / "it.usda", more, skin, quad=False), told.append)).tolist()

    assert read("./it.png") == [[128, 0, 255], [255, 0, 0]]
    assert read("C:\\\\textures\\\\IT.png", 0.0512695) == [[128, 0, 64], [255, 0, 0]] and told == []
    read("gone.png")
    assert "gone.png" in told[0]


@pytest.mark.usefixtures("usd")
@pytest.mark.parametrize(("u", "v", "texel"), WRAPS)
def test_usd_textures_go_on_along_each_direction_in_its_own_way(
    tmp_path: Path, u: tuple[str, str], v: tuple[str, str], texel: tuple[int, int]
) -> None:
    Image.fromarray(TEXELS.repeat(8, 0).repeat(8, 1)).save(tmp_path / "it.png")
    image = f"""def Shader "image"
        {{
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @it.png@
            token inputs:wrapS = "{u[1]}"
            token inputs:wrapT = "{v[1]}"
            float3 outputs:rgb
        }}"""
    diffuse = "color3f inputs:diffuseColor.connect = </world/skin/image.outputs:rgb>"
    more = """texCoord2f[] primvars:st = [(1.25, 1.25)] (interpolation = "constant")
        rel material:binding = </world/skin>"""
    mesh = read_mesh(stage(tmp_path / "it.usda", more, preview("skin", diffuse, image)))
    assert middles(mesh).tolist() == [TEXELS[texel].tolist()] * 2
