from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTokenizer

from dreamfusion.errors import CheckpointCorruptError, DeviceError, DreamfusionError
from dreamfusion.guidance.clip import load_clip
from dreamfusion.miniature.captions import vocabulary
from dreamfusion.miniature.dataset import make_shard
from dreamfusion.miniature.lexicon import core
from dreamfusion.miniature.training import diffusion, export, loop, shards, stages
from dreamfusion.miniature.training.autoencoder import edges
from dreamfusion.miniature.training.contrastive import augment, contrastive_loss
from dreamfusion.miniature.training.data import draw_indices, load_pictures, to_bytes, to_model
from dreamfusion.miniature.training.labels import labels
from dreamfusion.miniature.training.loop import Averaged, Budget, Ema, Learner, fit, learning_rate
from dreamfusion.miniature.training.models import Sizes, make_autoencoder, make_scheduler, seeded
from dreamfusion.miniature.training.plan import Plan, judge_plan, pick_device
from dreamfusion.miniature.training.tokenizer import write_tokenizer
from dreamfusion.miniature.world import SceneSpec, Thing
from tests.elsewhere import ELSEWHERE, Elsewhere

TINY = Sizes(
    autoencoder_channels=(8, 8, 8),
    unet_channels=(8, 16),
    unet_heads=(1, 1),
    unet_attention=(False, True),
    unet_groups=4,
    unet_pooling_heads=1,
    text_width=16,
    text_layers=1,
    text_heads=1,
    clip_width=16,
    clip_layers=1,
    clip_heads=1,
    clip_patch=16,
    clip_text_layers=1,
    clip_projection=16,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a handful of pictures, a tiny autoencoder and its latents."""
    folder = tmp_path_factory.mktemp("work")
    for split in ("train", "held_out"):
        make_shard(folder / "shards" / f"{split}_00000.npz", seed=0, count=12, split=split)
    with seeded(0):
        make_autoencoder(TINY).save_pretrained(folder / "vae")
    shards.run_latents(Plan(work=folder, sizes=TINY))
    shards.run_texts(tiny_plan(folder))
    return folder


def tiny_plan(work: Path) -> Plan:
    return Plan(work=work, sizes=TINY, batch_size=4, package=work / "package")


LEARNERS = {
    "autoencoder": stages.autoencoder_learner,
    "clip": stages.clip_learner,
    "diffusion": stages.diffusion_learner,
}


def weights(learner: Learner) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in learner.state()[0].items()}


# ------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("stage", list(LEARNERS))
def test_a_resumed_training_equals_an_unbroken_one_bit_for_bit(
    work: Path, tmp_path: Path, stage: str
) -> None:
    unbroken = LEARNERS[stage](tiny_plan(work))
    for _ in range(3):
        unbroken.train_step()
    first = LEARNERS[stage](tiny_plan(work))
    first.train_step()
    first.save(tmp_path / "c.safetensors")
    second = LEARNERS[stage](replace(tiny_plan(work), seed=5))
    second.load(tmp_path / "c.safetensors")
    for _ in range(2):
        second.train_step()
    expected, got = weights(unbroken), weights(second)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


def test_a_resumed_training_by_muon_equals_an_unbroken_one(work: Path, tmp_path: Path) -> None:
    plan = replace(tiny_plan(work), muon=True)
    unbroken, first = stages.diffusion_learner(plan), stages.diffusion_learner(plan)
    first.train_step()
    first.save(tmp_path / "c.safetensors")
    second = stages.diffusion_learner(plan)
    second.load(tmp_path / "c.safetensors")
    second.train_step()
    for _ in range(2):
        unbroken.train_step()
    expected, got = weights(unbroken), weights(second)
    assert expected.keys() == got.keys()
    assert any("momentum" in name for name in expected)
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_optimiser_counts_on_the_cpu(work: Path, muon: bool) -> None:
    learner = stages.diffusion_learner(replace(tiny_plan(work), muon=muon))
    learner.train_step()
    tensors, meta = learner.state()
    # As `load` reads them for a GPU.
    with Elsewhere():
        there = {k: v.to(ELSEWHERE) if k.endswith(".step") else v for k, v in tensors.items()}
        assert any(v.device == ELSEWHERE for v in there.values())
        learner.load_state(there, meta)
    counts = [state["step"] for state in learner.optimizer.state.values() if "step" in state]
    assert counts and {(count.device.type, float(count)) for count in counts} == {("cpu", 1.0)}


def test_resuming_without_the_optimiser_is_noticed(work: Path, tmp_path: Path) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    for _ in range(2):
        learner.train_step()
    learner.save(tmp_path / "c.safetensors")
    learner.train_step()
    forgetful = stages.diffusion_learner(tiny_plan(work))
    forgetful.load(tmp_path / "c.safetensors")
    forgetful.reset_optimizer()
    forgetful.train_step()
    expected, got = weights(learner), weights(forgetful)
    assert any(not torch.equal(expected[k], got[k]) for k in expected if k.startswith("model."))


def test_a_learner_learns(work: Path) -> None:
    learner = stages.diffusion_learner(replace(tiny_plan(work), learning_rate=0.01))
    learner.warmup = 1
    before = learner.evaluate()["v_mse"]
    for _ in range(40):
        learner.train_step()
    with Averaged(learner), torch.no_grad():
        assert learner.evaluate()["v_mse"] < 0.9 * before


def test_a_broken_checkpoint_is_named(work: Path, tmp_path: Path) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    path = tmp_path / "c.safetensors"
    learner.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointCorruptError, match=r"c\.safetensors"):
        learner.load(path)


def test_a_frozen_text_tower_keeps_its_weights(work: Path) -> None:
    stages.clip_learner(tiny_plan(work)).save(work / "clip.safetensors")
    learner = stages.diffusion_learner(replace(tiny_plan(work), text_tower="clip-frozen"))
    text = {k: v.clone() for k, v in learner.text.state_dict().items()}
    unet = {k: v.clone() for k, v in learner.unet.state_dict().items()}
    learner.train_step()
    learner.train_step()
    assert all(torch.equal(v, text[k]) for k, v in learner.text.state_dict().items())
    assert any(not torch.equal(v, unet[k]) for k, v in learner.unet.state_dict().items())


def test_the_towers_text_weights_are_the_clips(work: Path) -> None:
    clip = stages.clip_learner(tiny_plan(work), with_data=False)
    clip.save(work / "clip.safetensors")
    learner = stages.diffusion_learner(replace(tiny_plan(work), text_tower="clip-frozen"), with_data=False)
    assert clip.encode_captions is not None
    ids = clip.encode_captions(["a red duck"])
    clip.modules.eval()
    learner.modules.eval()
    expected = clip.model.text_model(ids).last_hidden_state
    assert torch.equal(learner.text(ids).last_hidden_state, expected)


def test_fit_writes_a_checkpoint_when_asked_to_stop(work: Path, tmp_path: Path) -> None:
    class Interrupted(diffusion.DiffusionLearner):
        def train_step(self, share: float = 1.0) -> dict[str, float | Tensor]:
            figures = super().train_step(share)
            if self.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return figures

    made = stages.diffusion_learner(tiny_plan(work))
    learner = Interrupted(
        made.modules,
        made.device,
        batch_size=4,
        latents=made.latents,
        texts=made.texts,
        weights=made.weights,
        encode_captions=made.encode_captions,
    )
    fit(learner, tmp_path / "c.safetensors", Budget(steps=50), lambda text: None)
    assert learner.step == 2
    made.load(tmp_path / "c.safetensors")
    assert made.step == 2


def test_a_step_without_a_finite_gradient_changes_no_weight(work: Path) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    assert learner.latents is not None
    learner.latents = torch.full_like(learner.latents, float("inf"))
    before = {k: v.clone() for k, v in learner.modules.state_dict().items()}
    assert learner.train_step()["skipped"] == 1.0
    assert all(torch.equal(v, before[k]) for k, v in learner.modules.state_dict().items())


# ------------------------------------------------------------------------------------------- pieces of the loop


def test_the_learning_rate_warms_up_and_falls_with_the_root() -> None:
    rates = [learning_rate(step, 2.0, warmup=10, reference=100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[100] == 2.0
    assert rates[400] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_rate_falls_in_a_line_over_the_last_share_of_whatever_ends_first() -> None:
    budget = Budget(minutes=10, steps=1000, fall=0.4)
    assert budget.rate(step=0, seconds=0.0) == budget.rate(step=600, seconds=360.0) == 1.0
    assert budget.rate(step=800, seconds=0.0) == pytest.approx(0.5)
    assert budget.rate(step=0, seconds=540.0) == pytest.approx(0.25)
    assert budget.rate(step=900, seconds=540.0) == pytest.approx(0.25)
    assert budget.rate(step=1000, seconds=0.0) == budget.rate(step=0, seconds=700.0) == 0.0
    assert Budget(minutes=10, steps=1000).rate(step=999, seconds=599.0) == 1.0
    assert Budget(fall=0.4).rate(step=10**6, seconds=1e6) == 1.0


def test_a_fallen_rate_moves_the_weights_by_its_share(work: Path) -> None:
    def moved(share: float) -> Tensor:
        learner = stages.diffusion_learner(tiny_plan(work))
        before = learner.unet.conv_in.weight.detach().clone()
        learner.train_step(share)
        return learner.unet.conv_in.weight.detach() - before

    whole = moved(1.0)
    assert whole.abs().max() > 0
    torch.testing.assert_close(moved(0.25), 0.25 * whole, rtol=1e-3, atol=1e-8)
    assert moved(0.0).abs().max() == 0


def test_fit_lets_the_rate_fall_to_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    shares: list[float] = []
    monkeypatch.setattr(learner, "train_step", lambda share: shares.append(share) or step_on(learner))
    fit(learner, tmp_path / "c.safetensors", Budget(steps=10, fall=0.5), lambda text: None)
    assert shares == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2])


class Clock:
    """In the place of `loop.time`: goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def timed(work: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Learner, Clock, list[float]]:
    """A learner whose steps take six seconds and learn nothing, and the shares of the rate that it is given."""
    learner, clock, shares = stages.diffusion_learner(tiny_plan(work)), Clock(), []

    def train_step(share: float = 1.0) -> dict[str, float]:
        shares.append(share)
        clock.now += 6.0
        return step_on(learner)

    monkeypatch.setattr(learner, "train_step", train_step)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "report", lambda *_: None)
    return learner, clock, shares


