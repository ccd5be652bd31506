"""Files of features as other programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lpft.data.sources import FeatureArrays
from lpft.data.sources.feature_files import numbers_of, read_feature_file
from lpft.data.sources.names import check_spellings


def test_labels_in_the_notation_of_savetxt_are_the_same_classes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,0\n2,1\n3,-0.5\n")
    rows = np.array([[1.0, 0], [2, 1], [3, -0.5]])
    np.savetxt(tmp_path / "b.csv", rows, delimiter=",", header="x,label", comments="")
    source = FeatureArrays(".", str(tmp_path))
    assert source.class_names == ("-0.5", "0", "1")
    assert source.table()["label"].tolist() == [1, 2, 0, 1, 2, 0]


def test_labels_of_two_dimensions(tmp_path: Path) -> None:
    x, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "column.npz", x=x, label=y[:, None])
    source = FeatureArrays("column.npz", str(tmp_path))
    assert source.table()["label"].tolist() == [0, 1, 0, 1]
    assert len(source.feature_names) == 2
    np.savez(tmp_path / "one_hot.npz", x=x, label=np.eye(2)[y])
    with pytest.raises(ValueError, match=r"label has the shape \(4, 2\)"):
        FeatureArrays("one_hot.npz", str(tmp_path)).table()


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".parquet"])
def test_booleans_with_gaps_are_numbers(ending: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"smokes": [True, None, False], "label": ["a", "b", "a"]})
    path = tmp_path / f"x{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")
    file = read_feature_file(path)
    np.testing.assert_array_equal(numbers_of([("smokes", file.column("smokes"))], path), [[1], [np.nan], [0]])


@pytest.mark.parametrize("missing", [0, 2])
def test_a_missing_list_is_named(missing: int, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows: list[list[float] | None] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    rows[missing] = None
    pd.DataFrame({"embedding": rows, "label": [0, 1, 0]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=f"row {missing} .*'embedding'"):
        read_feature_file(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["a\nb", "a,b", 'a "b"'])
def test_names_in_quotes(name: str, tmp_path: Path) -> None:
    quoted = name.replace('"', '""')
    (tmp_path / "x.csv").write_text(f'\n"{quoted}",c\n1,2\n')
    assert read_feature_file(tmp_path / "x.csv").columns.to_dict("list") == {name: [1], "c": [2]}


@pytest.mark.parametrize("text", ["\n\n", '"a,b\n1,2\n', "a,b\n\n", 'a,"b' + "1,2\n" * 50_000])
def test_tables_without_rows_or_with_an_open_quote_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=r"x\.csv"):
        read_feature_file(tmp_path / "x.csv")


@pytest.mark.parametrize("labels", [("0", "0.0"), ("0.5", "0.50"), ("10", "1e1")])
def test_classes_that_are_the_same_number(labels: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="are the same number"):
        check_spellings({name: repr(name) for name in labels})


def test_large_numbers_and_words_are_different_classes() -> None:
    names = ["12345678901234567890", "12345678901234567891", "nan", "inf", "infinity", "1_0", "10", "010"]
    check_spellings({name: repr(name) for name in names})
