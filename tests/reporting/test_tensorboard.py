"""Event files, read back with TensorBoard's own reader."""

import io
import pickle
from pathlib import Path
from typing import Any

import fabricate
import numpy as np
import pytest
from fabricate import make_run
from PIL import Image
from tensorboard.backend.event_processing import io_wrapper
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.directory_watcher import DirectoryWatcher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.backend_context import Context

from lpft.evaluation.metrics import shown_metrics
from lpft.reporting.heatmap import color_scale, heatmap_png
from lpft.reporting.live import LiveLogs
from lpft.reporting.logs import TAGS, final_logs
from lpft.reporting.report import write_tables
from lpft.reporting.results import read_history
from lpft.reporting.tensorboard import EventFiles, replace_events
from lpft.storage.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("run"), seeds=(0, 1))
    write(run)
    return run


def write(run: Run) -> None:
    for log in final_logs(write_tables(run)):
        EventFiles().write(log)


def event_files(run: Run) -> list[Path]:
    return sorted(run.root.rglob("events.out.tfevents.*"))


def load(folder: Path) -> Any:
    accumulator = EventAccumulator(str(folder))
    return accumulator.Reload()


def test_one_file_per_method_and_global_model(run: Run) -> None:
    assert len(event_files(run)) == len({path.parent for path in event_files(run)}) == 2 * (5 + 1) + 5


@pytest.mark.parametrize("method", ["ft_short", "lpft"])
def test_scalars_are_the_curves(run: Run, method: str) -> None:
    analysis = write_tables(run)
    final = [metric.name for metric in shown_metrics()]
    events = load(run.method_file(1, method, ""))
    assert set(events.Tags()["scalars"]) == {*TAGS, *(f"final/{name}" for name in final)}
    curves = analysis.frames.mean_curves.query("seed == 1 and method == @method").set_index("epoch")
    for tag, column in TAGS.items():
        expected = curves[column].dropna()
        points = events.Scalars(tag)
        assert [point.step for point in points] == expected.index.tolist()
        assert [point.value for point in points] == pytest.approx(expected.tolist(), rel=1e-6)
    for name in final:
        expected = analysis.by_seed(method, name)[1]
        assert events.Scalars(f"final/{name}")[0].value == pytest.approx(expected, rel=1e-6)


def test_means_over_the_seeds_are_runs_of_their_own(run: Run) -> None:
    analysis = write_tables(run)
    mean = scalars(run.root / "mean/lpft")
    seeds = [scalars(run.method_file(seed, "lpft", "")) for seed in (0, 1)]
    for tag in TAGS:
        pairs = zip(*(of_seed[tag] for of_seed in seeds), strict=True)
        expected = [(step, (value + other) / 2) for (step, value), (_, other) in pairs]
        assert [step for step, _ in mean[tag]] == [step for step, _ in expected]
        assert [value for _, value in mean[tag]] == pytest.approx([value for _, value in expected], rel=1e-5)
    for metric in shown_metrics():
        found = analysis.certainty.estimates["lpft", metric.name]
        assert mean[f"final/{metric.name}"][0][1] == pytest.approx(found.mean, rel=1e-6)
        if metric.spread:
            assert mean[f"interval/{metric.name}"] == [(15, pytest.approx(found.margin, rel=1e-6))]
        else:
            assert f"interval/{metric.name}" not in mean
    assert run.seeds() == [0, 1]
    assert set(run.methods(0)) == {"none", "ft", "ft_short", "lp", "lpft"}


def test_matrix_is_an_image(run: Run) -> None:
    (image,) = load(run.method_file(0, "lpft", "")).Images("accuracy matrix")
    picture = Image.open(io.BytesIO(image.encoded_image_string))
    assert picture.size == (image.width, image.height)
    assert picture.size[0] > 300


@pytest.mark.parametrize("part", ["seed_0/ft", "mean/ft"])
def test_layout_overlays_local_and_global(run: Run, part: str) -> None:
    events = load(run.root / part)
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["local and global"] == ["^local/accuracy$", "^global/accuracy$"]
    assert charts["distortion"] == ["^distortion$"]


def hyperparameters(folder: Path) -> Any:
    content = load(folder).summary_metadata[hparams.SESSION_START_INFO_TAG].plugin_data.content
    return hparams.parse_session_start_info_plugin_data(content).hparams


def test_hyperparameters_are_the_methods_settings(run: Run) -> None:
    start = hyperparameters(run.method_file(1, "lpft", ""))
    assert start["method"].string_value == "lpft"
    assert (start["seed"].number_value, start["lp_epochs"].number_value) == (1, 5)
    mean = hyperparameters(run.root / "mean/lpft")
    assert (mean["method"].string_value, mean["seeds"].string_value) == ("lpft", "0, 1")
    assert (mean["lp_epochs"].number_value, "seed" in mean) == (5, False)


