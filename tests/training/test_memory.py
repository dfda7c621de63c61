"""The ladder: what is given up when memory runs out, and that the upper rungs change nothing but the memory."""

from __future__ import annotations

import errno
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamfusion.config import ConstantResolution, DoublingResolution, ExperimentConfig
from dreamfusion.errors import OutOfMemoryError, of_the_machine
from dreamfusion.guidance.costs import guidance_cost
from dreamfusion.training.memory import is_out_of_memory, plan, rungs
from dreamfusion.training.trainer import Trainer

_BUILDERS = Path(__file__).parents[1] / "guidance" / "conftest.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-sd")
    return runpy.run_path(str(_BUILDERS))["save_tiny_stable_diffusion"](directory, "sd1")


@pytest.fixture
def config(model: Path, make_config: Callable[..., ExperimentConfig]) -> ExperimentConfig:
    return make_config(
        guidance={"model": str(model), "guidance_scale": 7.5, "dtype": "float32", "image_size": 128},
        cameras={"resolution": 24, "views_per_step": 2},
        losses={"orientation": 0.01},
    )


def parameters_after(config: ExperimentConfig, steps: int = 3) -> torch.Tensor:
    trainer = Trainer(config)
    for _ in range(steps):
        trainer.train_step()
    return torch.cat([parameter.detach().flatten() for parameter in trainer.scene.parameters()])


def test_the_first_two_rungs_change_nothing_but_the_memory(config: ExperimentConfig) -> None:
    lower = list(rungs(config, 128))
    # Chunks as small as the config allows, so that there are several.
    rendering = lower[1][1].rendering.model_copy(update={"field_chunk": 1024})
    sliced = lower[1][1].model_copy(update={"rendering": rendering})
    assert sliced.guidance.slices
    torch.testing.assert_close(parameters_after(sliced), parameters_after(config), rtol=1e-3, atol=1e-5)


def test_slices_keep_less(config: ExperimentConfig, model: Path) -> None:
    whole = guidance_cost(config.guidance, model, 2)
    sliced = guidance_cost(config.guidance.model_copy(update={"slices": True}), model, 2)
    assert sliced.peak_bytes < 0.8 * whole.peak_bytes
    assert sliced.unet_rows == whole.unet_rows


def test_the_order_of_the_rungs(config: ExperimentConfig) -> None:
    grown = config.cameras.model_copy(update={"resolution": ConstantResolution(value=256)})
    config = config.model_copy(update={"cameras": grown})
    texts = [text for text, _ in rungs(config, 512)]
    assert [text.split(" for ")[0] for text in texts] == [
        "the field in chunks of 65,536 samples",
        "the guidance in slices",
        "one view a step",
        "renders of 128",
        "renders of 64",
        "pictures of 384",
        "pictures of 256",
    ]
    *_, (_, last) = rungs(config, 512)
    assert last.cameras.resolution == ConstantResolution(value=64)
    assert (last.guidance.image_size, last.cameras.views_per_step) == (256, 1)
    assert list(rungs(last, None)) == []


def test_a_growing_render_stops_growing_earlier(config: ExperimentConfig) -> None:
    growing = DoublingResolution(start=64, end=512, steps=400)
    config = config.model_copy(
        update={"cameras": config.cameras.model_copy(update={"resolution": growing, "views_per_step": 1})}
    )
    found = [lower.cameras.resolution for text, lower in rungs(config, None) if text.startswith("renders")]
    assert [resolution.largest for resolution in found] == [256, 128, 64]
    for step in (0, 100, 199):  # what is left keeps its place in the run
        assert found[0].at(step) == growing.at(step) == found[1].at(step)
    assert found[0].at(250) == 256 and found[1].at(250) == 128 and found[2].at(250) == 64