def test_fit_lets_the_rate_fall_with_the_time_of_this_run(
    timed: tuple[Learner, Clock, list[float]], tmp_path: Path
) -> None:
    learner, _, shares = timed
    learner.step = 500
    fit(learner, tmp_path / "c.safetensors", Budget(minutes=1, fall=0.5), lambda text: None)
    assert shares == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2, 0.0], abs=1e-9)


def test_the_time_that_taking_in_takes_is_no_time_since(
    timed: tuple[Learner, Clock, list[float]], tmp_path: Path
) -> None:
    learner, clock, _ = timed
    looked: list[int] = []

    def take_in() -> None:
        looked.append(learner.step)
        clock.now += 60.0

    learner.take_in = take_in
    fit(learner, tmp_path / "c.safetensors", Budget(steps=10, take_in_seconds=20.0), lambda text: None)
    assert looked == [4, 8]


def test_a_budget_of_no_time_and_a_fall_over_no_share() -> None:
    assert Budget(minutes=0).rate(step=3, seconds=1.0) == 1.0
    assert Budget(minutes=0, fall=0.5).rate(step=3, seconds=1.0) == 0.0
    for fall in (-0.1, 1.5):
        with pytest.raises(DreamfusionError, match="expected 0 to 1"):
            Budget(fall=fall)


