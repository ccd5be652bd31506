from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from fabricate import make_run
from matplotlib.figure import Figure

from lpft.reporting.analysis import Analysis, analyze
from lpft.reporting.drawing import FIGURES, Drawing, write_figures
from lpft.reporting.figures import drawings, make_figure
from lpft.storage.client_result import ClientResult


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze(make_run(tmp_path_factory.mktemp("run"), seeds=(0, 1), clients=("a", "b", "c")))


def test_every_figure_is_drawn_the_same_each_time(analysis: Analysis) -> None:
    first, second = (
        {name: drawing.svg for name, drawing in drawings(of_run).items()}
        for of_run in (analysis, analyze(analysis.run))
    )
    assert (
        list(first) == list(FIGURES) == ["tradeoff", "ladder", "curves", "clients", "distortion", "depth", "matrices"]
    )
    assert second == first
    for name, svg in first.items():
        if name != "ladder":  # it has too few rungs
            ElementTree.fromstring(str(svg))


def test_a_figure_can_be_had_by_name(analysis: Analysis) -> None:
    figure = make_figure(analysis, "tradeoff")
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {*analysis.experiment.methods, "global model"}
    with pytest.raises(ValueError, match=r"`nothing`.*tradeoff, ladder, curves"):
        make_figure(analysis, "nothing")


def test_a_figure_without_content_is_refused(tmp_path: Path) -> None:
    analysis = analyze(make_run(tmp_path, seeds=(0,), clients=("a", "b"), eval_every=0))
    with pytest.raises(ValueError, match=r"`curves`.*eval_every"):
        make_figure(analysis, "curves")
    assert drawings(analysis)["curves"].svg is None


def test_points_of_the_tradeoff_are_the_means(analysis: Analysis) -> None:
    axes = make_figure(analysis, "tradeoff").axes[0]
    means = analysis.frames.results.groupby("method")[["global_all", "local"]].mean()
    drawn = {line.get_label(): line.get_xydata()[0] for line in axes.lines if line.get_label() in means.index}
    assert {name: tuple(place) for name, place in drawn.items()} == {
        name: pytest.approx(tuple(means.loc[name])) for name in analysis.experiment.methods
    }


def test_the_tradeoff_marks_the_global_model_if_methods_have_different_seeds(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        return None if cell.method == "ft" and cell.seed else replace(cell, local_before=70.0 + 10 * cell.seed)

    analysis = analyze(make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"), clients=("a", "b"), edit=edit))
    *_, across, up, _ = make_figure(analysis, "tradeoff").axes[0].lines
    assert (across.get_ydata()[0], up.get_xdata()[0]) == (75.0, 75.0)


def test_references_without_methods_are_inside_the_tradeoff(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("local", "pooled"), clients=("a", "b"))
    config = yaml.safe_load(run.config.read_text())
    config["methods"] = {name: {"class_path": f"lpft.methods.references.{name.title()}"} for name in config["methods"]}
    run.config.write_text(yaml.safe_dump(config))
    axes = make_figure(analyze(run), "tradeoff").axes[0]
    ends = {str(line.get_label()): line.get_xydata()[0] for line in axes.lines if line.get_label() in config["methods"]}
    assert ends.keys() == {"local", "pooled"}
    for x, y in ends.values():
        assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_only_drawings_with_content_become_svg(analysis: Analysis) -> None:
    empty = Drawing("empty", "", "", lambda: None)
    paths = write_figures(analysis.run, {"empty": empty, "depth": drawings(analysis)["depth"]})
    assert [path.name for path in paths] == ["depth.svg"]
    assert list((analysis.run.root / "figures").iterdir()) == paths


@pytest.mark.parametrize(("name", "last"), [("EarlyStoppedFT", 12), ("FT", 15)])
def test_no_line_leads_to_a_model_that_was_chosen_afterwards(tmp_path: Path, name: str, last: int) -> None:
    run = make_run(tmp_path, seeds=(0, 1), methods=("ft",), clients=("a", "b"))
    run.config.write_text(run.config.read_text().replace("lpft.methods.ft.FT", f"lpft.methods.any.{name}"))
    (axes,) = make_figure(analyze(run), "curves").axes
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert [max(line.get_xdata()) for line in curves] == [last, last]
    kept = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "D"]
    ends = analyze(run).frames.mean_curves.query("epoch == 15")[["local", "global_all"]].mean()
    assert [tuple(place) for place in kept] == [(15, pytest.approx(ends[m])) for m in ends.index if last == 12]


def test_a_figure_of_your_own_is_described_by_its_docstring(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def local_by_method(analysis: Analysis) -> Figure:
        """Local of every method.

        More that is not shown.
        """
        drawn = Figure()
        drawn.subplots().bar(analysis.experiment.methods, analysis.frames.results.groupby("method")["local"].mean())
        return drawn

    monkeypatch.setitem(FIGURES, "local_by_method", local_by_method)
    drawing = drawings(analysis)["local_by_method"]
    assert (drawing.title, drawing.caption) == ("Local by method", "Local of every method.")
    assert len(make_figure(analysis, "local_by_method").axes[0].patches) == len(analysis.experiment.methods)
