"""Two processes learn as one: statistics are shared, a stop is everybody's, a resume is exact."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from bitcompress.train.processes import rank, said_alone

PROGRAM = """
import importlib.util, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec)
sys.modules["cases"] = cases
spec.loader.exec_module(cases)
from accelerate import PartialState
from bitcompress.errors import Interrupted
from bitcompress.train.processes import part_processes

folder, rank = Path(sys.argv[2]), PartialState(cpu=True).process_index
assert PartialState().num_processes == 2
whole = cases.Run()
losses = whole.learn()
try:  # Ctrl-C reaches the second process alone
    cases.Run().learn(cases.disturbed(6, cases.interrupt if rank else int), folder=folder)
except Interrupted as error:
    assert "after step 7 of 12; the state is kept" in str(error), error
else:
    raise AssertionError("nobody stopped")
resumed = cases.Run()
assert resumed.learn(folder=folder, resume=True) == losses
assert cases.same(resumed.state(), whole.state())
torch.save(whole.state(), folder / f"{rank}.pt")
part_processes()
"""


def test_broken_and_resumed_on_two_processes_ends_bit_for_bit(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    cases = Path(__file__).with_name("test_learn.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(cases), str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_launchers_say_which_process_this_is() -> None:
    assert rank({}) == 0 and rank({"RANK": "1"}) == 1 and rank({"PMI_RANK": "2"}) == 2


def test_one_process_where_more_were_asked_for_is_told() -> None:
    asked = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
    assert "torchrun --nproc-per-node N" in said_alone(asked)
    assert not said_alone({}) and not said_alone({"ACCELERATE_USE_CPU": "True"})
    assert not said_alone({**asked, "WORLD_SIZE": "2"}) and not said_alone({**asked, "RANK": "0"})
