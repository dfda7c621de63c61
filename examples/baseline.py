"""DreamFusion in one file: a prompt, a frozen Stable Diffusion model, and from them a mesh and a turntable video.

    python examples/baseline.py "a peacock on a surfboard"
    python examples/baseline.py "a corgi" --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --device cuda --guidance-scale 100 --steps 5000

The method (Poole et al., "DreamFusion: Text-to-3D using 2D Diffusion", arXiv 2209.14988), top to bottom as in this file:

1. A scene is a function from a point to a density and a colour: a NeRF.
2. A camera's picture of it is an integral along each pixel's ray, and it is differentiable.
3. A diffusion model, trained on pictures and their captions, looks at the picture with noise added and says which
   noise it sees. Where it is wrong, the picture is not what the prompt describes, and the difference between what it
   says and the noise that was added is the direction in which the picture must change: score distillation.
4. Do that from random cameras, and the only scene that satisfies all of them is the object itself.
5. The surface where the density is high is the mesh.

This file shares no code with the package `dreamfusion`; it is the method without options, tests and speed. It is
written to be read: shapes stand at the end of lines, formulas in the comments.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import imageio
import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from skimage.measure import marching_cubes
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

MINIATURE = Path(__file__).parent.parent / "dreamfusion" / "miniature" / "stable-diffusion"
RADIUS = 1.0  # everything is inside a ball of this radius around the origin; +Y is up, +Z is the front


# ------------------------------------------------------------------------------------------------------------------
# 1. The scene: a density and a colour for every point
# ------------------------------------------------------------------------------------------------------------------


class NeRF(nn.Module):
    """Three dense grids of features, coarse to fine, and a small network that turns features into density and colour.

    The coarse grid moves large parts with few numbers, the fine one adds detail. The paper uses an MLP on an encoding
    of the position, which says the same thing with less memory and is some ten times slower on a CPU.
    """

    def __init__(
        self, resolutions: tuple[int, ...] = (16, 32, 64), features: int = 4, width: int = 32
    ) -> None:
        super().__init__()
        self.grids = nn.ParameterList(1e-2 * torch.randn(1, features, r, r, r) for r in resolutions)
        self.decoder = nn.Sequential(
            nn.Linear(features * len(resolutions), width), nn.SiLU(), nn.Linear(width, 4)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # x: n 3 -> n, n 3
        where = (x / RADIUS)[None, None, None]  # 1 1 1 n 3, as grid_sample wants it
        features = [F.grid_sample(g, where, align_corners=True)[0, :, 0, 0].T for g in self.grids]
        raw = self.decoder(torch.cat(features, dim=-1))
        # Start from a soft ball in the middle: without it, the scene is empty or full and there is nothing to improve.
        blob = 10 * (1 - x.norm(dim=-1) / 0.5)
        density = F.softplus(raw[:, 0] + blob)  # per unit of length
        return density, torch.sigmoid(raw[:, 1:])


# ------------------------------------------------------------------------------------------------------------------
# 2. The picture: cameras, rays, and the integral along each ray
# ------------------------------------------------------------------------------------------------------------------


def camera_rays(
    azimuth: float, elevation: float, distance: float, fovy: float, size: int
) -> tuple[Tensor, Tensor]:
    """Origin and unit direction of the ray through each pixel's centre; angles in degrees.

    Azimuth 0 looks at the front (+Z) and grows towards +X; elevation 90 looks straight down.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    back = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    right = torch.tensor([math.cos(a), 0.0, -math.sin(a)])
    up = torch.linalg.cross(back, right)
    half = math.tan(math.radians(fovy) / 2)
    pixels = ((torch.arange(size) + 0.5) / size * 2 - 1) * half
    y, x = torch.meshgrid(-pixels, pixels, indexing="ij")  # row 0 is the top
    directions = x[..., None] * right + y[..., None] * up - back
    directions = F.normalize(directions, dim=-1).reshape(-1, 3)
    return (distance * back).expand_as(directions), directions  # size^2 3 each


