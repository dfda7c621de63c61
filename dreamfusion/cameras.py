"""Cameras: where a picture is taken from, and the rays through its pixels.

World: right-handed, +Y up, the object's front faces +Z, one unit is the radius of the scene's ball. Camera: OpenGL (+x right,
+y up, -z forward). Azimuth 0 looks at the front and grows towards +X; elevation 90 looks straight down. Pixel (0, 0)
is top left and its ray passes its centre.

`python -m dreamfusion.cameras` prints what a configuration's cameras look like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import CameraConfig


@dataclass(frozen=True)
class Cameras:
    """A batch of b pinhole cameras that share a picture size.

    Attributes:
        c2w: camera to world, columns right, up, back, position.
        fovy_deg: vertical field of view, in degrees.
        height, width: in pixels.
        azimuth_deg, elevation_deg: direction of the position as seen from the origin, in degrees; azimuth in [-180, 180).
        distance: of the position from the origin, in world units.
        intrinsics: fx, fy, cx, cy in pixels, for photographs; None: square pixels around the middle, by `fovy_deg`.
    """

    c2w: Float[Tensor, "b 4 4"]
    fovy_deg: Float[Tensor, " b"]
    height: int
    width: int
    azimuth_deg: Float[Tensor, " b"]
    elevation_deg: Float[Tensor, " b"]
    distance: Float[Tensor, " b"]
    intrinsics: Float[Tensor, "b 4"] | None = None

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: slice | list[int] | Int[Tensor, " k"]) -> Cameras:
        """The cameras at `index`; an integer would drop the batch axis and is not taken: use a slice."""
        return replace(
            self,
            c2w=self.c2w[index],
            fovy_deg=self.fovy_deg[index],
            azimuth_deg=self.azimuth_deg[index],
            elevation_deg=self.elevation_deg[index],
            distance=self.distance[index],
            intrinsics=None if self.intrinsics is None else self.intrinsics[index],
        )

    @property
    def positions(self) -> Float[Tensor, "b 3"]:
        return self.c2w[:, :3, 3]

    @property
    def forward(self) -> Float[Tensor, "b 3"]:
        """Unit viewing directions."""
        return -self.c2w[:, :3, 2]

    def to(self, device: torch.device | str) -> Cameras:
        moved = {
            name: value.to(device)
            for name in ("c2w", "fovy_deg", "azimuth_deg", "elevation_deg", "distance", "intrinsics")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras with another picture size; the vertical field of view stays."""
        intrinsics = self.intrinsics
        if intrinsics is not None:
            across, down = width / self.width, height / self.height
            intrinsics = intrinsics * torch.tensor([across, down, across, down]).to(intrinsics)
        return replace(self, height=height, width=width, intrinsics=intrinsics)

    def rays(self) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w 3"]]:
        """One ray through each pixel's centre.

        Returns:
            rays_o: origins in the world frame.
            rays_d: unit directions in the world frame.
        """
        device, dtype = self.c2w.device, self.c2w.dtype
        rows = torch.arange(self.height, device=device, dtype=dtype) + 0.5
        columns = torch.arange(self.width, device=device, dtype=dtype) + 0.5
        directions = self._pixel_directions(rows[:, None], columns[None, :])
        rays_d = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], directions)
        rays_d = rays_d / rays_d.norm(dim=-1, keepdim=True)
        rays_o = self.positions[:, None, None, :].expand_as(rays_d)
        return rays_o, rays_d

    def _pixel_directions(
        self, rows: Float[Tensor, "#h #w"], columns: Float[Tensor, "#h #w"]
    ) -> Float[Tensor, "b h w 3"]:
        """From the camera through points of its picture, counted in pixels from the top left corner, to unit depth."""
        if self.intrinsics is None:
            tangent = torch.tan(torch.deg2rad(self.fovy_deg) / 2)[:, None, None]
            right = (2 * columns / self.width - 1) * (self.width / self.height) * tangent
            up = (1 - 2 * rows / self.height) * tangent
        else:
            fx, fy, cx, cy = self.intrinsics[:, :, None, None].unbind(1)
            right, up = (columns - cx) / fx, (cy - rows) / fy
        right, up = torch.broadcast_tensors(right, up)
        return torch.stack([right, up, -torch.ones_like(up)], dim=-1)


