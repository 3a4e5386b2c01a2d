"""Which device a fit takes."""

from __future__ import annotations

import pytest
import torch

from avatar.errors import UserError
from avatar.raster import cuda
from avatar.raster.device import describe_device, resolve_device


def test_auto_takes_a_gpu_only_with_kernels_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setattr(cuda, "unavailable", lambda: "not built")
    assert resolve_device("auto").type == "cpu"
    assert resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match="No CUDA device"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="There is no device 'tpu'"):
        resolve_device("tpu")


def test_the_cpu_in_words() -> None:
    assert describe_device(torch.device("cpu")).startswith("CPU, ")
