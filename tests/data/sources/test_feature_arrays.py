"""Feature arrays from files of every kind: the same rows, or a clear refusal."""

from __future__ import annotations

import gzip
import importlib.util
import logging
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lpft.data.datamodule import FederatedDataModule
from lpft.data.partition import ByColumn, Dirichlet, Iid, Pathological
from lpft.data.sources import FeatureArrays, SklearnTable
from lpft.data.sources.base import Source
from lpft.data.transforms import FlipCrop
from tests.data.made import assert_no_leaks, sizes

SITES = ("north", "south", "west")
NAMES = ["age", "dose", "size"]


def site(seed: int, num: int = 40) -> pd.DataFrame:
    """Made-up rows: three features, two classes, a patient of two rows each, a sex."""
    rng = np.random.default_rng(seed)
    label = np.arange(num) % 2
    table = pd.DataFrame(rng.normal(size=(num, 3)) + label[:, None], columns=NAMES)
    return table.assign(
        label=np.array(["no", "yes"])[label], patient=np.arange(num) // 2, sex=["f", "m", "m", "f"] * (num // 4)
    )


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the form that the ending says."""
    if path.name.endswith(".npz"):
        columns = {name: table[name].to_numpy(str) for name in ("label", "patient", "sex") if name in table}
        rest = table.drop(columns=list(columns))
        np.savez(path, x=rest.to_numpy(), feature_names=np.array(rest.columns, str), **columns)  # type: ignore[arg-type]
    elif path.name.endswith(".parquet"):
        table.to_parquet(path)
    elif path.name.endswith(".tsv"):
        table.to_csv(path, index=False, sep="\t")
    else:
        table.to_csv(path)  # with the column without a name


def source(root: Path, path: str = "sites", **settings: Any) -> FeatureArrays:
    return FeatureArrays(path, str(root), **{"ignore": ["patient"], "attributes": ["sex"], **settings})


def opened(made: Source, cache: Path, **settings: Any) -> FederatedDataModule:
    data = FederatedDataModule(made, cache_dir=str(cache / "cache"), **settings)
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """A folder with the file of each site; those may be changed."""
    (tmp_path / "sites").mkdir()
    for seed, name in enumerate(SITES):
        save(site(seed), tmp_path / "sites" / f"{name}.csv")
    return tmp_path


PARQUET = pytest.param(
    ".parquet", marks=pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
)


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv", ".npz", PARQUET])
def test_every_kind_of_file_gives_the_same_rows(ending: str, sites: Path) -> None:
    expected = opened(source(sites), sites)
    (sites / "others").mkdir()
    for seed, name in enumerate(SITES):
        save(site(seed), sites / "others" / f"{name}{ending}")
    data = opened(source(sites, "others"), sites)
    assert sizes(data) == sizes(expected) == dict.fromkeys(SITES, (27, 3, 10))
    assert data.arrays.content_hash == expected.arrays.content_hash
    assert list(data.source.feature_names) == NAMES
    assert data.source.class_names == ("no", "yes")
    assert data.spec.shape == (3,)
    assert data.normalize.mean == expected.normalize.mean


def test_rows_are_those_of_the_file_in_float32(sites: Path) -> None:
    data = opened(source(sites), sites)
    expected = np.concatenate([site(seed)[NAMES].to_numpy(np.float32) for seed in range(3)])
    assert (data.images.numpy() == expected).all()
    assert data.labels.tolist() == [0, 1] * 60


def test_standardized_by_the_training_data_of_those_that_take_part(sites: Path) -> None:
    data = opened(source(sites), sites, held_out=["west"])
    train = np.concatenate([client.train for client in data.clients if client.name != "west"])
    rows = data.images[train].double().numpy()
    assert data.normalize.mean == pytest.approx(rows.mean(0))
    assert data.normalize.std == pytest.approx(rows.std(0))
    assert data.participants().normalize.mean == data.normalize.mean
    assert pickle.loads(pickle.dumps(data)).normalize == data.normalize
    assert data.normalize.settings() == {"mean": "training data", "std": "training data"}


def test_given_mean_and_deviation(sites: Path) -> None:
    data = opened(source(sites), sites, mean=[0.0], std=[2.0])
    assert (data.normalize(data.images[:5]) == data.images[:5] / 2).all()
    assert data.normalize.settings()["std"] == [2.0] * 3
    with pytest.raises(ValueError, match="has 2 numbers, but there are 3 features"):
        opened(source(sites), sites, mean=[0.0, 1.0])


def test_columns_say_domain_split_unit_and_group(sites: Path) -> None:
    tables = [site(seed).assign(ward=name, part=["train", "train", "2", ""] * 10) for seed, name in enumerate("ba")]
    pd.concat(tables).to_csv(sites / "all.csv", index=False)
    given = source(sites, "all.csv", domain="ward", split="part", group="sex", attributes=[])
    data = opened(given, sites)
    assert list(sizes(data)) == ["a", "b"]
    assert data.arrays.group_names == ("f", "m")
    by_patient = opened(source(sites, "all.csv", domain="ward", unit="patient", ignore=["part"]), sites)
    units = by_patient.source.cached_table["unit"].to_numpy()
    parts = {
        split: set(units[np.concatenate([getattr(c, split) for c in by_patient.clients])])
        for split in ("train", "test")
    }
    assert parts["train"].isdisjoint(parts["test"])


@pytest.mark.parametrize(
    "clients",
    [ByColumn("sex"), Iid(2), Dirichlet(2, 0.5, 10), Pathological(2, 1)],
    ids=lambda made: type(made).__name__,
)
def test_any_partition(clients: Any, sites: Path) -> None:
    assert_no_leaks(opened(source(sites), sites, clients=clients))


def test_order_of_columns_does_not_matter_but_their_names_do(sites: Path) -> None:
    expected = opened(source(sites), sites).arrays.content_hash
    save(site(1)[["size", "sex", "label", "age", "patient", "dose"]], sites / "sites" / "south.csv")
    assert opened(source(sites), sites).arrays.content_hash == expected
    save(site(1).drop(columns="dose"), sites / "sites" / "south.csv")
    with pytest.raises(ValueError, match=r"south\.csv has 2; only one of them has dose"):
        opened(source(sites), sites)
    assert opened(source(sites, features=["size", "age"]), sites).spec.shape == (2,)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 1, 10] * 8, ("1", "3", "10")),
        ([1.0, 0.0] * 12, ("0", "1")),
        ([-1, 1] * 12, ("-1", "1")),
        (["b", " a"] * 12, ("a", "b")),
        ([True, False] * 12, ("False", "True")),
        (["NA", "None"] * 12, ("NA", "None")),
    ],
    ids=str,
)
def test_labels_are_names(labels: list[Any], classes: tuple[str, ...], tmp_path: Path) -> None:
    """Integers are sorted as numbers; what pandas takes for missing may be a name."""
    pd.DataFrame({"a": range(24), "label": labels}).to_csv(tmp_path / "x.csv", index=False)
    made = FeatureArrays("x.csv", str(tmp_path))
    assert made.class_names == classes
    assert made.table()["label"].tolist() == [classes.index(str(label).strip().removesuffix(".0")) for label in labels]


def test_an_array_file_with_labels_beside_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(30, 5)).astype(np.float16))
    np.save(tmp_path / "y.npy", np.arange(30)[:, None] % 3)
    data = opened(FeatureArrays("x.npy", str(tmp_path), label="y.npy"), tmp_path)
    assert data.spec.shape == (5,)
    assert list(data.source.feature_names) == ["0", "1", "2", "3", "4"]
    assert sizes(data) == {"x": (20, 2, 8)}


def test_missing_values(sites: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = site(0)
    table.loc[[3, 7], "dose"] = np.nan
    table.loc[7, "age"] = np.nan
    save(table, sites / "sites" / "north.csv")
    with pytest.raises(
        ValueError, match=r"north\.csv, row 3 \(from 0\): feature 'dose' is missing; 3 such values in 2"
    ):
        opened(source(sites), sites)
    with caplog.at_level(logging.WARNING, "lpft"):
        assert len(opened(source(sites, missing="leave_out"), sites).images) == 118
    assert "2 of 40 rows" in caplog.text
    data = opened(source(sites, missing="mean"), sites)
    train = np.concatenate([client.train for client in data.clients])
    assert data.normalize.mean == pytest.approx(np.nanmean(data.images[train].double().numpy(), axis=0))
    normal = data.normalize(data.images)
    assert (normal[data.images.isnan()] == 0).all()
    assert not normal.isnan().any()


def test_constant_features_are_named_and_harmless(sites: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed, name in enumerate(SITES):
        save(site(seed).assign(dose=0.1), sites / "sites" / f"{name}.csv")
    with caplog.at_level(logging.WARNING, "lpft"):
        data = opened(source(sites), sites)
    assert data.normalize.std[1] == 1
    assert data.normalize(data.images)[:, 1].abs().max() < 1e-6
    assert "1 of 3 features are constant in the training data and tell nothing: dose" in caplog.text


def changed(**columns: Any) -> pd.DataFrame:
    return site(0).assign(**columns)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (changed(dose=[np.inf] * 40), "'dose' is infinite"),
        (changed(dose=[1e300, 0] * 20), r"'dose' is beyond 1e-30 to 1e\+30"),
        (changed(dose=np.arange(40) + 1.7e12), "'dose' goes from 1700000000000 to"),
        (changed(dose=["1,5"] * 40), "column 'dose' contains '1,5', which is not a number"),
        (changed(label=np.linspace(0, 1, 40)), "40 different values in 40 rows, such as 0, 0.02"),
        (changed(label="yes"), "'yes' in all 40 rows"),
        (changed(label=range(40)), "40 different values in 40 rows"),
        (changed(label=["yes", "Yes"] * 20), "differ in case only"),
        (changed(label=["yes", "no", "no", ""] * 10), "10 rows have no `label`, the first is row 3"),
        (site(0).rename(columns={"label": "diagnosis"}), "has no column 'label'"),
        (site(0)[:0], "has no rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_named(table: pd.DataFrame, named: str, tmp_path: Path) -> None:
    save(table, tmp_path / "x.csv")
    with pytest.raises(ValueError, match=named):
        opened(source(tmp_path, "x.csv"), tmp_path)


def test_a_file_of_labels_is_looked_for_beside_the_features(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    np.save(tmp_path / "sets" / "x.npy", np.eye(4))
    np.save(tmp_path / "sets" / "y.npy", np.arange(4) % 2)
    assert FeatureArrays("sets/x.npy", str(tmp_path), label="y.npy").table()["label"].tolist() == [0, 1, 0, 1]
    with pytest.raises(FileNotFoundError, match=r"`sets/y\.npy`.* relative to .*/sets, which has: x\.npy, y\.npy"):
        FeatureArrays("sets/x.npy", str(tmp_path), label="sets/y.npy").table()


TEXTS = {
    "a,a,label\n1,2,x\n3,4,y\n": "several columns 'a'",
    "a,label\n1,2,x\n": "names 2 columns, but the next one has 3 values",
    "1.5,2,3\n4,5,6\n": "first line must name the columns",
    "a,label\n1,x\n2,y,3\n": "cannot be read",
    "version https://git-lfs.github.com/spec/v1\nsize 5\n": "Git LFS pointer",
    "": "is empty",
}


@pytest.mark.parametrize(("text", "named"), TEXTS.items(), ids=TEXTS.values())
def test_texts_that_are_no_tables(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=named):
        FeatureArrays("x.csv", str(tmp_path)).table()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}, None], dtype=object), label=np.arange(2))
    np.save(tmp_path / "x.npy", np.array([["a", 1]], dtype=object))
    for name in ("x.npz", "x.npy"):
        with pytest.raises(ValueError, match=r"never unpickled; save numbers with `array\.astype"):
            FeatureArrays(name, str(tmp_path)).table()
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"pickles and files of torch\.save are never read"):
        FeatureArrays("x.pkl", str(tmp_path)).table()


def test_several_arrays_need_a_choice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", clip=rng.normal(size=(20, 3)), dino=rng.normal(size=(20, 4)), label=np.arange(20) % 2)
    with pytest.raises(ValueError, match="has the arrays clip, dino"):
        FeatureArrays("x.npz", str(tmp_path)).table()
    assert len(FeatureArrays("x.npz", str(tmp_path), features="dino").feature_names) == 4
    np.savez(tmp_path / "y.npz", x=rng.normal(size=(20, 3)), label=np.arange(19) % 2)
    with pytest.raises(ValueError, match="different numbers of rows"):
        FeatureArrays("y.npz", str(tmp_path)).table()
    np.savez(tmp_path / "z.npz", x=rng.normal(size=(20, 3, 2, 2)), label=np.arange(20) % 2)
    with pytest.raises(ValueError, match=r"has the shape \(20, 3, 2, 2\)"):
        FeatureArrays("z.npz", str(tmp_path)).table()


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "fastparquet", None)  # type: ignore[arg-type]
    (tmp_path / "x.parquet").write_bytes(b"PAR1\x15\x04\x15\x10PAR1")
    with pytest.raises(ValueError, match=r"lpft\[parquet\]"):
        FeatureArrays("x.parquet", str(tmp_path)).table()


def test_a_list_column_is_an_array(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    pd.DataFrame({"embedding": list(rows), "label": np.arange(20) % 2}).to_parquet(tmp_path / "x.parquet")
    made = FeatureArrays("x.parquet", str(tmp_path))
    made.table()
    assert (made.rows(np.arange(20)) == rows).all()


def test_copies_in_test_and_training_rows_are_left_out(sites: Path) -> None:
    """Some rows of a site are another site's, as are the signs of their zeros."""
    copied = site(1)
    copied.loc[:2, NAMES] = site(0).loc[:2, NAMES]
    save(copied, sites / "sites" / "south.csv")
    data = opened(source(sites), sites)
    assert_no_leaks_between_parts(data)
    save(site(0), sites / "sites" / "south.csv")
    with pytest.raises(ValueError, match="rows are also, value for value, in a test or val part"):
        opened(source(sites), sites)
    assert sizes(opened(source(sites, equal_rows="keep"), sites))["south"] == (27, 3, 10)


