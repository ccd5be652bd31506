"""Intervals and differences of a run: recomputed from accuracy.csv, and in every kind of hole."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from fabricate import CLIENTS, METHODS, make_run
from scipy import stats

import lpft
from lpft.reporting.analysis import Analysis, analyze
from lpft.reporting.intervals import DIFFERENCE_COLUMNS, GLOBAL_MODEL, INTERVAL_COLUMNS
from lpft.reporting.report import write_tables
from lpft.reporting.sentences import interval_note, result
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def matrix(run: Run, method: str, seed: int) -> np.ndarray:
    with run.method_file(seed, method, "accuracy.csv").open() as file:
        return np.array([[float(entry or "nan") for entry in row[1:]] for row in list(csv.reader(file))[1:]])


OF_MATRIX: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "local": np.diagonal,
    "global_all": lambda a: a.mean(axis=1),
    "global_others": lambda a: (a.sum(axis=1) - np.diagonal(a)) / (len(a) - 1),
    "worst": lambda a: np.where(np.eye(len(a)) > 0, np.inf, a).min(axis=1),
    "cstd": lambda a: a.std(axis=1),
}


def by_hand(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95% interval, for seeds and clients that all have a positive component."""
    num_seeds, num_clients = values.shape
    mean, rows, columns = values.mean(), values.mean(axis=1), values.mean(axis=0)
    seeds = num_clients * ((rows - mean) ** 2).sum() / (num_seeds - 1)
    clients = num_seeds * ((columns - mean) ** 2).sum() / (num_clients - 1)
    dof = (num_seeds - 1) * (num_clients - 1)
    error = ((values - rows[:, None] - columns + mean) ** 2).sum() / dof
    if seeds > error and clients > error:
        numerator = seeds + clients - error
        df = numerator**2 / (seeds**2 / (num_seeds - 1) + clients**2 / (num_clients - 1) + error**2 / dof)
    else:
        options = [(seeds, num_seeds - 1), (clients, num_clients - 1), (error, dof)]
        numerator, df = max(options[:2]) if max(options[:2])[0] > error else options[2]
    df = max(df, min(num_seeds, num_clients) - 1)
    margin = stats.t.ppf(0.975, df) * math.sqrt(numerator / values.size)
    return mean, mean - margin, mean + margin


