"""The Python API: what the commands do, from a script and from a notebook."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode
from safetensors.torch import load_file

import lpft
from lpft.config.files import ConfigError
from lpft.config.study import arguments, open_study
from lpft.methods.ft import FT
from lpft.results import Results
from lpft.runtime.session import training_session
from tests.commands import TOY, outcome, table, toy

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return lpft.run(TOY, out=str(tmp_path_factory.mktemp("api") / "run"), seeds=[0], federation={"rounds": 2})


def test_it_equals_the_command(results: Results, out: Path) -> None:
    command = toy("run", out, "--seeds", "[0]", "--federation.rounds", 2)
    assert outcome(results.run) == outcome(command)


def test_a_dict_equals_a_file(results: Results, out: Path) -> None:
    config = {**yaml.safe_load(Path(TOY).read_text()), "out": str(out)}
    made = lpft.run(config, seeds=[0], federation={"rounds": 2})
    assert outcome(made.run) == outcome(results.run)
    assert config["federation"]["rounds"] == 3, "the caller's dict has changed"


def test_later_configurations_override_earlier_ones(results: Results, out: Path, tmp_path: Path) -> None:
    toy = yaml.safe_load(Path(TOY).read_text())
    other = tmp_path / "other.yaml"
    other.write_text("federation: {rounds: 2}\nseeds: [0]\n")
    for experiment in (
        [TOY, other],
        [TOY, {"federation": {"rounds": 5}}, str(other)],
        [toy, {"federation": {"rounds": 2}, "seeds": [0]}],
    ):
        made = lpft.run(experiment, out=out)
        assert outcome(made.run) == outcome(results.run)


def test_keywords_may_be_paths_ranges_and_numbers_of_numpy(results: Results, out: Path) -> None:
    config = yaml.safe_load(Path(TOY).read_text())
    for experiment in (TOY, Path(TOY), config):
        made = lpft.run(experiment, out=out, seeds=range(1), federation={"rounds": np.int64(2)})
        assert outcome(made.run) == outcome(results.run)


def test_methods_may_be_files(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("class_path: lpft.methods.lpft.LPFT\ninit_args: {lp_epochs: 3}\n")
    for methods in ({"own": file}, {"own": str(file), "lpft": file}):
        study = open_study("plan", arguments(TOY, {"out": out, "methods": methods}))
        assert {vars(study.experiments[0].all_methods[name])["lp_epochs"] for name in methods} == {3}
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        open_study("plan", ["-c", TOY, "--methods.own", str(tmp_path / "none.yaml")])


def test_threads_of_a_process_take_turns() -> None:
    begun = threading.Event()

    def begin() -> None:
        with training_session():
            begun.set()

    thread = threading.Thread(target=begin)
    with training_session():
        thread.start()
        assert not begun.wait(0.2)
    assert begun.wait(60)
    thread.join()


def test_values_that_yaml_cannot_represent_are_refused(out: Path) -> None:
    for experiment in (TOY, yaml.safe_load(Path(TOY).read_text())):
        with pytest.raises(ConfigError, match=r"`methods\.ft` is of type FT"):
            lpft.run(experiment, out=out, methods={"ft": FT()})
    assert not out.exists()


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        lpft.run(TOY, out=tmp_path / "\udcfc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["overwrite", "fallback"])
def test_flags_are_true_or_false(results: Results, flag: str) -> None:
    experiment = yaml.safe_load(Path(TOY).read_text())
    for config in (TOY, experiment):
        with pytest.raises(ConfigError, match=flag):
            lpft.run(config, out=results.run.root, seeds=[0], federation={"rounds": 1}, **{flag: "maybe"})


def test_tuning_nothing_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError, match="no section `tune`"):
        lpft.tune(TOY, out=out)


def test_stages_equal_run(results: Results, out: Path) -> None:
    for stage in (lpft.federate, lpft.personalize):
        stage(TOY, out=str(out), seeds=[0], federation={"rounds": 2})
    lpft.report(out)
    assert outcome(lpft.load(out).run) == outcome(results.run)


def test_frames_equal_the_files(results: Results) -> None:
    rows = table(results.run.root / "results.csv")
    assert list(results.results["method"]) == [row["method"] for row in rows] == ["none", "ft", "lpft"]
    assert results.results["local"].tolist() == [float(row["local"]) for row in rows]
    matrix = results.matrix("ft", seed=0)
    assert list(matrix.index) == list(matrix.columns) == [f"c{i}" for i in range(5)]
    ft = results.clients[results.clients["method"] == "ft"].set_index("client")
    assert [matrix.loc[name, name] for name in matrix.index] == ft["local"].tolist()
    assert set(results.curves["epoch"]) == set(range(5))
    with pytest.raises(KeyError):
        results.matrix("nope", seed=0)


def test_a_model_is_the_network_of_its_file(results: Results) -> None:
    net = results.model("lpft", client="c1", seed=0)
    saved = load_file(results.run.model(0, "lpft", "c1"))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in net.state_dict().items())
    assert not net.training
    assert results.model("global", client="", seed=0).head.out_features == 3
    for missing in (("lpft", "nobody", 0), ("nope", "c1", 0), ("lpft", "c1", 9), ("global", "", 9)):
        with pytest.raises(FileNotFoundError, match=f"seed_{missing[2]}/{missing[0]}.* does not exist"):
            results.model(*missing)


def test_names_and_seeds_of_any_type_are_looked_up(results: Results) -> None:
    assert results.matrix("lpft", seed="0").equals(results.matrix("lpft", seed=0))
    with pytest.raises(KeyError, match="results of none, ft, lpft, with seeds 0"):
        results.matrix(3)
    with pytest.raises(FileNotFoundError, match="methods with models are ft, lpft"):
        results.model(3, 4)
    with pytest.raises(FileNotFoundError, match="clients with models are c0, c1"):
        results.export("lpft", 4, "to")


@pytest.mark.parametrize("value", [3, None, b"runs"])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"is not a folder.*HINT"):
        lpft.load(value)
    with pytest.raises(TypeError, match=r"is not a folder.*HINT"):
        lpft.report(value)
    for config in (value, [TOY, value]):
        with pytest.raises(ConfigError, match=r"is not a configuration.*HINT"):
            lpft.run(config)


def test_the_working_directory_may_change(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results.run.root.parent)
    loaded = lpft.load(results.run.root.name)
    monkeypatch.chdir(tmp_path)
    assert loaded.results.equals(results.results)
    assert loaded.model("ft", client="c0").state_dict().keys() == results.model("ft", client="c0").state_dict().keys()


def test_a_figure_is_matplotlibs_and_an_unknown_one_is_refused(results: Results) -> None:
    assert results.figure("tradeoff").axes
    with pytest.raises(ValueError, match="tradeoff"):
        results.figure("nope")


def test_errors_are_exceptions_with_the_commands_text(results: Results, out: Path) -> None:
    with pytest.raises(ValueError, match=r"roundz.*\n.*did you mean `federation.rounds`"):
        lpft.run(TOY, out=str(out), federation={"roundz": 3})
    with pytest.raises(ValueError, match=r"`federation.rounds` \(2 there, 3 here\)"):
        lpft.run(TOY, out=str(results.run.root), seeds=[0])
    with pytest.raises(ValueError, match="global model"):
        lpft.personalize(TOY, out=str(out))
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        lpft.load(out / "nowhere")
    with pytest.raises(RuntimeError, match="this method is broken"):
        lpft.run(
            TOY, out=str(out), seeds=[0], methods={"broken": {"class_path": "tests.test_pipeline_failures.Broken"}}
        )
    rows = lpft.load(out).results
    assert set(rows.loc[rows["complete"], "method"]) == {"none", "ft", "lpft"}, "nothing else is lost"
    done = lpft.run(TOY, out=str(out), seeds=[0], personalization={"epochs": 5}, overwrite=True).results
    assert set(done.loc[done["complete"], "method"]) == {"none", "ft", "lpft"}


def test_the_process_is_left_as_it_was(results: Results) -> None:
    threads, path = torch.get_num_threads(), list(sys.path)
    torch.set_num_threads(2)
    lpft.run(TOY, out=str(results.run.root), seeds=[0], federation={"rounds": 2})
    assert torch.get_num_threads() == 2
    assert sys.path == path
    torch.set_num_threads(threads)


def test_importing_it_is_quick_and_light() -> None:
    began = time.perf_counter()
    code = "import sys, lpft; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"torch", "lightning", "pandas", "matplotlib", "numpy"} & set(done.stdout.split())
    assert time.perf_counter() - began < 60


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> tuple[NotebookNode, Path]:
    """The quickstart at the smallest size, and cells of a test below, after they ran in one kernel; their folder."""
    root = tmp_path_factory.mktemp("notebook")
    (root / "configs").symlink_to(ROOT / "configs")
    (root / "examples").mkdir()
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    full = '"../configs/digits.yaml"'
    assert sum(full in cell.source for cell in notebook.cells) == 2
    for cell in notebook.cells:
        cell.source = cell.source.replace(full, f'[{full}, "../configs/sizes/smoke.yaml"]')
    path = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})")
    notebook.cells = [
        path,
        *notebook.cells,
        nbformat.v4.new_code_cell("import torch\nx = torch.rand(900, 900)\nx @ x;"),
    ]
    for devices in (1, 2):
        settings = f"seeds=[0], federation={{'rounds': 2}}, trainer={{'devices': {devices}}}"
        run = f"r = lpft.run({TOY!r}, out='run{devices}', {settings}); print(r.results.shape)"
        notebook.cells.append(nbformat.v4.new_code_cell(run))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root / "examples")}}).execute()
    return notebook, root / "examples"


def test_a_notebook_gives_the_same_with_one_and_two_processes(
    results: Results, notebook: tuple[NotebookNode, Path]
) -> None:
    """After torch has computed with two threads, as a notebook's other cells may have."""
    ran, folder = notebook
    for devices, cell in zip((1, 2), ran.cells[-2:], strict=True):
        printed = [output["text"] for output in cell["outputs"] if output.get("name") == "stdout"]
        assert "".join(printed) == f"{results.results.shape}\n"
        frame = pd.read_csv(folder / f"run{devices}" / "results.csv").drop(columns="seconds")
        pd.testing.assert_frame_equal(frame, pd.read_csv(results.run.root / "results.csv").drop(columns="seconds"))


def test_the_quickstart_runs(notebook: tuple[NotebookNode, Path]) -> None:
    ran, folder = notebook
    assert (folder / "runs" / "quickstart" / "report.html").exists()
    kinds = {kind for cell in ran.cells for o in cell.get("outputs", []) for kind in o.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