def look_at(
    position: Float[Tensor, "b 3"], target: Float[Tensor, "b 3"], up: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 4 4"]:
    """Camera-to-world matrices of cameras at `position` that look at `target`; always a proper rotation.

    Looking along `up` leaves the roll open; it is then the limit of going up the front: the picture's top is -Z.
    """
    back = position - target
    back = back / back.norm(dim=-1, keepdim=True)
    right = torch.linalg.cross(up, back)
    # Straight above the object `up` and `back` are parallel; +X is to the right then, as it is from the front.
    degenerate = right.norm(dim=-1, keepdim=True) < 1e-6
    right = torch.where(
        degenerate, torch.tensor([1.0, 0.0, 0.0], dtype=right.dtype, device=right.device), right
    )
    right = right / right.norm(dim=-1, keepdim=True)
    true_up = torch.linalg.cross(back, right)
    c2w = torch.eye(4, dtype=position.dtype, device=position.device).repeat(position.shape[0], 1, 1)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2], c2w[:, :3, 3] = right, true_up, back, position
    return c2w


def orbit_positions(
    azimuth_deg: Float[Tensor, " b"], elevation_deg: Float[Tensor, " b"], distance: Float[Tensor, " b"]
) -> Float[Tensor, "b 3"]:
    """Points on the sphere: azimuth 0 on +Z, growing towards +X; elevation 90 on +Y."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    return distance[:, None] * torch.stack(
        [
            torch.cos(elevation) * torch.sin(azimuth),
            torch.sin(elevation),
            torch.cos(elevation) * torch.cos(azimuth),
        ],
        dim=-1,
    )


def _wrapped(azimuth_deg: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return torch.remainder(azimuth_deg + 180, 360) - 180


def orbit_cameras(
    azimuth_deg: Float[Tensor, " b"] | float | int,
    elevation_deg: Float[Tensor, " b"] | float | int,
    distance: Float[Tensor, " b"] | float | int,
    fovy_deg: Float[Tensor, " b"] | float | int,
    resolution: int,
) -> Cameras:
    """Square pictures by cameras that look at the origin; numbers and vectors broadcast against each other."""
    azimuth, elevation, radius, fovy = torch.broadcast_tensors(
        *(
            torch.atleast_1d(torch.as_tensor(v, dtype=torch.float32))
            for v in (azimuth_deg, elevation_deg, distance, fovy_deg)
        )
    )
    position = orbit_positions(azimuth, elevation, radius)
    up = torch.tensor([[0.0, 1.0, 0.0]]).expand_as(position)
    # Straight above, the limit along this azimuth keeps the picture from spinning: its top points away from the camera's side.
    above = torch.cos(torch.deg2rad(elevation)).abs() < 1e-6
    away = -orbit_positions(azimuth, torch.zeros_like(elevation), torch.ones_like(radius)) * torch.sign(
        elevation
    ).unsqueeze(-1)
    up = torch.where(above[:, None], away, up)
    return Cameras(
        c2w=look_at(position, torch.zeros_like(position), up),
        fovy_deg=fovy.clone(),
        height=resolution,
        width=resolution,
        azimuth_deg=_wrapped(azimuth),
        elevation_deg=elevation.clone(),
        distance=radius.clone(),
    )


def _uniform(
    low_high: tuple[float, float], count: int, generator: torch.Generator
) -> Float[Tensor, " count"]:
    low, high = low_high
    return low + (high - low) * torch.rand(count, generator=generator)


def sample_elevation_deg(
    config: CameraConfig, count: int, generator: torch.Generator
) -> Float[Tensor, " count"]:
    """Elevations, each uniform in angle or, with `uniform_area_probability`, uniform in area (DreamFusion, sec. 3.2)."""
    by_angle = _uniform(config.elevation_deg, count, generator)
    low, high = config.uniform_area_elevation_deg or config.elevation_deg
    sines = _uniform((math.sin(math.radians(low)), math.sin(math.radians(high))), count, generator)
    by_area = torch.rad2deg(torch.asin(sines.clamp(-1, 1)))
    choose_area = torch.rand(count, generator=generator) < config.uniform_area_probability
    return torch.where(choose_area, by_area, by_angle)


def sample_fovy_deg(config: CameraConfig, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Vertical fields of view: uniform, or of focal lengths that are (DreamFusion, sec. 3.2: 0.7 to 1.35 widths)."""
    if config.focal_length is None:
        return _uniform(config.fovy_deg, count, generator)
    return torch.rad2deg(2.0 * torch.atan(0.5 / _uniform(config.focal_length, count, generator)))