def step_on(learner: Learner) -> dict[str, float]:
    learner.step += 1
    return {}


def test_the_average_of_a_line_lags_by_a_fixed_share() -> None:
    # With decay (1 - 1/n)^(g+1) the average of w_n = n tends to n (g + 1) / (g + 2), from Karras et al., appendix C.
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema = Ema([parameter], gamma=6.0, longest=1.0)
    for n in range(1, 2001):
        parameter.data.fill_(float(n))
        ema.update(n)
    assert float(ema.average[0]) / 2000 == pytest.approx(7 / 8, rel=2e-3)


def test_averaged_weights_are_lent_and_given_back(work: Path) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    learner.train_step()
    learner.train_step()
    live = [p.detach().clone() for p in learner.ema.live]
    average = [a.clone() for a in learner.ema.average]
    with Averaged(learner):
        assert not learner.unet.training
        assert all(torch.equal(p, a) for p, a in zip(learner.ema.live, average, strict=True))
    assert learner.unet.training
    assert all(torch.equal(p, before) for p, before in zip(learner.ema.live, live, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(average, live, strict=True))


def test_step_generators_differ_by_seed_step_and_stream() -> None:
    draws = {
        float(torch.rand((), generator=loop.step_generator(*key)))
        for key in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 1))
    }
    assert len(draws) == 5


# --------------------------------------------------------------------------------------------------- diffusion


def test_noisy_latents_and_velocity_are_diffusers_own() -> None:
    scheduler = make_scheduler()
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 5, 4, 16, 16), generator=generator)
    timesteps = torch.tensor([0, 100, 500, 900, 998])
    noisy, target = diffusion.noisy_and_target(latents, noise, scheduler.alphas_cumprod[timesteps])
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps))  # pyright: ignore
    torch.testing.assert_close(target, scheduler.get_velocity(latents, noise, timesteps))  # pyright: ignore


def test_every_noise_level_counts_the_same_but_for_the_noisy_ones() -> None:
    timesteps = torch.arange(1000)
    weights = diffusion.level_weights(timesteps)
    assert float(weights.max()) == 1.0
    for timestep, error in diffusion.LEVEL_ERRORS:
        power = 0.5 if timestep > 400 else 1.0
        assert float(weights[int(timestep)]) == pytest.approx((0.073 / error) ** power)
    # Between two of them the error, not the weight, goes in a straight line.
    assert 0.073 / float(weights[175]) == pytest.approx((0.116 + 0.096) / 2)


