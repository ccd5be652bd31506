"""A network that can be held up, and a method that can be made to fail, by files that a test makes and removes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor, nn

from lpft.methods.ft import FT
from lpft.runtime.signals import stop_requested
from lpft.types import DataSpec, State
from tests.toy import ToyNet

HOLD, BREAK = "LPFT_TEST_HOLD", "LPFT_TEST_BREAK"
passed = 0


class Hindrance(nn.Module):
    """Lets each process do as many batches as the file says, and holds it then as long as the file is there.

    A process that is held leaves a mark beside the file. The first life of a job is set free by the signal to stop.
    """

    def forward(self, x: Tensor) -> Tensor:
        global passed
        if x.device.type == "meta":  # a trial before training
            return x
        passed += 1
        hold, life = Path(os.environ.get(HOLD, "/nowhere")), os.environ.get("SLURM_RESTART_COUNT", "0")
        try:
            held = passed > int(hold.read_text())
        except FileNotFoundError:
            return x
        if held:
            hold.with_name(f"{os.environ['SLURM_JOB_ID']}-{life}").touch()
        while held and hold.exists() and not (life == "0" and stop_requested()):
            time.sleep(0.1)
        return x


class HeldNet(ToyNet):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec, norm=True)
        self.body.insert(0, Hindrance())


class Fragile(FT):
    """Full fine-tuning that fails once: for the stack that finds the file, and takes it away."""

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        try:
            Path(os.environ.get(BREAK, "/nowhere")).unlink()
        except FileNotFoundError:
            return super().end(phase, params, global_params, memory)
        raise RuntimeError("a test wanted this stack to fail")
