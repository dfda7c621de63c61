"""A device that is not there is said in one line; `auto` always finds one."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.errors import DeviceError
from dreamfusion.training.devices import choose_device, describe_device, peak_memory_bytes


def test_auto_prefers_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "tpu", "cuda:x", ""])
def test_a_missing_device_names_those_there_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="is not there: expected cpu"):
        choose_device(name)


def test_a_card_beyond_the_last_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(DeviceError):
        choose_device("cuda:1")


def test_what_is_said_of_a_cpu() -> None:
    assert describe_device(torch.device("cpu")).startswith("cpu, ")
    peak = peak_memory_bytes(torch.device("cpu"))
    assert peak is None or 2**24 < peak < 2**44
