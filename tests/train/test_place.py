"""Where training runs: models go and come back, unknown devices are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitcompress
from bitcompress.errors import Unavailable
from bitcompress.train.place import check_device, own_device, placed, sent, to


def test_what_is_no_device_and_what_is_not_there_are_refused() -> None:
    with pytest.raises(Unavailable, match=r"'gpu' is no device: give cpu, cuda"):
        check_device("gpu")
    with pytest.raises(Unavailable, match=r"'meta'.*leave --device out"):
        check_device("meta")
    check_device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_quantize_without_a_gpu_says_so_before_any_work() -> None:
    with pytest.raises(Unavailable, match="sees no such device here"):
        bitcompress.quantize(nn.Linear(4, 4), data=[torch.rand(2, 4)], device="cuda")


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("cuda") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == "cuda:3"
    assert own_device("cuda:1") == "cuda:1"
    assert own_device("cpu") == "cpu"


def test_models_come_back_with_the_same_tensors_and_ties() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    before = {id(t): t.detach().clone() for t in (*net.parameters(), *net.buffers())}
    with placed([net], "cpu"):
        assert net[2].weight is net[0].weight
    for tensor in (*net.parameters(), *net.buffers()):
        assert torch.equal(tensor, before[id(tensor)])


def test_batches_are_sent_whole() -> None:
    inputs = {"x": torch.rand(2), "more": (torch.rand(1), [torch.rand(3), "word"]), "n": 3}
    found = to(inputs, "meta")
    assert found["x"].device.type == found["more"][0].device.type == "meta"
    assert found["more"][1][0].shape == (3,)
    assert found["more"][1][1] == "word"
    assert found["n"] == 3
    source = sent(lambda step, process, processes: [(0.5, torch.rand(step))], "meta")
    ((weight, part),) = source(4, 0, 1)
    assert weight == 0.5
    assert part.device.type == "meta"
    assert part.shape == (4,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_comes_near_to_training_here() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    data = [torch.randn(64, 16) for _ in range(4)]
    made = [
        bitcompress.quantize(
            net, bits=4, data=data, device=device, overrides={"train.steps": 20}
        ).model(data[0])
        for device in ("cpu", "cuda")
    ]
    assert float((made[0] - made[1]).norm() / made[0].norm()) < 0.05
