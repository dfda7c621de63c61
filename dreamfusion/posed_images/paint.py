"""The colours of a mesh of several parts, each with a colour, a texture, colours at its corners, or all of them.

What is seen at a point is sRGB(linear(texture) * factor * corner colour): the product is one of light (glTF 2.0, 3.9.2 and
3.7.2.1), and textures are filtered as light, too. trimesh has one kind of colours for a whole mesh and takes all values for sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from trimesh.visual import ColorVisuals

Wrap = Literal["repeat", "clamp", "mirror"]
# What trimesh shows of a mesh without colours.
PLAIN_SRGB = 102 / 255


def srgb_to_linear(srgb: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The linear light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `srgb_to_linear`."""
    root = np.maximum(linear, 0.0) ** (1 / 2.4)
    # 1.055 root - 0.055, so written that 1 stays 1 to the last bit.
    return np.where(linear <= 0.0031308, linear * 12.92, root + 0.055 * (root - 1))


_SRGB_OF_BYTE = np.arange(256) / 255
_LINEAR_OF_BYTE = srgb_to_linear(_SRGB_OF_BYTE)


@dataclass(frozen=True, eq=False)
class Texture:
    """An image that is laid over a surface.

    Attributes:
        image: 8-bit sRGB; (0, 0) of the coordinates is its upper left corner, (1, 1) the lower right one.
        wrap: what lies beyond [0, 1], along u and along v.
        smooth: bilinear between texels' middles, or the nearest texel.
        as_light: whether the mean of texels is one of light, as graphics processors make it, or of their sRGB values.
    """

    image: UInt8[np.ndarray, "h w 3"]
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    smooth: bool = True
    as_light: bool = True

    def linear_at(self, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """The texture's light at each coordinate, in [0, 1]."""
        size = np.array(self.image.shape[1::-1])
        at = uv * size - 0.5
        if not self.smooth:
            return _LINEAR_OF_BYTE[self._texels(np.floor(at + 0.5))]
        low = np.floor(at)
        right, below = (at - low)[:, :1], (at - low)[:, 1:]
        across, down = np.array([1.0, 0.0]), np.array([0.0, 1.0])
        decode = _LINEAR_OF_BYTE if self.as_light else _SRGB_OF_BYTE
        corners = (low, low + across, low + down, low + across + down)
        a, b, c, d = (decode[self._texels(corner)] for corner in corners)
        mean = (a * (1 - right) + b * right) * (1 - below) + (c * (1 - right) + d * right) * below
        return mean if self.as_light else srgb_to_linear(mean)

    def _texels(self, at: Float[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n 3"]:
        height, width, _ = self.image.shape
        column = _wrapped(at[:, 0], width, self.wrap[0])
        row = _wrapped(at[:, 1], height, self.wrap[1])
        return self.image[row, column]


def _wrapped(index: Float[np.ndarray, " n"], length: int, wrap: Wrap) -> Int[np.ndarray, " n"]:
    # Coordinates may be of any size, and integers are not.
    match wrap:
        case "clamp":
            found = np.clip(index, 0, length - 1)
        case "repeat":
            found = np.mod(index, length)
        case "mirror":
            turned = np.mod(index, 2 * length)
            found = np.minimum(turned, 2 * length - 1 - turned)
    return found.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Paint:
    """The material of one part.

    Attributes:
        factor: linear light, multiplied with everything else.
        texture: None where there is none.
        linear_corners: whether the colours at the corners are linear light (glTF) or sRGB (OBJ, PLY); they are interpolated as
            they are.
    """

    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    texture: Texture | None = None
    linear_corners: bool = True


@dataclass(frozen=True, eq=False)
class SurfacePaint:
    """Several paints on one mesh.

    Attributes:
        paints: of the parts.
        paint_of: the paint of each face.
        uvs: texture coordinates of the faces' corners.
        corners: colours of the faces' corners; 1 where a part has none.
    """

    paints: tuple[Paint, ...]
    paint_of: Int[np.ndarray, " f"]
    uvs: Float[np.ndarray, "f 3 2"]
    corners: Float[np.ndarray, "f 3 3"]

    def at(self, face: Int[np.ndarray, " n"], shares: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """sRGB in [0, 1] at points of faces, by the shares of their corners."""
        found = np.empty((len(face), 3))
        paint_of = self.paint_of[face]
        for number in np.unique(paint_of):
            paint, here = self.paints[number], np.flatnonzero(paint_of == number)
            colour = np.einsum("nk,nkc->nc", shares[here], self.corners[face[here]])
            if not paint.linear_corners and paint.texture is None and paint.factor == (1.0, 1.0, 1.0):
                found[here] = colour  # to the last bit
                continue
            light = colour if paint.linear_corners else srgb_to_linear(colour)
            light = light * np.array(paint.factor)
            if paint.texture is not None:
                uv = np.einsum("nk,nkc->nc", shares[here], self.uvs[face[here]])
                light = light * paint.texture.linear_at(uv)
            found[here] = linear_to_srgb(np.clip(light, 0, 1))
        return found

    def of_faces(self, mask: np.ndarray) -> SurfacePaint:
        """The paint of some of the faces."""
        return SurfacePaint(self.paints, self.paint_of[mask], self.uvs[mask], self.corners[mask])


class PaintVisuals(ColorVisuals):
    """The colours of a trimesh mesh that has a `SurfacePaint`; to trimesh itself, 8-bit colours at the vertices."""

    def __init__(self, paint: SurfacePaint, vertex_colors: UInt8[np.ndarray, "v 4"]) -> None:
        super().__init__(vertex_colors=vertex_colors)
        self.paint = paint

    @classmethod
    def of(cls, paint: SurfacePaint, faces: Int[np.ndarray, "f 3"], vertices: int) -> PaintVisuals:
        """With the colours of so many vertices, each as one of its faces has it; white where it has none."""
        used, where = np.unique(faces, return_index=True)
        colours = np.full((vertices, 4), 255, dtype=np.uint8)
        colours[used, :3] = np.round(paint.at(where // 3, np.eye(3)[where % 3]) * 255)
        return cls(paint, colours)

    def copy(self) -> PaintVisuals:
        return PaintVisuals(self.paint, np.array(self.vertex_colors))

    def update_faces(self, mask: Any) -> None:
        super().update_faces(mask)
        self.paint = self.paint.of_faces(np.asarray(mask))


# ------------------------------------------------------------------------------------------------ others' visuals


def painted(visual: Any, faces: Int[np.ndarray, "f 3"]) -> SurfacePaint:
    """Any colours of a trimesh mesh as paint: an image with coordinates, a material's colour, or colours of vertices or faces.

    trimesh has v = 0 at an image's lower edge, and holds glTF's linear base colour in bytes.
    """
    if isinstance(visual, PaintVisuals):
        return visual.paint
    paint = Paint(linear_corners=False)
    uvs, corners = np.zeros((len(faces), 3, 2)), np.ones((len(faces), 3, 3))
    if visual.kind == "texture":
        paint, uvs = _of_material(visual, faces, uvs)
    elif visual.kind == "vertex":
        corners = np.asarray(visual.vertex_colors, dtype=np.float64)[faces][..., :3] / 255.0
    else:
        corners = np.asarray(visual.face_colors, dtype=np.float64)[:, None, :3].repeat(3, axis=1) / 255.0
    return SurfacePaint((paint,), np.zeros(len(faces), dtype=np.int64), uvs, corners)


def _of_material(
    visual: Any, faces: Int[np.ndarray, "f 3"], uvs: Float[np.ndarray, "f 3 2"]
) -> tuple[Paint, Float[np.ndarray, "f 3 2"]]:
    material = visual.material
    is_pbr = hasattr(material, "baseColorFactor")
    image = material.baseColorTexture if is_pbr else getattr(material, "image", None)
    factor = np.ones(3)
    if is_pbr:
        if material.baseColorFactor is not None:
            factor = np.asarray(material.baseColorFactor, dtype=np.float64)[:3] / 255.0
    elif image is None or visual.uv is None:
        factor = srgb_to_linear(np.asarray(material.main_color, dtype=np.float64)[:3] / 255.0)
    texture = None
    if image is not None and visual.uv is not None:
        texture = Texture(np.asarray(image.convert("RGB")), as_light=False)
        uvs = np.asarray(visual.uv)[faces] * [1, -1] + [0, 1]
    return Paint((float(factor[0]), float(factor[1]), float(factor[2])), texture), uvs
