"""The sizes of the miniature's parts, and the classes of diffusers and transformers that they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

IMAGE_SIZE = 64
LATENT_SIZE = 16
LATENT_CHANNELS = 4
# Start, 20 words (the longest caption has 20) and end, with room for two more.
MAX_TOKENS = 24
FIRST_LOG_VARIANCE = -5.0
COLOR_PATH_CONSTANT = 3.0


@dataclass(frozen=True)
class Sizes:
    """Widths and depths; the defaults are what is shipped, tests use smaller ones."""

    autoencoder_channels: tuple[int, ...] = (16, 32, 64)
    unet_channels: tuple[int, ...] = (128, 192, 192)
    unet_heads: tuple[int, ...] = (1, 2, 2)
    unet_attention: tuple[bool, ...] = (False, True, True)
    unet_groups: int = 8
    unet_pooling_heads: int = 4
    text_width: int = 256
    text_layers: int = 4
    text_heads: int = 4
    clip_width: int = 192
    clip_layers: int = 5
    clip_heads: int = 4
    clip_patch: int = 8
    clip_text_layers: int = 3
    clip_projection: int = 192


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which new modules draw their first weights from `seed`; the global state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def make_autoencoder(sizes: Sizes) -> AutoencoderKL:
    """64 px to 16x16x4. No attention: its encoder's forward and backward pass is in every distillation step."""
    levels = len(sizes.autoencoder_channels)
    # diffusers' annotations say tuples of one where it takes tuples of any length, here and in the UNet.
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        block_out_channels=sizes.autoencoder_channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    open_color_path(model)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _carry(conv: nn.Conv2d, rows: Tensor, taps: tuple[int, ...]) -> None:
    """Lets the first channels pass `conv` unchanged: `rows` maps them, spread evenly over `taps` of the kernel."""
    out_channels, in_channels = rows.shape
    conv.weight[:out_channels] = 0.0
    for y in taps:
        for x in taps:
            conv.weight[:out_channels, :in_channels, y, x] = rows / len(taps) ** 2
    if conv.bias is not None:
        conv.bias[:out_channels] = 0.0


@torch.no_grad()
def open_color_path(model: AutoencoderKL) -> None:
    """First weights with which the autoencoder already passes a blurred picture from end to end.

    Group normalisation wipes out the level of flat colours, and a small network needs thousands of steps to learn its
    way around that. Here eight channels carry (R, G, B, K) and their negatives from the first layer to the last:
    their mean is 0 and the constant K keeps their spread about constant, so that a normalisation only scales them; and
    silu(a) - silu(-a) = a undoes the activation. Every other weight starts as usual, and everything is trained.
    """
    signed = torch.cat([torch.eye(4), -torch.eye(4)])
    constant = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0]) * COLOR_PATH_CONSTANT
    pass_on, undo = torch.eye(8), torch.cat([torch.eye(4), -torch.eye(4)], 1)[:3]
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.mul_(0.1)
            module.conv2.weight[:8] = 0.0
            module.conv2.bias[:8] = 0.0  # pyright: ignore[reportOptionalSubscript]
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut, pass_on, (0,))  # pyright: ignore[reportArgumentType]
        elif isinstance(module, Downsample2D):
            _carry(module.conv, pass_on, (0, 1))  # pyright: ignore[reportArgumentType]
        elif isinstance(module, Upsample2D):
            _carry(module.conv, pass_on, (1,))  # pyright: ignore[reportArgumentType]
    for first in (model.encoder.conv_in, model.decoder.conv_in):
        _carry(first, signed[:, :3], (1,))
        first.bias[:8] = constant  # pyright: ignore[reportOptionalSubscript]
    _carry(model.encoder.conv_out, undo, (1,))
    model.encoder.conv_out.weight[:3] *= COLOR_PATH_CONSTANT / 2
    _carry(model.decoder.conv_out, undo, (1,))
    model.decoder.conv_out.weight[:3] *= COLOR_PATH_CONSTANT / 2
    for quant in (model.quant_conv, model.post_quant_conv):
        assert quant is not None
        quant.weight.zero_()
        quant.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        for channel in range(LATENT_CHANNELS):
            quant.weight[channel, channel] = 1.0
    # Noise as strong as the signal, which a fresh posterior has, hides it from the decoder for hundreds of steps.
    model.quant_conv.bias[LATENT_CHANNELS:] = FIRST_LOG_VARIANCE  # pyright: ignore


def make_unet(sizes: Sizes) -> UNet2DConditionModel:
    """The denoiser of 16x16x4 latents; `attention_head_dim` is, in diffusers, the number of heads.

    Besides the cross-attention, the text's pooled states are added to the timestep's embedding, which reaches every
    residual block: a small network learns much sooner from there what the picture shows at all.
    """
    attention = sizes.unet_attention
    model = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=sizes.unet_channels,
        layers_per_block=1,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        attention_head_dim=sizes.unet_heads,  # pyright: ignore[reportArgumentType]
        cross_attention_dim=sizes.text_width,
        norm_num_groups=sizes.unet_groups,
        addition_embed_type="text",
        addition_embed_type_num_heads=sizes.unet_pooling_heads,
    )
    with torch.no_grad():
        # Starts without a say, and learns what to say.
        model.add_embedding.norm2.weight.zero_()  # pyright: ignore
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def make_scheduler() -> DDIMScheduler:
    """A cosine schedule with v-prediction.

    v keeps the error of the predicted clean latents bounded at every noise level, also where score distillation spends
    its first steps (an epsilon error is multiplied by sqrt((1 - abar) / abar) there). The cosine spreads the steps
    evenly over the noise levels of a 16x16 image, where scaled_linear leaves half of them in almost pure noise.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def _text_config(
    tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, projection: int
) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
        pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
    )


def make_text_tower(sizes: Sizes, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The tower that reads the prompt for the denoiser."""
    config = _text_config(
        tokenizer, sizes.text_width, sizes.text_layers, sizes.text_heads, sizes.clip_projection
    )
    return CLIPTextModel(config)


def make_clip(sizes: Sizes, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A small CLIP for 64 px images."""
    text = _text_config(
        tokenizer, sizes.clip_width, sizes.clip_text_layers, sizes.clip_heads, sizes.clip_projection
    )
    vision = {
        "hidden_size": sizes.clip_width,
        "intermediate_size": 4 * sizes.clip_width,
        "num_hidden_layers": sizes.clip_layers,
        "num_attention_heads": sizes.clip_heads,
        "image_size": IMAGE_SIZE,
        "patch_size": sizes.clip_patch,
        "projection_dim": sizes.clip_projection,
    }
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=sizes.clip_projection)
    )


def take_over(new: nn.Module, old: nn.Module, new_vocab: dict[str, int], old_vocab: dict[str, int]) -> None:
    """Gives `new` the weights of `old`, which may have been trained with another tokenizer.

    Embeddings go from token to token; those of tokens that `old` did not know become as long as those that it did.
    """
    weights = old.state_dict()
    for name in [name for name in weights if name.endswith("token_embedding.weight")]:
        rows, shared = new.state_dict()[name].clone(), [t for t in new_vocab if t in old_vocab]
        known = weights[name][[old_vocab[t] for t in shared]]
        rows *= known.norm(dim=1).mean() / rows.norm(dim=1).mean()
        rows[[new_vocab[t] for t in shared]] = known
        weights[name] = rows
    new.load_state_dict(weights)
