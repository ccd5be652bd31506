import csv
import io

import yaml
from fabricate import make_point, make_run

from lpft.reporting.analysis import Analysis, Sweep, analyze, points_in_order, sweep_frame
from lpft.reporting.sweep_figures import point_drawings
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run


def test_sweep_csv_has_one_wide_row_per_point_and_method() -> None:
    """Local of FT is 80 and 84 over two seeds: 82 ± 2."""
    points = [
        make_point({"none": [(50.0, 50.0)], "ft": [(80.0, 60.0), (84.0, 60.0)]}, values={"data.shift": x})
        for x in (0.5, 1.0)
    ]
    rows = list(csv.DictReader(io.StringIO(sweep_frame(points).to_csv(index=False))))
    assert [(row["data.shift"], row["method"], row["n"]) for row in rows] == [
        ("0.5", "none", "1"),
        ("0.5", "ft", "2"),
        ("1.0", "none", "1"),
        ("1.0", "ft", "2"),
    ]
    assert (rows[1]["local"], rows[1]["local_std"], rows[1]["global_all"]) == ("82.0", "2.0", "71.0")
    assert list(rows[0])[:5] == ["data.shift", "method", "n", "local", "local_std"]


def test_swept_settings_of_methods_are_columns_too() -> None:
    variants = {"ft+lr=0.1": {"method": "ft", "values": {"methods.ft.lr": 0.1, "methods.ft.kind": {"class_path": "X"}}}}
    frame = sweep_frame([make_point({"lp": [(1, 1)], "ft+lr=0.1": [(1, 1)]}, variants=variants)])
    rows = list(csv.DictReader(io.StringIO(frame.to_csv(index=False))))
    assert [row["methods.ft.lr"] for row in rows] == ["", "0.1"]
    assert rows[1]["methods.ft.kind"] == '{"class_path": "X"}'


def test_classes_with_equal_names_are_distinguished_by_settings() -> None:
    classes = [{"class_path": "a.Dirichlet", "init_args": {"alpha": x, "min_samples": 9}} for x in (0.1, 1.0)]
    points = [make_point({"ft": [(1.0, 1.0)]}, values={"data.partition": value}) for value in classes]
    assert [point.experiment.label for point in points] == [
        "partition=Dirichlet(alpha=0.1, min_samples=9)",
        "partition=Dirichlet(alpha=1, min_samples=9)",
    ]
    assert "Dirichlet(alpha=0.1" in str(point_drawings(points)["sweep"].svg)


def test_combinations_that_are_not_drawn_are_counted() -> None:
    def points(levels: int) -> list[Analysis]:
        grid = [(a, b, c) for a in range(9) for b in range(levels) for c in range(3)]
        return [make_point({"ft": [(1.0, 1.0)]}, values={"d.a": a, "d.b": b, "d.c": c}) for a, b, c in grid]

    caption = point_drawings(points(3))["sweep"].caption
    assert caption.endswith("Of 9 combinations of b and c the first 6 are drawn; sweep.csv has all.")
    assert "combinations" not in point_drawings(points(2))["sweep"].caption


def test_points_come_in_the_order_of_their_values(tmp_path) -> None:
    sweep = {"federation.rounds": [100, 9], "data.shift": [0.5, None]}
    write_atomically(tmp_path / "config.yaml", yaml.safe_dump({"sweep": sweep}))
    for values in ((9, None), (100, None), (9, 0.5)):
        point = make_run(tmp_path / "points" / f"{values}", seeds=(0,), methods=("ft",), clients=("a", "b"))
        config = yaml.safe_load(point.config.read_text())
        config["provenance"]["point"] = dict(zip(sweep, values, strict=True))
        write_atomically(point.config, yaml.safe_dump(config, sort_keys=False))
    points = [analyze(run) for run in points_in_order(Run(tmp_path))]
    assert [point.experiment.label for point in points] == [
        "rounds=100, shift=null",
        "rounds=9, shift=0.5",
        "rounds=9, shift=null",
    ]
    assert Sweep(Run(tmp_path), {"sweep": sweep}, points, []).num_planned == 4