def assert_no_leaks_between_parts(data: FederatedDataModule) -> None:
    rows = {
        split: {data.images[i].numpy().tobytes() for c in data.clients for i in getattr(c, split).tolist()}
        for split in ("train", "val", "test")
    }
    assert rows["train"].isdisjoint(rows["test"] | rows["val"])
    assert rows["val"].isdisjoint(rows["test"])


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 8},
        {"channels": 1},
        {"bits": 12},
        {"value_range": [0, 1]},
        {"background": "black"},
        {"on_bad_image": "skip"},
    ],
    ids=str,
)
def test_settings_of_images_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}=.*is for images, but `SklearnTable` has rows"):
        FederatedDataModule(SklearnTable("iris"), **settings)


def test_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="`augment=FlipCrop` is for images"):
        FederatedDataModule(SklearnTable("iris")).augment = FlipCrop()


def test_clients_of_one_row(sites: Path) -> None:
    save(site(0)[:1], sites / "sites" / "tiny.csv")
    data = opened(source(sites), sites)
    assert sum(sizes(data)["tiny"]) == 1


def test_names_that_are_hardly_features_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(site(0).assign(hospital=range(40)), tmp_path / "x.csv")
    with caplog.at_level(logging.WARNING, "lpft"):
        source(tmp_path, "x.csv").table()
    assert "hospital are taken for features" in caplog.text


