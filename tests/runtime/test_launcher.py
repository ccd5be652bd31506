"""Variables that a container or an allocation leaves behind say nothing about the processes that lpft starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from lpft.runtime.devices import Devices, OwnProcesses
from lpft.runtime.launcher import TORCHRUN, launched_by_torchrun, without_foreign_ranks
from lpft.storage.run import Run
from tests.commands import TOY
from tests.forked import Forked

LEFT = {
    "NODE_RANK": "1",
    "GROUP_RANK": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "1",
    "STANDALONE_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "2",
    "SLURM_NTASKS": "",
    "PMI_RANK": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "KUBERNETES_PORT": "tcp://10.0.0.1:443",
    "LSB_JOBID": "1",
    "JSM_NAMESPACE_RANK": "1",
    "TPU_PROCESS_BOUNDS": "1",
    "LT_DEVICES": "3",
    "LT_STRATEGY": "fsdp",
    "GLOO_SOCKET_IFNAME": "ib7",
}


@pytest.mark.parametrize("devices", [1, 2])
def test_leftover_environment_variables_are_ignored(devices: int, out: Path, tmp_path: Path) -> None:
    """Before, the ranks waited forever for others, or for another machine."""
    words = ("federate", "-c", TOY, "--out", out, "--trainer.devices", devices, "--seeds", "[0]")
    process = Forked(*words, log=tmp_path / "log", before=lambda: os.environ.update(LEFT))
    try:
        assert process.code(60) == 0, process.said()
    finally:
        process.kill(everyone=True)
    assert Run(out).global_model(0).exists()
    assert "round 3/3" in process.said()


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEFT.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with without_foreign_ranks():
        assert LEFT.keys() & os.environ.keys() <= {"SLURM_NTASKS", "GLOO_SOCKET_IFNAME"}
        assert os.environ.get("GLOO_SOCKET_IFNAME") in ("lo", "lo0", None)
    assert dict(os.environ) == before


@pytest.mark.parametrize("left_out", TORCHRUN)
def test_torchrun_is_recognized_by_all_its_variables(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.setenv(name, "2")
    assert launched_by_torchrun()
    assert isinstance(Devices("cpu", 2).fabric()._connector.cluster_environment, TorchElasticEnvironment)
    with without_foreign_ranks():
        assert os.environ["RANK"] == "2"
    monkeypatch.delenv(left_out)
    assert not launched_by_torchrun()
    assert isinstance(Devices("cpu", 2).fabric()._connector.cluster_environment, OwnProcesses)


def test_ranks_under_slurm_are_those_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    for name, value in {**slurm, "SLURM_NODELIST": "n1", "SLURM_NODEID": "0", "NODE_RANK": "7"}.items():
        monkeypatch.setenv(name, value)
    with without_foreign_ranks():
        environment = Devices("cpu", 2).fabric()._connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert (environment.global_rank(), environment.node_rank(), environment.world_size()) == (1, 0, 2)


def test_each_launch_has_its_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    ports = {OwnProcesses().main_port for _ in range(3)}
    assert 1 not in ports
