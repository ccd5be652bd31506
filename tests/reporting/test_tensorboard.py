"""Event files, read back with TensorBoard's own reader."""

import io
from pathlib import Path
from typing import Any

import pytest
from fabricate import make_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams

from lpft.reporting.report import write_tables
from lpft.reporting.results import read_config
from lpft.reporting.tables import curve_rows, figures
from lpft.reporting.tensorboard import FINAL, TAGS, replace_events, write_events
from lpft.storage.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("run"), seeds=(0, 1))
    write(run)
    return run


def write(run: Run) -> None:
    write_events(run, write_tables(run), read_config(run))


def event_files(run: Run) -> list[Path]:
    return sorted(run.root.rglob("events.out.tfevents.*"))


def load(folder: Path) -> Any:
    accumulator = EventAccumulator(str(folder))
    return accumulator.Reload()


def test_one_file_per_method_and_global_model(run: Run) -> None:
    assert len(event_files(run)) == len({path.parent for path in event_files(run)}) == 2 * (5 + 1)


@pytest.mark.parametrize("method", ["ft_short", "lpft"])
def test_scalars_are_the_curves(run: Run, method: str) -> None:
    result = next(r for r in write_tables(run) if r.seed == 1 and r.method == method)
    events = load(run.method_file(1, method, ""))
    assert set(events.Tags()["scalars"]) == {*TAGS, *(f"final/{name}" for name in FINAL)}
    for tag, column in TAGS.items():
        expected = [(row["epoch"], row[column]) for row in curve_rows(result) if row[column] is not None]
        points = events.Scalars(tag)
        assert [point.step for point in points] == [epoch for epoch, _ in expected]
        assert [point.value for point in points] == pytest.approx([value for _, value in expected], rel=1e-6)
    for name in FINAL:
        assert events.Scalars(f"final/{name}")[0].value == pytest.approx(figures(result)[name], rel=1e-6)


def test_matrix_is_an_image(run: Run) -> None:
    (image,) = load(run.method_file(0, "lpft", "")).Images("accuracy matrix")
    picture = Image.open(io.BytesIO(image.encoded_image_string))
    assert picture.size == (image.width, image.height)
    assert picture.size[0] > 300


def test_layout_overlays_local_and_global(run: Run) -> None:
    events = load(run.method_file(0, "ft", ""))
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["local and global"] == ["^local/accuracy$", "^global/accuracy$"]


def test_hyperparameters_are_the_methods_settings(run: Run) -> None:
    content = load(run.method_file(1, "lpft", "")).summary_metadata
    start = hparams.parse_session_start_info_plugin_data(
        content[hparams.SESSION_START_INFO_TAG].plugin_data.content
    ).hparams
    assert start["method"].string_value == "lpft"
    assert (start["seed"].number_value, start["lp_epochs"].number_value) == (1, 5)
    experiment = hparams.parse_experiment_plugin_data(content[hparams.EXPERIMENT_TAG].plugin_data.content)
    assert {info.name for info in experiment.hparam_infos} == {
        "method",
        "class",
        "seed",
        "epochs",
        "lp_epochs",
        "lp_lr",
    }


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
    (old,) = [path for path in first if path.parent.name == "ft"]
    (new,) = [path for path in event_files(run) if path.parent.name == "ft"]
    assert new.name > old.name
    assert new.name.startswith("events.out.tfevents.0000000002.")


def test_a_copy_left_by_a_crash_goes(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.0000000007.0123456789abcdef").write_bytes(b"")
    replace_events(tmp_path, [], time=1.0)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.0000000008.")