def test_no_line_leads_to_a_model_that_is_chosen_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs 0, 3, ..., 15 were evaluated; what the last one holds is the model of an earlier epoch."""
    monkeypatch.setitem(fabricate.METHODS, "ft_early", {"class_path": "lpft.methods.early.EarlyStoppedFT"})
    run = make_run(tmp_path, seeds=(0, 1), methods=("ft", "ft_early"))
    live = LiveLogs(run)
    live.stack(0, "ft_early")
    live.close()
    shown = scalars(run.method_file(0, "ft_early", ""))
    write(run)
    assert shown == scalars(run.method_file(0, "ft_early", ""))
    for part in ("seed_0", "mean"):
        early, ft = (scalars(run.root / part / method) for method in ("ft_early", "ft"))
        for tag in ("local/accuracy", "global/accuracy", "worst/accuracy", "distortion"):
            assert [step for step, _ in early[tag]] == [0, 3, 6, 9, 12]
            assert [step for step, _ in ft[tag]] == [0, 3, 6, 9, 12, 15]
        assert early["train/loss"][-1][0] == early["final/local"][0][0] == 15


def test_the_columns_of_hparams_are_those_of_all_runs_below_a_folder(run: Run, tmp_path: Path) -> None:
    """As TensorBoard's own backend finds them; the runs have different methods, hence different settings."""
    for name, methods in (("a", ("lpft", "none")), ("b", ("ft_short",))):
        write(make_run(tmp_path / name, seeds=(0,), methods=methods))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))
    content = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, content, [])
    assert {info.name for info in experiment.hparam_infos} == {
        "method",
        "class",
        "seed",
        "seeds",
        "epochs",
        "lp_epochs",
        "lp_lr",
    }
    found = {info.name.tag for info in experiment.metric_infos}
    assert found >= {f"final/{metric.name}" for metric in shown_metrics()}


def test_global_model_on_the_round_axis(run: Run) -> None:
    events = load(run.global_file(0, ""))
    tags = set(events.Tags()["scalars"])
    assert {"federated/loss", "federated/val_accuracy"} <= tags
    assert not tags & set(TAGS), "rounds are no epochs, and have no place in the methods' charts"
    assert [point.step for point in events.Scalars("federated/val_accuracy")] == list(range(1, 61))


def test_final_figures_stand_at_the_last_epoch_if_none_was_evaluated(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("ft",), eval_every=0)
    write(run)
    (point,) = load(run.method_file(0, "ft", "")).Scalars("local/accuracy")
    assert point.step == 15


def test_same_content_is_left_alone_and_other_content_replaces(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft"))
    write(run)
    first = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in event_files(run)}
    write(run)
    assert first == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in event_files(run)}
    make_run(tmp_path, seeds=(0,), methods=("none", "ft"), clients=("x", "y"))
    for path in run.method_file(0, "ft", "cells").glob("*_?.json"):
        path.unlink()
    write(run)
    (old,) = [path for path in first if path.parent == run.method_file(0, "ft", "")]
    (new,) = [path for path in event_files(run) if path.parent == run.method_file(0, "ft", "")]
    assert new.name > old.name
    assert new.name.startswith("events.out.tfevents.0000000002.")


def test_a_copy_left_by_a_crash_goes(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.0000000007.0123456789abcdef").write_bytes(b"")
    replace_events(tmp_path, [], walltime=1.0)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.0000000008.")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = load(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_live_events_end_as_the_final_ones(tmp_path: Path) -> None:
    """Two rounds, then all; a method with one client, then all of them, after a report has removed the first file."""
    run = make_run(tmp_path, seeds=(0,), methods=("ft", "lpft"))
    history = read_history(run.global_file(0, "history.csv"))
    others = {path: path.read_bytes() for path in run.method_file(0, "lpft", "cells").glob("*.json")}
    for path in sorted(others)[1:]:
        path.unlink()
    live = pickle.loads(pickle.dumps(LiveLogs(run)))
    live.round(0, history[:2])
    assert [step for step, _ in scalars(run.global_file(0, ""))["federated/loss"]] == [1, 2]
    live.stack(0, "lpft")
    first = scalars(run.method_file(0, "lpft", ""))
    assert "final/local" not in first
    assert [step for step, _ in first["local/accuracy"]] == [0, 3, 6, 9, 12, 15]
    live.round(0, history)
    for path, content in others.items():
        path.write_bytes(content)
    live.stack(0, "lpft")  # too soon after the first
    assert scalars(run.method_file(0, "lpft", "")) == first
    for path in run.method_file(0, "lpft", "").glob("events.*"):
        path.unlink()
    live.close()
    shown = {part: scalars(run.method_file(0, part, "")) for part in ("global", "lpft")}
    live_files = [path.name for path in event_files(run)]
    write(run)
    assert shown == {part: scalars(run.method_file(0, part, "")) for part in shown}
    assert not set(live_files) & {path.name for path in event_files(run)}
    assert min(path.name for path in event_files(run) if path.parent == run.method_file(0, "lpft", "")) > max(
        live_files
    )


def test_an_open_reader_sees_new_rounds(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("ft",))
    history = read_history(run.global_file(0, "history.csv"))
    live = LiveLogs(run)
    live.round(0, history[:3])
    reader = DirectoryWatcher(str(run.global_file(0, "")), EventFileLoader, io_wrapper.IsTensorFlowEventsFile)
    assert last_step(reader) == 3
    live.round(0, history[:5])
    assert last_step(reader) == 5
    LiveLogs(run).round(0, history)  # another process, as after a resume
    assert last_step(reader) == 60
    live.close()


def last_step(reader: DirectoryWatcher) -> int:
    return max(event.step for event in reader.Load())


def test_matrices_of_a_run_share_one_colour_scale() -> None:
    low, high = np.array([[50.0, 60.0], [55.0, 60.0]]), np.array([[90.0, 80.0], [60.0, 100.0]])
    scale = color_scale([low, high])
    first, second = (Image.open(io.BytesIO(heatmap_png(m, ("a", "b"), scale)[0])).convert("RGB") for m in (low, high))
    side = first.size[0] - 6 - 2 * 34
    above, below = (side + 34 + 3, side + 3), (side + 3, side + 34 + 3)
    assert first.getpixel(above) == second.getpixel(below), "60 percent has one colour"
    assert first.getpixel(above) != second.getpixel(above)