def test_every_interval_follows_from_the_matrices(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_tables(run)
    rows = [row for row in read(tmp_path / "intervals.csv") if row["metric"] in OF_MATRIX]
    assert len(rows) == len(OF_MATRIX) * len(METHODS)
    for row in rows:
        values = np.stack([OF_MATRIX[row["metric"]](matrix(run, row["method"], seed)) for seed in (0, 1, 2)])
        found = [float(row[name]) for name in ("mean", "low", "high")]
        assert found == pytest.approx(by_hand(values), rel=1e-6)
        assert (row["num_seeds"], row["num_clients"]) == ("3", "10")


def test_every_difference_follows_from_the_matrices(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_tables(run)
    rows = [row for row in read(tmp_path / "differences.csv") if row["metric"] in OF_MATRIX]
    assert {(row["method"], row["reference"]) for row in rows} == {
        (method, reference) for reference in ("none", "ft") for method in METHODS if method != reference
    }
    for row in rows:
        pairs = [(matrix(run, row["method"], seed), matrix(run, row["reference"], seed)) for seed in (0, 1, 2)]
        of_clients = OF_MATRIX[row["metric"]]
        values = np.stack([of_clients(mine) - of_clients(theirs) for mine, theirs in pairs])
        found = [float(row[name]) for name in ("mean", "low", "high")]
        assert found == pytest.approx(by_hand(values), rel=1e-6)
    of_one = [row for row in rows if (row["reference"], row["metric"]) == ("ft", "local") and row["method"] != "none"]
    ordered = sorted(of_one, key=lambda row: float(row["p"]))
    assert float(ordered[0]["p_holm"]) == pytest.approx(min(1, 3 * float(ordered[0]["p"])))


def test_files_have_the_documented_columns_and_are_in_the_results(tmp_path: Path) -> None:
    write_tables(make_run(tmp_path, seeds=(0, 1)))
    results = lpft.load(tmp_path)
    for name, columns, frame in (
        ("intervals.csv", INTERVAL_COLUMNS, results.intervals),
        ("differences.csv", DIFFERENCE_COLUMNS, results.differences),
    ):
        rows = read(tmp_path / name)
        assert tuple(rows[0]) == columns == tuple(frame.columns)
        assert [row["method"] for row in rows] == frame["method"].tolist()
        assert {"local", "global_all", "global_others", "worst", "average3", "distortion_own"} <= set(frame["metric"])


def test_distortion_is_better_if_lower_and_has_no_region_of_equivalence(tmp_path: Path) -> None:
    comparisons = write_tables(make_run(tmp_path)).certainty.comparisons
    assert comparisons["lpft", "ft", "distortion_own"].verdict == "better"
    assert comparisons["ft", "none", "distortion_own"].verdict == "worse"
    assert comparisons["ft_short", "ft", "distortion_own"].estimate.mean > -1, "within 1, which is no region here"
    assert comparisons["ft_short", "ft", "distortion_own"].verdict == "better"


def test_without_a_row_of_the_global_model_the_cells_tell(tmp_path: Path) -> None:
    whole = write_tables(make_run(tmp_path / "whole", seeds=(0, 1))).certainty
    certainty = write_tables(make_run(tmp_path / "part", seeds=(0, 1), methods=("ft", "lpft"))).certainty
    assert certainty.references == [GLOBAL_MODEL, "ft"]
    for metric in ("local", "global_all", "global_others", "worst_row", "average3"):
        found = certainty.comparisons["lpft", GLOBAL_MODEL, metric].estimate
        expected = whole.comparisons["lpft", "none", metric].estimate
        assert (found.mean, found.low) == pytest.approx((expected.mean, expected.low))
    assert ("lpft", GLOBAL_MODEL, "distortion_own") not in certainty.comparisons


def test_a_client_without_test_samples_is_left_out(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        row = [None if name == CLIENTS[3] else value for name, value in zip(cell.clients, cell.accuracy, strict=True)]
        gone = {"status": "no_test", "local_before": None} if cell.client == CLIENTS[3] else {}
        return replace(cell, accuracy=row, **gone)  # type: ignore[arg-type]

    analysis = write_tables(make_run(tmp_path, edit=edit))
    local = analysis.certainty.estimates["ft", "local"]
    assert local.num_clients == 9
    assert local.mean == pytest.approx(analysis.by_seed("ft", "local").mean())


def test_only_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        return None if (cell.method, cell.seed, cell.client) == ("lpft", 1, CLIENTS[0]) else cell

    analysis = write_tables(make_run(tmp_path, edit=edit))
    found = analysis.certainty.comparisons["lpft", "ft", "local"].estimate
    assert found.num_seeds == 2
    assert found.mean == pytest.approx(analysis.differences("lpft", "ft", "local").mean())


def test_the_region_is_a_setting_of_the_experiment(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert write_tables(run).certainty.equivalence == 1.0
    config = yaml.safe_load(run.config.read_text()) | {"evaluation": {"equivalence": 100.0}}
    run.config.write_text(yaml.safe_dump(config))
    certainty = write_tables(run).certainty
    assert certainty.comparisons["lpft", "none", "local"].verdict == "equivalent"
    assert "±100 points" in interval_note(certainty)


# The sentence


def verdicts_of(analysis: Analysis, method: str = "lpft", reference: str = "ft") -> tuple[str, str]:
    comparisons = analysis.certainty.comparisons
    return comparisons[method, reference, "global_all"].verdict, comparisons[method, reference, "local"].verdict


def test_the_sentence_names_the_pair_its_numbers_and_how_many(tmp_path: Path) -> None:
    analysis = write_tables(make_run(tmp_path))
    found = analysis.certainty.comparisons["lpft", "ft", "global_all"].estimate
    text = result(analysis.certainty)
    assert verdicts_of(analysis)[0] == "better"
    assert text.startswith("lpft keeps more of the other clients' accuracy than ft")
    assert f"Global {found.mean:+.1f} points, 95% interval {found.low:.1f} to {found.high:.1f}" in text
    assert "3 seeds x 10 clients" in text


def shifted(shift: float, noise: float) -> Callable[[ClientResult], ClientResult]:
    """Let lpft be ft with a constant shift, plus noise of both signs."""

    def edit(cell: ClientResult) -> ClientResult:
        sign = (-1) ** (cell.seed + CLIENTS.index(cell.client))
        extra = shift + noise * sign if cell.method == "lpft" else 0.0
        return replace(cell, accuracy=[50 + extra] * len(cell.accuracy))

    return edit


@pytest.mark.parametrize(
    ("shift", "noise", "word", "phrase"),
    [
        (3.0, 0.5, "better", "keeps more of"),
        (-3.0, 0.5, "worse", "keeps less of"),
        (0.1, 0.5, "equivalent", "keeps as much of"),
        (1.0, 9.0, "undecided", "undecided whether"),
    ],
)
def test_the_sentence_states_the_result(tmp_path: Path, shift: float, noise: float, word: str, phrase: str) -> None:
    analysis = write_tables(make_run(tmp_path, seeds=(0, 1, 2, 3), edit=shifted(shift, noise)))
    assert verdicts_of(analysis) == (word, word)
    assert phrase in result(analysis.certainty)


def test_one_seed_is_stated(tmp_path: Path) -> None:
    certainty = write_tables(make_run(tmp_path, seeds=(0,))).certainty
    assert "over clients only" in result(certainty)
    assert "over clients only" in interval_note(certainty)
    assert certainty.estimates["ft", "local"].clients_only


def test_without_a_pair_the_only_method_is_compared_with_the_global_model(tmp_path: Path) -> None:
    only = write_tables(make_run(tmp_path / "one", seeds=(0, 1), methods=("none", "ft"))).certainty
    assert "than the global model" in result(only) or "the global model" in result(only)
    many = write_tables(make_run(tmp_path / "many", seeds=(0, 1), methods=("none", "ft", "ft_short"))).certainty
    assert result(many) == ""
    none = write_tables(make_run(tmp_path / "none", seeds=(0, 1), methods=("none",))).certainty
    assert result(none) == ""


def test_ft_alone_is_compared_with_the_global_model(tmp_path: Path) -> None:
    alone, with_none = (
        analyze(make_run(tmp_path / str(len(methods)), seeds=(0,), methods=methods, clients=("a", "b"))).certainty
        for methods in (("ft",), ("none", "ft"))
    )
    assert (alone.main_reference, with_none.main_reference) == (alone.global_model, "ft")


def test_a_single_client_has_no_others(tmp_path: Path) -> None:
    analysis = analyze(make_run(tmp_path, seeds=(0, 1), methods=("none", "ft", "lpft"), clients=("a",)))
    sentence = result(analysis.certainty)
    assert "Local" in sentence
    assert "Global" not in sentence
    assert "other clients" not in sentence


def test_verdicts_about_a_swept_method_are_counted(tmp_path: Path) -> None:
    rows = {f"lpft+lp_epochs={number}": number for number in (1, 5, 9)}
    run = make_run(tmp_path, seeds=(0, 1, 2), methods=("none", "ft", *rows))
    config = yaml.safe_load(run.config.read_text())
    config["methods"] |= {name: {"class_path": "lpft.methods.lpft.LPFT", "init_args": {}} for name in rows}
    values = {name: {"method": "lpft", "values": {"methods.lpft.lp_epochs": n}} for name, n in rows.items()}
    config["provenance"]["variants"] = values
    run.config.write_text(yaml.safe_dump(config))
    certainty = write_tables(run).certainty
    words = [certainty.comparisons[name, "ft", "global_all"].verdict for name in rows]
    text = result(certainty)
    assert words.count("better") == 3, "the made-up rows lose less than ft"
    assert text.startswith("Of 3 settings of lpft, compared with ft on the test sets of all clients 3 are better,")


def test_methods_and_references_are_families_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """References and `rotated` change no verdict on a method; the two of them and `rotated` count as three."""
    others = {"home": "references.Local", "all_data": "references.Pooled", "turned": "rotated.Rotated"}
    for name, path in others.items():
        monkeypatch.setitem(METHODS, name, {"class_path": f"lpft.methods.{path}"})
    methods = ("none", "ft", "lp", "lpft")
    alone = write_tables(make_run(tmp_path / "alone", methods=methods)).certainty
    both = write_tables(make_run(tmp_path / "both", methods=(*others, *methods))).certainty
    assert {key: both.comparisons[key] for key in alone.comparisons if key[0] != "none"} == {
        key: found for key, found in alone.comparisons.items() if key[0] != "none"
    }
    assert both.methods == ["ft", "lp", "lpft"]
    of_others = [both.comparisons[name, "none", "local"] for name in others]
    smallest = min(of_others, key=lambda found: found.estimate.p)
    assert smallest.p_holm == pytest.approx(min(1, 3 * smallest.estimate.p))
    assert alone.comparisons["none", "ft", "local"].p_holm == alone.comparisons["none", "ft", "local"].estimate.p