def failing(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, times: int, error: Exception) -> list[int]:
    """Let the guidance fail `times` times after its draws, as a device does that runs out of memory in the UNet."""
    guidance: Any = trainer.guidance
    left, denoise = [times], guidance.denoise

    def exhausted(*arguments: Any) -> torch.Tensor:
        if left[0]:
            left[0] -= 1
            raise error
        return denoise(*arguments)

    monkeypatch.setattr(guidance, "denoise", exhausted)
    return left


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_step_that_runs_out_goes_on_lower_with_the_same_draws(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trainer, undisturbed = Trainer(config), Trainer(config)
    failing(trainer, monkeypatch, 2, error)
    told, expected = trainer.train_step(), undisturbed.train_step()
    assert trainer.notices == [
        "out of memory at step 0: going on with the field in chunks of 65,536 samples",
        "out of memory at step 0: going on with the guidance in slices",
    ]
    assert trainer.config.guidance.slices and trainer.renderer.config.field_chunk == 65_536
    assert told.timesteps == expected.timesteps
    assert told.sds_gradient_norm == pytest.approx(expected.sds_gradient_norm, rel=1e-3)
    assert trainer.train_step().step == 2 and len(trainer.notices) == 2


def test_the_bottom_of_the_ladder_is_one_clear_line(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config)
    failing(trainer, monkeypatch, 100, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(OutOfMemoryError, match=r"at step 0, and nothing is left to give up.*smaller model"):
        trainer.train_step()
    assert trainer.notices[-1].endswith("pictures of 64 for the guidance")
    guidance: Any = trainer.guidance
    assert guidance.image_size == 64


def test_other_errors_are_not_caught(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config)
    failing(trainer, monkeypatch, 1, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.train_step()
    assert trainer.notices == [] and not is_out_of_memory(ValueError("out of memory"))


def test_a_run_is_planned_down_the_ladder_before_it_starts(config: ExperimentConfig) -> None:
    def needed(tried: ExperimentConfig) -> int:
        return 100 * tried.cameras.views_per_step + (0 if tried.guidance.slices else 50)

    assert plan(config, 128, 250, needed) == (config, [])
    planned, given_up = plan(config, 128, 249, needed)
    assert planned.guidance.slices and len(given_up) == 2 and planned.cameras.views_per_step == 2
    assert plan(config, 128, 100, needed)[1][-1] == "one view a step"
    with pytest.raises(OutOfMemoryError, match=r"does not fit .* expected 0.0 GiB at least"):
        plan(config, 128, 99, needed)


def test_a_step_that_is_taken_again_ages_the_grid_once(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A grid whose memory of the first densities outlives the densities themselves.
    occupancy = config.rendering.occupancy.model_copy(update={"update_every": 1, "decay": 0.5})
    config = config.model_copy(
        update={"rendering": config.rendering.model_copy(update={"occupancy": occupancy})}
    )
    trainer, undisturbed = Trainer(config), Trainer(config)
    for each in (trainer, undisturbed):
        each.renderer.occupancy.densities.fill_(1e6)
    failing(trainer, monkeypatch, 1, torch.OutOfMemoryError("out of memory"))
    trainer.train_step()
    undisturbed.train_step()
    for name, value in undisturbed.renderer.state_dict().items():
        assert torch.equal(trainer.renderer.state_dict()[name], value), name
    states = [each.state_dict()[0]["generator.occupancy"] for each in (trainer, undisturbed)]
    assert torch.equal(*states)


def test_an_update_of_the_grid_that_runs_out_is_taken_again_whole(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, undisturbed = Trainer(config), Trainer(config)
    grid = trainer.renderer.occupancy
    look, left = grid._at_random_points, [1]

    def exhausted(*arguments: Any) -> torch.Tensor:
        seen = look(*arguments)
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("out of memory")
        return seen

    monkeypatch.setattr(grid, "_at_random_points", exhausted)
    trainer.train_step()
    undisturbed.train_step()
    assert len(trainer.notices) == 1 and trainer.step == 1
    for name, value in undisturbed.renderer.state_dict().items():
        assert torch.equal(trainer.renderer.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not create a memory storage"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
            ),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("HIP error: hipErrorOutOfMemory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("bad allocation"), True),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), True),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyError("memory"), False),
    ],
)
def test_every_librarys_way_of_saying_that_memory_ran_out(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory
    told = of_the_machine(error)
    assert isinstance(told, OutOfMemoryError) == is_memory
