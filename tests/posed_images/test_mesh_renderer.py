# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""The ground truth's own truth: a sphere and a quad whose pictures are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.posed_images.mesh_renderer import Light, render_mesh, surface_colours

FOVY_DEG, DISTANCE = 40.0, 4.0
C2W = np.eye(4)
C2W[2, 3] = DISTANCE


def test_a_spheres_outline_is_a_circle_of_the_right_size() -> None:
    sphere = trimesh.creation.icosphere(4, radius=0.7)
    alpha = render_mesh(sphere, C2W, FOVY_DEG, 96)[..., 3]
    tangent = math.tan(math.asin(0.7 / DISTANCE)) / math.tan(math.radians(FOVY_DEG / 2))
    assert alpha.mean() == pytest.approx(math.pi * tangent**2 / 4, rel=0.01)
    np.testing.assert_allclose(alpha, alpha[::-1], atol=0.2)


def test_the_nearer_one_hides_the_other_whatever_the_order() -> None:
    near = trimesh.creation.box((0.2, 0.2, 0.2), trimesh.transformations.translation_matrix([0, 0, 0.5]))
    far = trimesh.creation.box((0.6, 0.6, 0.2), trimesh.transformations.translation_matrix([0, 0, -0.5]))
    near.visual.face_colors, far.visual.face_colors = [255, 0, 0, 255], [0, 0, 255, 255]
    for parts in ([near, far], [far, near]):
        pixels = render_mesh(trimesh.util.concatenate(parts), C2W, FOVY_DEG, 64)
        assert pixels[32, 32].tolist() == [1, 0, 0, 1]
        assert pixels[32, 26].tolist() == [0, 0, 1, 1]
        assert pixels[2, 2, 3] == 0


def quad(picture: Image.Image) -> trimesh.Trimesh:
    """A square of side 2 that faces +z, with the picture on it, upright."""
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    material = trimesh.visual.material.SimpleMaterial(image=picture)
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    vertices = [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def test_a_texture_is_seen_upright_and_in_perspective() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4, :4], pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:] = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    )  # fmt: skip
    seen = render_mesh(quad(Image.fromarray(pixels)), C2W, FOVY_DEG, 64, supersample=1)
    assert seen[20, 20, :3].tolist() == [1, 0, 0] and seen[20, 44, :3].tolist() == [0, 1, 0]
    assert seen[44, 20, :3].tolist() == [0, 0, 1] and seen[44, 44, :3].tolist() == [1, 1, 1]
    # Turned about the vertical axis its middle line stays in the middle of the picture, though the near half looks larger.
    turned = quad(Image.fromarray(pixels)).apply_transform(
        trimesh.transformations.rotation_matrix(1.0, [0, 1, 0])
    )
    row = render_mesh(turned, C2W, FOVY_DEG, 64, supersample=1)[20]
    red, green = ((row[:, 3] > 0) & (row[:, channel] > 0.5) for channel in (0, 1))
    assert red.nonzero()[0].max() == 31 and green.nonzero()[0].min() == 32
    assert abs(int(red.sum()) - int(green.sum())) >= 3


def test_light_is_lamberts_and_comes_from_where_it_is_said() -> None:
    mesh = trimesh.creation.box((1, 1, 1))
    mesh.visual.face_colors = [200, 100, 50, 255]
    light = Light(direction=(0.0, 0.0, 2.0), ambient=0.5, diffuse=0.25)
    pixel = render_mesh(mesh, C2W, FOVY_DEG, 32, light=light)[16, 16, :3]
    np.testing.assert_allclose(pixel, np.array([200, 100, 50]) / 255 * 0.75, atol=1e-6)
    behind = Light(direction=(0.0, 0.0, -1.0), ambient=0.5, diffuse=0.25)
    pixel = render_mesh(mesh, C2W, FOVY_DEG, 32, light=behind)[16, 16, :3]
    np.testing.assert_allclose(pixel, np.array([200, 100, 50]) / 255 * 0.5, atol=1e-6)


@pytest.mark.parametrize("factor", [[55, 204, 128, 255], [0.2159, 0.8, 0.5, 1.0]])
def test_a_base_colour_factor_is_light_with_a_texture_or_without(factor: list[float]) -> None:
    """As a mesh has it that trimesh itself has read from glTF: 0.2159 of the light is sRGB 128."""
    light = np.array([55, 204, 128]) / 255
    texel = np.array([200, 100, 50]) / 255
    for image, linear in (
        (None, light),
        (Image.new("RGB", (4, 4), (200, 100, 50)), light * ((texel + 0.055) / 1.055) ** 2.4),
    ):
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=factor, baseColorTexture=image)
        mesh = quad(Image.new("RGB", (1, 1)))
        mesh.visual = trimesh.visual.TextureVisuals(uv=mesh.visual.uv, material=material)
        seen = surface_colours(mesh, np.array([0]), np.array([[0.2, 0.3, 0.5]]))[0]
        np.testing.assert_allclose(seen, 1.055 * linear ** (1 / 2.4) - 0.055, atol=1e-6)
        assert image is not None or round(seen[0] * 255) == 128
