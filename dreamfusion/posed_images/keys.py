"""Every key of transforms.json: what is used, what changes nothing here, what is reported, and what is refused.

Read from the loaders of Blender's layout (NeRF's `load_blender.py`), instant-ngp (`src/nerf_loader.cu`) and nerfstudio
(`nerfstudio_dataparser.py`). A key that would change what the images or cameras mean must not be ignored silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dreamfusion.errors import DatasetError, shown

USED = {
    *("frames", "file_path", "transform_matrix", "mask_path", "camera_model", "is_fisheye", "up", "w", "h", "cx", "cy"),
    *("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"),
    *("train_filenames", "val_filenames", "test_filenames"),
}  # fmt: skip
# The ball is placed by the cameras, and the poses stand as they are written. `rotation` is Blender's turntable step.
HARMLESS = {
    *("aabb_scale", "aabb", "render_aabb", "scale", "offset", "importance_sampling", "n_extra_learnable_dims"),
    *("applied_transform", "applied_scale", "auto_scale_poses_override", "ply_file_path", "rotation", "sharpness"),
    *("colmap_im_id", "colmap_image_id", "colmap_camera_id", "sharpen", "fix_premult", "enable_ray_loading"),
}  # fmt: skip
# Not used, and reported where they have a value other than null, false, 0 or empty.
REPORTED = {
    **dict.fromkeys(("depth_path", "depth_file_path"), "depth images are not used"),
    **dict.fromkeys(("integer_depth_scale", "enable_depth_loading"), "depth images are not used"),
    "normal_file_path": "normal images are not used",
    "semantics_path": "semantics are not used",
    "envmap": "the environment map is not used",
    "driver_parameters": "directions of light are not used",
    "orientation_override": "the up direction is found from the cameras",
    "sharpness_discard_threshold": "blurred images are not left out",
}
# Refused where they have such a value: what to do instead.
REFUSED = {
    **dict.fromkeys(
        ("white_transparent", "black_transparent", "mask_color"), "store the opacity in the images"
    ),
    **dict.fromkeys(("latlong", "equirectangular", "orthographic"), "use images of a pinhole camera"),
    **dict.fromkeys([f"ftheta_p{index}" for index in range(5)], "undistort the pictures first"),
    **dict.fromkeys(("distortion_params", "fisheye_crop_radius"), "undistort the pictures first"),
    "rolling_shutter": "give each image one pose",
    **dict.fromkeys(("from_na", "normal_mts_args"), "convert the poses to OpenGL's axes"),
}


def check_keys(content: Mapping[str, Any], frames: Sequence[Mapping[str, Any]], path: object) -> list[str]:
    """What to report about keys that are not used, one line each.

    Args:
        content: of the file, without regard to "frames".
        frames: its entries.
        path: the file, for errors.

    Raises:
        DatasetError: a key changes what images or cameras mean, and is not supported.
    """
    said: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for number, level in enumerate((content, *frames)):
        for key, value in level.items():
            if key in USED or key in HARMLESS:
                continue
            if key in REFUSED and _says_something(value):
                place = "" if number == 0 else f"frame {number - 1} of "
                raise DatasetError(
                    f'"{key}" in {place}{path} is not supported', got=shown(value), hint=REFUSED[key]
                )
            if key in REPORTED and _says_something(value):
                said[f'"{key}" in {path} is ignored: {REPORTED[key]}'] = None
            elif key not in REFUSED and key not in REPORTED and key not in _BY_VALUE:
                unknown[key] = None
    notes = [*said, *_by_value(content, frames, path)]
    if unknown:
        first = ", ".join(shown(key) for key in list(unknown)[:5]) + (", ..." if len(unknown) > 5 else "")
        notes.append(f"{path} has keys that are not known and not used: {first}")
    return notes


_BY_VALUE = {"n_frames", "time", "transform_matrix_start", "transform_matrix_end"}


def _by_value(content: Mapping[str, Any], frames: Sequence[Mapping[str, Any]], path: object) -> Iterator[str]:
    """Keys whose meaning depends on the other values."""
    limit = content.get("n_frames")
    if isinstance(limit, int) and limit < len(frames):
        yield f'"n_frames" in {path} is ignored: all {len(frames)} frames are read, not the first {limit}'
    if len({str(frame.get("time")) for frame in frames if "time" in frame}) > 1:
        yield f'"time" in {path} is ignored: the scene is taken as still'
    for number, frame in enumerate(frames):
        start, end = frame.get("transform_matrix_start"), frame.get("transform_matrix_end")
        pose = frame.get("transform_matrix")
        if any(moved is not None and moved != pose for moved in (start, end)):
            raise DatasetError(
                f"frame {number} of {path} has a camera that moves",
                expected='"transform_matrix" alone',
                got='"transform_matrix_start" or "_end"',
                hint="give each image one pose",
            )


def _says_something(value: object) -> bool:
    """Whether a value is other than null, false, zero, empty or a list of zeros."""
    if isinstance(value, list):
        return any(_says_something(item) for item in value)
    return bool(value)