def test_text_of_other_programs(tmp_path: Path) -> None:
    """UTF-16, semicolons and blanks, as spreadsheets write them."""
    table = site(0).rename(columns={"age": " age"})
    table.to_csv(tmp_path / "x.csv", index=False, sep=";", encoding="utf-16")
    assert list(source(tmp_path, "x.csv").feature_names) == NAMES
    with gzip.open(tmp_path / "y.csv.gz", "wt") as file:
        file.write("a,label\n1,x\n2,y\n")
    assert FeatureArrays("y.csv.gz", str(tmp_path)).class_names == ("x", "y")


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "iris", "wine"])
def test_tables_of_scikit_learn(name: Any, tmp_path: Path) -> None:
    data = opened(SklearnTable(name), tmp_path, clients=Dirichlet(3, 1.0, 10, within_domains=False), max_left_out=1.0)
    assert len(data.clients) == 3
    assert data.spec.shape == (len(data.source.feature_names),)
    assert data.spec.num_classes == len(data.source.class_names)


def test_all_classes_are_named(sites: Path) -> None:
    with pytest.raises(ValueError, match="`num_classes=3`, but the labels have 2 values: no, yes"):
        opened(source(sites), sites, num_classes=3)
    data = opened(source(sites, classes=["yes", "maybe", "no"]), sites, num_classes=3)
    assert data.labels.tolist() == [2, 0] * 60
    with pytest.raises(ValueError, match="has the values 'yes', which are not in `classes`: no, maybe"):
        opened(source(sites, classes=["no", "maybe"]), sites)