def random_cameras(
    config: CameraConfig,
    generator: torch.Generator,
    views: int | None = None,
    resolution: int | None = None,
) -> Cameras:
    """Training cameras (DreamFusion, sec. 3.2); the views of one batch are spread evenly over the azimuth range.

    Args:
        config: ranges in degrees and world units.
        generator: on the CPU; every call draws the same number of values for the same number of views.
        views: number of cameras; the config's by default.
        resolution: side of the square picture in pixels; the first of the config's by default.

    The reported azimuth, elevation and distance are those of the jittered position as seen from the origin.
    """
    count = views or config.views_per_step
    size = resolution or config.resolution.at(0)
    low, high = config.azimuth_deg
    # One draw per equal sector: unbiased, and no two views of a batch fall on the same side.
    within = torch.rand(count, generator=generator)
    if config.view_spacing == "antithetic":
        # Equal angles, of which only the turn as a whole is random: two views look at opposite sides.
        within = torch.zeros_like(within)
    sectors = (torch.arange(count) + within) / count
    sectors = torch.remainder(sectors + torch.rand(1, generator=generator), 1.0)
    azimuth = low + (high - low) * sectors
    elevation = sample_elevation_deg(config, count, generator)
    distance = _uniform(config.distance, count, generator)
    fovy = sample_fovy_deg(config, count, generator)
    jitter = config.position_jitter * (2 * torch.rand(count, 3, generator=generator) - 1)
    target = config.target_jitter * torch.randn(count, 3, generator=generator)
    up = torch.tensor([0.0, 1.0, 0.0]) + config.up_jitter * torch.randn(count, 3, generator=generator)

    position = orbit_positions(azimuth, elevation, distance) + jitter
    norm = position.norm(dim=-1)
    return Cameras(
        c2w=look_at(position, target, up),
        fovy_deg=fovy,
        height=size,
        width=size,
        azimuth_deg=_wrapped(torch.rad2deg(torch.atan2(position[:, 0], position[:, 2]))),
        elevation_deg=torch.rad2deg(torch.asin((position[:, 1] / norm).clamp(-1, 1))),
        distance=norm,
    )


def cameras_from_poses(
    c2w: Float[Tensor, "b 4 4"], intrinsics: Float[Tensor, "b 4"], height: int, width: int
) -> Cameras:
    """The cameras of photographs.

    Args:
        c2w: camera to world, proper rotations.
        intrinsics: fx, fy, cx, cy in pixels.
        height, width: in pixels.
    """
    position = c2w[:, :3, 3]
    norm = position.norm(dim=-1).clamp(min=1e-9)
    return Cameras(
        c2w=c2w,
        fovy_deg=torch.rad2deg(2 * torch.atan(height / (2 * intrinsics[:, 1]))),
        height=height,
        width=width,
        azimuth_deg=_wrapped(torch.rad2deg(torch.atan2(position[:, 0], position[:, 2]))),
        elevation_deg=torch.rad2deg(torch.asin((position[:, 1] / norm).clamp(-1, 1))),
        distance=norm,
        intrinsics=intrinsics,
    )


def pencil_cameras(
    cameras: Cameras, view: Int[Tensor, " n"], row: Int[Tensor, " n"], column: Int[Tensor, " n"]
) -> Cameras:
    """n cameras of one pixel each: the pixels (row, column) of the cameras `view`, which need not lie side by side.

    Their axes are those of the cameras that they are taken from, so `depth` means the same.
    """
    chosen = cameras[view]
    if chosen.intrinsics is None:
        focal = chosen.height / (2 * torch.tan(torch.deg2rad(chosen.fovy_deg) / 2))
        middle = torch.tensor([chosen.width / 2, chosen.height / 2]).to(focal).expand(len(focal), 2)
        intrinsics = torch.cat([focal[:, None], focal[:, None], middle], dim=-1)
    else:
        intrinsics = chosen.intrinsics.clone()
    # The pixel becomes the only one of its picture by moving the principal point.
    intrinsics[:, 2] -= column
    intrinsics[:, 3] -= row
    return replace(chosen, height=1, width=1, intrinsics=intrinsics)


def turntable_cameras(
    frames: int, elevation_deg: float | int, distance: float | int, fovy_deg: float | int, resolution: int
) -> Cameras:
    """One full turn that starts at the front (azimuth 0) and ends one frame before it, so that it loops."""
    azimuth = torch.arange(frames, dtype=torch.float32) * (360.0 / frames)
    return orbit_cameras(azimuth, elevation_deg, distance, fovy_deg, resolution)


if __name__ == "__main__":
    shown = random_cameras(CameraConfig(views_per_step=8), torch.Generator().manual_seed(0))
    print("azimuth  elevation  distance  fovy   position")
    for index in range(len(shown)):
        x, y, z = shown.positions[index].tolist()
        print(
            f"{shown.azimuth_deg[index]:7.1f} {shown.elevation_deg[index]:10.1f} {shown.distance[index]:9.2f}"
            f" {shown.fovy_deg[index]:5.1f}   ({x:+.2f}, {y:+.2f}, {z:+.2f})"
        )