def render(
    nerf: NeRF, rays_o: Tensor, rays_d: Tensor, background: Tensor, samples: int, jitter: bool
) -> tuple[Tensor, Tensor]:
    """Colour and opacity of each ray (Mildenhall et al., NeRF, arXiv 2003.08934, eq. 3).

    alpha_i = 1 - exp(-density_i delta) is the chance to stop in step i,
    T_i = prod_{j<i} (1 - alpha_j) the chance to get there, and
    colour = sum_i T_i alpha_i colour_i + (what is left) background.
    """
    # The part of each ray inside the ball: |o + t d| < R between the two solutions of a quadratic equation.
    middle = -(rays_o * rays_d).sum(-1)
    half_chord = (RADIUS**2 - (rays_o + middle[:, None] * rays_d).square().sum(-1)).clamp(min=0).sqrt()
    hit = half_chord > 0
    steps = torch.arange(samples, device=rays_o.device) + 0.5
    shift = torch.rand(int(hit.sum()), 1, device=rays_o.device) - 0.5 if jitter else 0.0
    t = middle[hit, None] + half_chord[hit, None] * ((steps + shift) / samples * 2 - 1)  # rays samples
    x = rays_o[hit, None] + t[..., None] * rays_d[hit, None]  # rays samples 3

    density, colour = nerf(x.reshape(-1, 3))
    delta = 2 * half_chord[hit, None] / samples
    alpha = 1 - torch.exp(-density.view_as(t) * delta)
    transmittance = torch.cumprod(1 - alpha, dim=-1)
    weights = alpha * F.pad(transmittance, (1, -1), value=1.0)  # T_i alpha_i
    seen = (weights[..., None] * colour.view(*t.shape, 3)).sum(dim=1)

    rgb = background.expand(len(rays_o), 3).clone()
    rgb[hit] = seen + transmittance[:, -1:] * background
    opacity = torch.zeros(len(rays_o), device=rays_o.device)
    opacity[hit] = 1 - transmittance[:, -1]
    return rgb, opacity  # rays 3, rays


# ------------------------------------------------------------------------------------------------------------------
# 3. The critic: a frozen diffusion model and score distillation
# ------------------------------------------------------------------------------------------------------------------


def frozen(kind: Any, model: str, part: str) -> Any:
    """One part of the model, as it is on the disk and to stay like that."""
    return kind.from_pretrained(model, subfolder=part).eval().requires_grad_(False)