def test_features_can_be_chosen_from_any_kind_of_file(sites: Path) -> None:
    save(site(1), sites / "sites" / "south.npz")
    (sites / "sites" / "south.csv").unlink()
    data = opened(source(sites, features=["size", "age"]), sites)
    assert (data.images[40:80].numpy() == site(1)[["size", "age"]].to_numpy(np.float32)).all()
    with pytest.raises(ValueError, match="must name columns once each, and not the label"):
        source(sites, features=["age", "label"])


def test_two_files_of_one_site_and_absolute_paths(sites: Path) -> None:
    assert len(opened(FeatureArrays(str(sites / "sites"), ignore=["patient", "sex"]), sites).clients) == 3
    save(site(1), sites / "sites" / "south.npz")
    with pytest.raises(ValueError, match="south"):
        opened(source(sites), sites)


def test_attributes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    save(site(0).assign(floor=[9, 10] * 20), tmp_path / "x.csv")
    data = opened(
        source(tmp_path, "x.csv", attributes=["floor"], ignore=["sex", "patient"]), tmp_path, clients=ByColumn("floor")
    )
    assert list(sizes(data)) == ["9", "10"]


def test_a_relative_path_that_is_not_there_is_shown_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.csv").write_text("a,label\n1,x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"`path: x.csv` is missing; {tmp_path} has: other.csv")):
        FeatureArrays("x.csv").table()
