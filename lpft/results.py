"""The results of a run as data frames, figures and networks, returned by `lpft.run` and `lpft.load`."""

from __future__ import annotations

from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lpft.storage.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from lpft.models.base import BodyHeadNet
    from lpft.reporting.analysis import Analysis


class Results:
    """The results of a run, read from its folder.

    Accuracies are in percent. Data frames are cached; load the folder again to see new results.

    Args:
        folder: folder of the run; if it is relative, the working directory may change afterwards.

    Raises:
        FileNotFoundError: if the folder is not the folder of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.run = Run(Run(folder).root.absolute())  # notebooks change the working directory
        if not self.run.config.exists():
            raise FileNotFoundError(
                f"`{folder}` is not the folder of a run: it has no config.yaml. HINT: `lpft.run` returns its results."
            )

    @cached_property
    def analysis(self) -> Analysis:
        """All statistics of the run: frames, matrices, diagnostics, recommendations.

        Raises:
            ValueError: if the run is a sweep; its `points` have results.
        """
        from lpft.reporting.analysis import analyze

        if points := self.points:
            raise ValueError(
                f"`{self.run.root}` is a sweep of {len(points)} runs, such as {points[0]!r}."
                " HINT: use `.points`, the list of their results."
            )
        return analyze(self.run)

    @property
    def results(self) -> DataFrame:
        """One row per seed and method; the columns of results.csv."""
        return self.analysis.frames.results

    @property
    def intervals(self) -> DataFrame:
        """One row per method and metric: its mean with a 95% interval; the columns of intervals.csv."""
        return self.analysis.certainty.intervals

    @property
    def differences(self) -> DataFrame:
        """One row per method, reference and metric: the paired difference with a 95% interval, p-values and verdict."""
        return self.analysis.certainty.differences

    @property
    def lines(self) -> DataFrame:
        """One row per seed, method, client and model between the global (a = 0) and the personalized one (a = 1)."""
        return self.analysis.tradeoff.lines

    @property
    def matched(self) -> DataFrame:
        """One row per method and reference: the difference in Global at equal Local; the columns of matched.csv."""
        return self.analysis.tradeoff.matched

    @property
    def clients(self) -> DataFrame:
        """One row per seed, method and client; the columns of clients.csv and more."""
        return self.analysis.frames.clients

    @property
    def curves(self) -> DataFrame:
        """One row per seed, method, client and epoch: learning rates, training loss and, if evaluated, accuracies."""
        return self.analysis.frames.curves

    @property
    def points(self) -> list[Results]:
        """The results of each run of a sweep; empty for a single run."""
        return [Results(point.root) for point in self.run.points()]

    def matrix(self, method: str, seed: int = 0) -> DataFrame:
        """Return the accuracy matrix ``(C, C)``: row = whose model, column = whose test set.

        Raises:
            KeyError: if the run has no results of this method and seed.
        """
        return self.analysis.matrix(method, seed)

    def model(self, method: str, client: str, seed: int = 0) -> BodyHeadNet:
        """Return a client's personalized network, in evaluation mode, on the CPU.

        Args:
            method: name of the method; ``global`` for the global model, which is the same for all clients.
            client: name of the client.
            seed: the seed.

        Raises:
            FileNotFoundError: if the model does not exist; the message lists existing ones.
            ValueError: if the model is damaged.
        """
        from lpft.config.schema import load_network

        return load_network(self.run, self.run.saved_model(seed, method, client))

    def export(self, method: str, client: str, to: str | Path, seed: int = 0) -> list[Path]:
        """Write a client's model to a folder, for `lpft predict` and other programs; see `lpft.export.export`."""
        from lpft.export import export

        return export(self.run, str(method), str(client), Path(to), seed)

    def figure(self, name: str) -> Figure:
        """Return a figure of the report, such as ``tradeoff``, as a matplotlib figure.

        Raises:
            ValueError: if no figure has this name; the message lists all names.
        """
        from lpft.reporting.figures import make_figure

        figure = make_figure(self.analysis, name)
        figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]  # notebooks show it without pyplot
        return figure

    def __repr__(self) -> str:
        return f"Results({str(self.run.root)!r})"


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