def test_even_timesteps_cover_every_level_and_are_uniform_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([diffusion.even_timesteps(8, 1000, generator) for _ in range(500)])
    assert int(drawn.min()) >= 0 and int(drawn.max()) <= 999
    eighths = (drawn // 125).sort(dim=1).values
    assert bool((eighths == torch.arange(8)).all())
    counts = torch.bincount(drawn[:, 0] // 100, minlength=10)
    assert int(counts.min()) > 25


def test_each_latent_meets_its_own_caption_and_a_tenth_meet_none(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    assert learner.latents is not None and learner.texts is not None and learner.encode_captions is not None
    # Every number of picture i is i, in its latents as in its captions.
    numbers = torch.arange(len(learner.latents))
    learner.latents = numbers.half()[:, None, None, None].expand_as(learner.latents)
    captions = numbers[:, None, None].expand_as(learner.texts.captions).short()
    learner.texts, learner.batch_size = replace(learner.texts, captions=captions), 2000
    monkeypatch.setattr(diffusion, "noisy_and_target", lambda latents, noise, abar: (latents, latents))
    read: list[Tensor] = []
    shown: list[Tensor] = []
    monkeypatch.setattr(learner, "read", lambda ids: read.append(ids) or ids)
    monkeypatch.setattr(learner, "predict", lambda noisy, *_: shown.append(noisy) or noisy)
    learner.loss()
    dropped = (read[0] == learner.encode_captions([""])).all(1)
    assert float(dropped.float().mean()) == pytest.approx(diffusion.CAPTION_DROPOUT, abs=0.025)
    assert torch.equal(read[0][~dropped, 0], shown[0][~dropped, 0, 0, 0].long())
    assert len(shown[0][~dropped, 0, 0, 0].unique()) == len(numbers)
    # Scenes of two things come more often than those of one, as the weights say.
    counts = torch.bincount(shown[0][:, 0, 0, 0].long(), minlength=len(numbers)).float()
    assert learner.weights is not None
    alone = learner.weights == 1.0
    assert 0 < alone.sum() < len(alone)
    ratio = learner.weights[~alone].mean() / learner.weights[alone].mean()
    assert float(counts[~alone].mean() / counts[alone].mean()) == pytest.approx(float(ratio), rel=0.15)


def test_pairs_are_shown_more_often_and_those_near_the_first_prompt_most_of_all() -> None:
    peacock, surfboard, duck, table = map(Thing, ("peacock", "surfboard", "duck", "table"))
    scenes = {
        SceneSpec((peacock,)): 1.0,
        SceneSpec((surfboard,)): 1.0,
        SceneSpec((duck, table), "on"): 2.0,
        SceneSpec((table, peacock), "under"): 2.0,
        SceneSpec((surfboard, table), "on"): 2.0,
        SceneSpec((peacock, table), "on"): 8.0,
        SceneSpec((duck, surfboard), "on"): 8.0,
    }
    classes = torch.tensor([labels(spec) for spec in scenes])
    weights = diffusion.picture_weights(classes, list(core().nouns))
    assert weights.tolist() == list(scenes.values())


def test_on_a_gpu_steps_take_the_compiled_denoiser_and_samples_the_plain_one(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    assert learner.compiled is learner.unet
    other = stages.diffusion_learner(tiny_plan(work))
    used: list[str] = []

    def compiled(unet: torch.nn.Module) -> Callable[..., object]:
        return lambda *args: used.append("compiled") or unet(*args)

    monkeypatch.setattr(torch, "compile", compiled)
    arguments = torch.randn(2, 4, 16, 16), torch.tensor([5, 500]), torch.randn(2, 24, 16)
    other.device = torch.device("cuda")
    steps = other.predict(*arguments)
    assert used == ["compiled"]
    with torch.no_grad():
        assert torch.equal(other.predict(*arguments), steps)
    assert used == ["compiled"]


def test_indices_are_drawn_as_often_as_their_weights_say() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0])
    drawn = diffusion.weighted_indices(weights, 80_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 80_000
    torch.testing.assert_close(shares, weights / 8, atol=0.006, rtol=0.0)


def test_millions_of_pictures_are_drawn_evenly_to_the_last() -> None:
    # Float32 has no odd numbers above 16,777,216: half of the indices after that would never come.
    weights = torch.full((20_000_000,), 1.0)
    drawn = diffusion.weighted_indices(weights, 20_000, torch.Generator().manual_seed(0))
    late = drawn[drawn >= 18_000_000]
    assert len(late) == pytest.approx(2000, abs=200)
    assert (torch.bincount(late % 4, minlength=4) / len(late)).tolist() == pytest.approx([0.25] * 4, abs=0.05)


# ------------------------------------------------------------------------------------------- following a world


def grown(work: Path, folder: Path) -> Plan:
    """A copy of the work folder with two more shards, which nobody has made ready yet."""
    shutil.copytree(work, folder)
    for seed in (1, 2):
        make_shard(folder / "shards" / f"train_{seed:05d}.npz", seed=seed, count=4)
    return replace(tiny_plan(folder), follow=True)


def test_a_training_that_follows_takes_in_what_has_been_made_ready(work: Path, tmp_path: Path) -> None:
    plan = grown(work, tmp_path / "work")
    learner, clip = stages.diffusion_learner(plan), stages.clip_learner(plan)
    assert learner.take_in and clip.take_in
    learner.take_in()
    clip.take_in()
    assert learner.latents is not None and clip.pictures is not None
    assert len(learner.latents) == len(clip.pictures) == 12
    first = learner.latents.clone()
    # Captions alone are enough for a CLIP; the denoiser needs latents too.
    shards.run_texts(plan)
    learner.take_in()
    clip.take_in()
    assert len(learner.latents) == 12 and len(clip.pictures) == 20
    shards.run_latents(plan)
    for _ in range(2):
        learner.take_in()
        clip.take_in()
    assert learner.texts is not None and learner.weights is not None and clip.texts is not None
    assert len(learner.latents) == len(learner.texts) == len(learner.weights) == len(clip.texts) == 20
    assert torch.equal(learner.latents[:12], first)
    whole = stages.diffusion_learner(replace(plan, follow=False))
    assert whole.take_in is None and whole.latents is not None and whole.weights is not None
    assert torch.equal(learner.latents, whole.latents) and torch.equal(learner.weights, whole.weights)
    assert whole.texts is not None
    for texts in (learner.texts, clip.texts):
        assert torch.equal(texts.captions, whole.texts.captions) and torch.equal(
            texts.names, whole.texts.names
        )
    pictures = load_pictures(plan.shard_paths("train"))
    assert torch.equal(clip.pictures.images, pictures.images)
    assert (clip.pictures.specs, clip.pictures.views) == (pictures.specs, pictures.views)


def test_a_training_that_has_nothing_to_follow_says_what_to_do(work: Path, tmp_path: Path) -> None:
    for folder in ("shards", "vae", "latents", "tokenizer"):
        (tmp_path / folder).symlink_to(work / folder)
    for make in (stages.diffusion_learner, stages.clip_learner):
        with pytest.raises(DreamfusionError, match="stage 'feed'"):
            make(replace(tiny_plan(tmp_path), follow=True))


def test_fit_looks_for_new_pictures_now_and_then(work: Path, tmp_path: Path) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    looked: list[int] = []
    learner.take_in = lambda: looked.append(learner.step)
    fit(learner, tmp_path / "c.safetensors", Budget(steps=3, take_in_seconds=0.0), lambda text: None)
    assert looked == [1, 2, 3]


@pytest.mark.parametrize("end", ["time", "signal"])
def test_feeding_goes_on_with_what_comes_until_its_end(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    plan = grown(work, tmp_path / "work")
    come, to_come = plan.work / "shards" / "train_00001.npz", tmp_path / "to_come.npz"
    come.rename(to_come)

    class Sleeper(Clock):
        def sleep(self, seconds: float) -> None:
            to_come.rename(come)
            self.now += seconds
            if end == "signal":
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(shards, "time", Sleeper())
    minutes = shards.FEED_SECONDS / 60 / 2 if end == "time" else 1e9
    shards.run_feed(replace(plan, budget=Budget(minutes=minutes)))
    assert (plan.work / "latents" / "train_00001.safetensors").exists()
    assert (plan.work / "texts" / "train_00001.safetensors").exists()


def test_samples_depend_on_their_own_noise_only(work: Path) -> None:
    learner = stages.diffusion_learner(tiny_plan(work))
    learner.modules.eval()
    alone = learner.sample_latents(["a duck"], steps=2)
    among = learner.sample_latents(["a duck", "a red car"], steps=2)
    torch.testing.assert_close(alone[0], among[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(among[0], among[1])


# ------------------------------------------------------------------------------------------------- autoencoder


def test_a_fresh_autoencoder_already_passes_a_blurred_picture(work: Path) -> None:
    pictures = load_pictures([work / "shards" / "train_00000.npz"])
    images = to_model(pictures.images, torch.device("cpu"))
    with seeded(3), torch.no_grad():
        model = make_autoencoder(Sizes())
        made = model.decode(model.encode(images).latent_dist.mean).sample  # pyright: ignore
    flat = images.mean((2, 3), keepdim=True)
    # Right up to a gain that the first steps learn.
    gain = (made * images).sum() / made.square().sum()
    assert F.mse_loss(gain * made, images) < 0.5 * F.mse_loss(flat.expand_as(images), images)


def test_edges_see_a_step_and_nothing_else() -> None:
    image = torch.zeros(1, 3, 4, 6)
    image[..., 3:] = 1.0
    down, right = edges(image)
    assert float(down.abs().sum()) == 0.0
    assert float(right.sum()) == 12.0 and float(right[..., 2].min()) == 1.0


def test_pixels_survive_the_way_to_the_model_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    images = to_model(pixels, torch.device("cpu"))
    assert float(images.min()) == -1.0 and float(images.max()) == 1.0
    assert torch.equal(to_bytes(images), pixels)


def test_training_without_captions_says_what_to_do(work: Path, tmp_path: Path) -> None:
    for folder in ("shards", "vae", "latents", "tokenizer"):
        (tmp_path / folder).symlink_to(work / folder)
    for make in (stages.diffusion_learner, stages.clip_learner):
        with pytest.raises(DreamfusionError, match="stage 'texts'"):
            make(tiny_plan(tmp_path))


def test_latents_are_encoded_once_for_an_autoencoder(work: Path) -> None:
    plan = tiny_plan(work)
    path = work / "latents" / "train_00000.safetensors"
    before = path.stat().st_mtime_ns
    shards.run_latents(plan)
    assert path.stat().st_mtime_ns == before


def test_another_autoencoder_has_its_own_scale_and_encodes_anew(work: Path, tmp_path: Path) -> None:
    for folder in ("shards", "texts", "tokenizer"):
        (tmp_path / folder).symlink_to(work / folder)
    plan = tiny_plan(tmp_path)
    learner = stages.autoencoder_learner(plan)
    stages.freeze_autoencoder(plan, learner)
    shards.run_latents(plan)
    # Unit spread is what the denoiser learns on, and what Stable Diffusion's pipeline divides by again.
    scaled = trained_on(plan)
    assert float(scaled.float().std()) == pytest.approx(1.0, abs=0.02)
    assert abs(shards.frozen_autoencoder(plan).config["scaling_factor"] - 1.0) > 0.02
    with torch.no_grad():
        learner.ema.average[0].mul_(1.5)
    stages.freeze_autoencoder(plan, learner)
    with pytest.raises(DreamfusionError, match="stage 'latents'"):
        trained_on(plan)
    shards.run_latents(plan)
    assert not torch.equal(trained_on(plan), scaled)


def trained_on(plan: Plan) -> Tensor:
    latents = stages.diffusion_learner(plan).latents
    assert latents is not None
    return latents


def test_the_pull_of_the_latents_is_the_divergence_from_a_unit_normal(work: Path) -> None:
    learner = stages.autoencoder_learner(tiny_plan(work))
    assert learner.pictures is not None
    _, figures = learner.loss()
    chosen = draw_indices(len(learner.pictures), 4, loop.step_generator(learner.seed, learner.step))
    with torch.no_grad():
        images = to_model(learner.pictures.images[chosen], learner.device)
        posterior = learner.model.encode(images).latent_dist  # pyright: ignore
        unit = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
        mine = torch.distributions.Normal(posterior.mean, posterior.std)
        expected = torch.distributions.kl_divergence(mine, unit).mean()
    assert float(figures["kl"]) == pytest.approx(float(expected), rel=1e-4)


# ------------------------------------------------------------------------------------------------- contrastive


def test_contrastive_loss_equals_its_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((4, 8), generator=generator, dtype=torch.float64)
    same = torch.zeros(4, 8, dtype=torch.bool)
    same[torch.arange(4), torch.arange(4)] = True
    same[0, 2] = same[2, 0] = same[1, 6] = True
    total = 0.0
    for i in range(4):
        texts = [j for j in range(8) if j == i or not same[i, j]]
        total += -float(logits[i, i]) + float(torch.logsumexp(logits[i, texts], 0))
        images = [j for j in range(4) if j == i or not same[j, i]]
        total += -float(logits[i, i]) + float(torch.logsumexp(logits[images, i], 0))
    assert float(contrastive_loss(logits, same)) == pytest.approx(total / 8)


def test_augmented_pictures_stay_in_range_and_follow_the_generator() -> None:
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    made = [augment(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert float(made[0].abs().max()) <= 1.0


# ----------------------------------------------------------------------------------------------- export, edges


def test_an_export_loads_as_float32_and_draws_the_same(work: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer

    plan = tiny_plan(work)
    for stage in ("diffusion", "clip"):
        learner = LEARNERS[stage](plan)
        learner.train_step()
        learner.save(plan.checkpoint(stage))
    stages.run_export(plan)
    folder = plan.package / "stable-diffusion"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, low_cpu_mem_usage=False)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    learner = stages.diffusion_learner(plan)
    learner.load(plan.checkpoint("diffusion"))
    for name, value in pipeline.unet.state_dict().items():
        index = [n for n, _ in learner.unet.named_parameters()].index(name)
        torch.testing.assert_close(value, learner.ema.average[index], rtol=1e-3, atol=1e-4)
    clip = CLIPModel.from_pretrained(plan.package / "clip")
    assert clip.dtype == torch.float32
    assert CLIPTokenizer.from_pretrained(plan.package / "clip")("a duck").input_ids == [
        pipeline.tokenizer.bos_token_id,
        *pipeline.tokenizer("a duck", add_special_tokens=False).input_ids,
        pipeline.tokenizer.eos_token_id,
    ]
    assert list(json.loads((plan.package / "vocabulary.json").read_text())["nouns"]) == list(core().nouns)


def test_a_clip_that_is_exported_alone_leaves_the_word_list_as_it_is(work: Path, tmp_path: Path) -> None:
    plan = replace(tiny_plan(work), work=tmp_path / "work", package=tmp_path / "package")
    with pytest.raises(DreamfusionError, match=r"nothing in .* has been trained"):
        stages.run_export(plan)
    plan.package.mkdir()
    (plan.package / "vocabulary.json").write_text("{}")
    stages.clip_learner(plan, with_data=False).save(plan.checkpoint("clip"))
    stages.run_export(plan)
    assert (plan.package / "clip" / "model.safetensors").exists()
    assert (plan.package / "vocabulary.json").read_text() == "{}"


def test_a_denoiser_is_cut_into_files_within_the_limit(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(export, "FILE_LIMIT", 60_000)
    monkeypatch.setattr(export, "HEADER_ROOM", 25_000)
    learner = stages.diffusion_learner(tiny_plan(work), with_data=False)
    assert learner.vae is not None
    export.export_pipeline(tmp_path / "made", learner.vae, learner.unet, learner.text, work / "tokenizer")
    files = sorted((tmp_path / "made" / "unet").glob("*.safetensors"))
    assert len(files) > 2 and max(file.stat().st_size for file in files) <= 60_000
    read = UNet2DConditionModel.from_pretrained(tmp_path / "made" / "unet", low_cpu_mem_usage=False)
    for name, value in learner.unet.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_shipped_weights_are_taken_over_by_a_tokenizer_that_knows_more_words(
    work: Path, tmp_path: Path
) -> None:
    plan = replace(tiny_plan(work), package=tmp_path / "package")
    for stage, make in (("clip", stages.clip_learner), ("diffusion", stages.diffusion_learner)):
        learner = make(plan)
        for name, parameter in learner.modules.named_parameters():
            if name.endswith("token_embedding.weight"):
                parameter.data *= 4.0
        learner.ema.average = [p.detach().clone() for p in learner.ema.live]
        learner.save(plan.checkpoint(stage))
    stages.run_export(plan)
    other = replace(plan, work=tmp_path / "other", from_shipped=True)
    # A word that comes early in the alphabet moves the ids of nearly all others.
    write_tokenizer(other.work / "tokenizer", [*vocabulary(), "aardvark"])
    for make in (stages.diffusion_learner, stages.clip_learner):
        old, new = make(replace(plan, from_shipped=True), with_data=False), make(other, with_data=False)
        assert old.encode_captions is not None and new.encode_captions is not None
        text = ["a red duck, back view"]
        ids = old.encode_captions(text), new.encode_captions(text)
        assert not torch.equal(*ids)
        torch.testing.assert_close(new.read(ids[1]), old.read(ids[0]))
        rows = [
            len(w) for name, w in new.modules.state_dict().items() if name.endswith("token_embedding.weight")
        ]
        assert rows == [len(CLIPTokenizer.from_pretrained(other.work / "tokenizer"))]
        # The new word is as long as those that were there, which have grown.
        (table,) = (w for n, w in new.modules.state_dict().items() if n.endswith("token_embedding.weight"))
        (grown,) = (w for n, w in old.modules.state_dict().items() if n.endswith("token_embedding.weight"))
        token = new.encode_captions(["aardvark"])[0, 1]
        assert 0.6 < float(table[token].norm() / grown.norm(dim=1).mean()) < 1.6


def test_new_nouns_start_where_this_trainings_clip_sees_them(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(tiny_plan(work), package=tmp_path / "package")
    stages.clip_learner(plan).save(plan.checkpoint("clip"))
    stages.diffusion_learner(plan).save(plan.checkpoint("diffusion"))
    stages.run_export(plan)
    words = replace(core(), nouns={**core().nouns, "aardvark": ("aardvark",)})
    monkeypatch.setattr(stages, "lexicon", lambda _: words)
    other = replace(plan, work=tmp_path / "other", from_shipped=True)
    write_tokenizer(other.work / "tokenizer", [*vocabulary(), "aardvark"])
    tables = []
    for seed in (None, 0, 1):
        if seed is not None:
            torch.manual_seed(seed)
            clip = stages.clip_learner(other, with_data=False)
            for parameter in clip.modules.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            clip.ema.average = [p.detach().clone() for p in clip.ema.live]
            clip.save(other.checkpoint("clip"))
        learner = stages.diffusion_learner(other, with_data=False)
        assert learner.encode_captions is not None
        duck, new = (int(learner.encode_captions([word])[0, 1]) for word in ("duck", "aardvark"))
        tables.append(learner.text.get_input_embeddings().weight.detach()[[duck, new]])  # pyright: ignore
    assert all(torch.equal(tables[0][0], table[0]) for table in tables)
    assert not torch.equal(tables[0][1], tables[1][1]) and not torch.equal(tables[1][1], tables[2][1])


def test_a_wider_training_starts_from_the_shipped_weights(work: Path, tmp_path: Path) -> None:
    plan = replace(tiny_plan(work), package=tmp_path / "package")
    trained = stages.diffusion_learner(plan)
    for _ in range(3):
        trained.train_step()
    trained.save(plan.checkpoint("diffusion"))
    stages.run_export(plan)
    narrow = replace(plan, from_shipped=True)
    wide = replace(narrow, sizes=replace(TINY, autoencoder_channels=(16, 16, 16), unet_channels=(16, 32)))
    noisy, images = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 64, 64)
    denoised, encoded = [], []
    with torch.no_grad():
        for one in (narrow, wide):
            learner = stages.diffusion_learner(one, with_data=False)
            assert learner.encode_captions is not None
            states = learner.read(learner.encode_captions(["a red duck", "a cow"]))
            denoised.append(learner.predict(noisy, torch.tensor([100, 900]), states))
            vae = stages.autoencoder_learner(one, with_data=False).model
            encoded.append(vae.encode(images).latent_dist.mean)  # pyright: ignore
    torch.testing.assert_close(*denoised, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(*encoded, atol=1e-4, rtol=1e-3)
    assert float(denoised[0].abs().max()) > 0.01


def test_sheets_are_drawn(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(diffusion, "SHEET_PROMPTS", ("a duck", "a peacock on a surfboard"))
    learner = stages.diffusion_learner(tiny_plan(work))
    learner.sheet(tmp_path / "s" / "sheet.png")
    with Image.open(tmp_path / "s" / "sheet.png") as image:
        assert image.width >= 2 * 4 * 128 and len(image.getcolors(1 << 20) or []) > 20


def test_training_without_pictures_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DreamfusionError, match="stage 'world'"):
        stages.autoencoder_learner(Plan(work=tmp_path, sizes=TINY))
    with pytest.raises(DreamfusionError, match="stage 'autoencoder'"):
        stages.diffusion_learner(Plan(work=tmp_path, sizes=TINY, package=tmp_path))


def test_the_scripts_options_reach_the_plan_and_a_bad_one_is_told_in_a_line(
    module_at: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plans: list[Plan] = []
    monkeypatch.setitem(stages.RUNNERS, "clip", plans.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    main = module_at("scripts/train_miniature.py").main
    words = ["--stage", "clip", "--device", "cpu", "--work", str(tmp_path)]
    assert main([*words, "--minutes", "7", "--fall", "0.3", "--follow"]) == main(words) == 0
    told, plain = plans
    assert (told.budget.minutes, told.budget.fall, told.follow) == (7.0, 0.3, True)
    assert (plain.budget.minutes, plain.budget.fall, plain.follow) == (45.0, 0.0, False)
    assert main([*words, "--fall", "2"]) == 1
    assert capsys.readouterr().err.startswith("error: the learning rate cannot fall over this share")
    # The folder is the core world's by now.
    assert main([*words, "--world", "wide"]) == 1 and len(plans) == 2
    assert "is of the core world: got --world wide. Say its --world" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "new"), "--world", "wide"]) == 0
    assert plans[2].world == "wide" and (tmp_path / "new" / "wide.world").is_file()


def test_devices_that_are_not_there_are_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(DeviceError):
        pick_device("abacus")


def test_indices_are_within_the_data() -> None:
    drawn = draw_indices(7, 1000, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(range(7))


# ------------------------------------------------------------------------------------------------ the judge


def test_the_judge_shares_nothing_with_the_clip_that_guides(work: Path) -> None:
    plan = replace(tiny_plan(work), shards=1, shard_size=12, budget=Budget(steps=1))
    stages.run_judge(plan)
    stages.run_clip(plan)
    # A training that went on from shipped weights exports a judge that was never shipped.
    stages.run_export(replace(plan, from_shipped=True))
    own, judge = (plan.package / name for name in ("clip", "judge"))
    first, second = (
        json.loads((folder / "config.json").read_text())["vision_config"] for folder in (own, judge)
    )
    assert (first["hidden_size"], second["hidden_size"]) == (16, 12)
    assert (first["num_hidden_layers"], second["num_hidden_layers"]) == (1, 3)
    found = load_clip(judge)  # with its own tokenizer and preprocessing
    assert found.text_features(["a red duck", "a blue cow"]).shape == (2, 12)
    pictures = [load_pictures(one.shard_paths("train")).images for one in (plan, judge_plan(plan))]
    assert not torch.equal(*pictures)
    assert [path.name for path in judge_plan(plan).shard_paths("train")] == ["train_10000.npz"]
    assert judge_plan(plan).sky and not plan.sky
    assert "judge" not in stages.STAGES and "judge" in stages.RUNNERS