class ScoreDistillation:
    """Says in which direction a picture must change to look more like a prompt.

    Stable Diffusion works on latents z, small pictures of features that its encoder makes of images. It was trained to
    find the noise eps in z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps, at every timestep t from hardly any noise to
    nothing but noise, with the caption y in hand. Its answer eps_hat(z_t; y, t) is, but for a factor, the direction
    towards more likely pictures; with guidance s it is exaggerated away from what it would say without a caption:

        eps_hat = eps_uncond + s (eps_cond - eps_uncond)

    Score distillation (DreamFusion, eq. 3) takes w(t) (eps_hat - eps) as the gradient of the latents, with
    w(t) = 1 - abar_t, and lets it flow back through the encoder and the renderer into the scene. The diffusion model
    itself is never differentiated.
    """

    def __init__(self, model: str, prompt: str, device: str) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
        self.text_encoder = frozen(CLIPTextModel, model, "text_encoder").to(device)
        self.vae = frozen(AutoencoderKL, model, "vae").to(device)
        self.unet = frozen(UNet2DConditionModel, model, "unet").to(device)
        scheduler: Any = DDIMScheduler.from_pretrained(model, subfolder="scheduler")
        self.abar = scheduler.alphas_cumprod.to(device)  # timesteps
        self.predicts_v = scheduler.config.prediction_type == "v_prediction"
        self.image_size = self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        views = ("front", "side", "back", "overhead")
        self.texts = {view: self.encode_text(f"{prompt}, {view} view") for view in views}
        self.texts[""] = self.encode_text("")

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]  # 1 tokens channels

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents of an image "1 3 h w" in [0, 1]; with gradients, for here the scene learns."""
        image = F.interpolate(image, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return self.vae.encode(2 * image - 1).latent_dist.mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, view: str, guidance_scale: float) -> Tensor:
        texts = torch.cat([self.texts[""], self.texts[view]])
        out_uncond, out_cond = self.unet(torch.cat([z_t, z_t]), t, encoder_hidden_states=texts).sample.chunk(
            2
        )
        out = out_uncond + guidance_scale * (out_cond - out_uncond)
        if self.predicts_v:  # v = sqrt(abar) eps - sqrt(1 - abar) z, as in Stable Diffusion 2.1
            out = self.abar[t].sqrt() * out + (1 - self.abar[t]).sqrt() * z_t
        return out

    def loss(self, image: Tensor, view: str, guidance_scale: float, t_max: float) -> tuple[Tensor, float]:
        """A loss whose gradient is score distillation's (its value means nothing), and that gradient's size."""
        z = self.encode_image(image)
        low, high = int(0.02 * len(self.abar)), int(t_max * len(self.abar))
        t = torch.randint(low, high, (1,), device=z.device)
        eps = torch.randn_like(z)
        z_t = self.abar[t].sqrt() * z.detach() + (1 - self.abar[t]).sqrt() * eps
        eps_hat = self.predict_noise(z_t, t, view, guidance_scale)
        gradient = (1 - self.abar[t]) * (eps_hat - eps)
        # d/dz of (z * gradient).sum() is gradient, as long as gradient is a constant.
        return (z * gradient).sum() / z.numel(), gradient.square().mean().sqrt().item()


def view_of(azimuth: float, elevation: float) -> str:
    """The word that tells the model where the camera is; without it, every side grows a face."""
    if elevation > 60:
        return "overhead"
    away_from_front = abs((azimuth + 180) % 360 - 180)
    return "front" if away_from_front < 45 else "side" if away_from_front < 135 else "back"


# ------------------------------------------------------------------------------------------------------------------
# 4. The loop: a random camera, a picture, a step
# ------------------------------------------------------------------------------------------------------------------


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def train(nerf: NeRF, critic: ScoreDistillation, args: argparse.Namespace) -> None:
    optimizer = torch.optim.Adam(nerf.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    for step in range(args.steps):
        azimuth, elevation = uniform(-180, 180), uniform(-10, 80)
        rays = camera_rays(azimuth, elevation, uniform(2.3, 2.7), uniform(40, 47), args.size)
        rays_o, rays_d = (ray.to(args.device) for ray in rays)
        # A background that changes with every step: the object cannot hide in it, and cannot be painted on it.
        background = torch.rand(3).to(args.device)
        rgb, opacity = render(nerf, rays_o, rays_d, background, args.samples, jitter=True)
        image = rgb.view(1, args.size, args.size, 3).permute(0, 3, 1, 2)

        # Much noise asks what the whole should be, little noise what its details should be: the first comes first.
        t_max = 0.98 + (0.5 - 0.98) * step / args.steps
        loss, gradient = critic.loss(image, view_of(azimuth, elevation), args.guidance_scale, t_max)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step:5d}  sds gradient {gradient:.3f}  mean opacity {opacity.mean().item():.3f}")


# ------------------------------------------------------------------------------------------------------------------
# 5. What one takes home: a mesh and a video
# ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def export_mesh(nerf: NeRF, path: Path, resolution: int, threshold: float, device: str) -> None:
    """Marching cubes on the density, coloured with the scene's colour at the vertices."""
    axis = torch.linspace(-RADIUS, RADIUS, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    density = torch.cat([nerf(chunk.to(device))[0].cpu() for chunk in points.split(2**17)])
    density[points.norm(dim=-1) >= RADIUS] = 0  # no ray ever looked there; and the surface is closed
    if not density.min() < threshold < density.max():
        print(f"no mesh: the density reaches {density.max():.1f}, --threshold is {threshold}")
        return
    volume = density.view(resolution, resolution, resolution).numpy()
    vertices, faces, *_ = marching_cubes(volume, threshold, gradient_direction="ascent")
    vertices = vertices / (resolution - 1) * 2 * RADIUS - RADIUS
    colour = nerf(torch.tensor(vertices, dtype=torch.float32, device=device))[1].cpu().numpy()
    # The model's images are sRGB, so the scene's colours are too, and a PLY takes them as they are.
    mesh = trimesh.Trimesh(vertices, faces.astype(int), vertex_colors=np.round(255 * colour).astype(np.uint8))
    mesh.export(path)
    print(f"wrote {path} with {len(faces)} faces")


@torch.no_grad()
def export_video(nerf: NeRF, path: Path, frames: int, size: int, args: argparse.Namespace) -> None:
    """One turn around the object, on white, as H.264 that a browser plays."""
    white = torch.ones(3, device=args.device)
    video: Any = imageio.get_writer(path, fps=30, macro_block_size=2)
    with video:
        for frame in range(frames):
            rays = camera_rays(360 * frame / frames, 15, 2.5, 43, size)
            chunks = zip(*(ray.to(args.device).split(2**14) for ray in rays), strict=True)
            rgb = torch.cat([render(nerf, o, d, white, 128, jitter=False)[0] for o, d in chunks])
            video.append_data((rgb.clamp(0, 1) * 255).round().byte().view(size, size, 3).cpu().numpy())
    print(f"wrote {path}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="DreamFusion in one file.")
    parser.add_argument("prompt")
    parser.add_argument(
        "--model", default=str(MINIATURE), help="directory or hub id in Stable Diffusion's layout"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--guidance-scale", type=float, default=10.0, help="100 for Stable Diffusion")
    parser.add_argument("--size", type=int, default=64, help="side of the rendered picture while it trains")
    parser.add_argument("--samples", type=int, default=48, help="steps along a ray while it trains")
    parser.add_argument("--resolution", type=int, default=128, help="points along the mesh's grid")
    parser.add_argument("--threshold", type=float, default=10.0, help="density of the surface")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--video-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/baseline"))
    args = parser.parse_args(arguments)

    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    nerf = NeRF().to(args.device)
    train(nerf, ScoreDistillation(args.model, args.prompt, args.device), args)
    export_mesh(nerf, args.output / "mesh.ply", args.resolution, args.threshold, args.device)
    export_video(nerf, args.output / "turntable.mp4", args.frames, args.video_size, args)


if __name__ == "__main__":
    main()
