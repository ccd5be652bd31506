import csv

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from lpft.data.datamodule import FederatedDataModule
from lpft.data.summary import describe, write_contact_sheet, write_counts
from lpft.types import DataSpec


class Coloured(FederatedDataModule):
    """Two clients: one sees red images only, of two groups, the other has no training samples."""

    class_names = ("red", "a very long name of a class", "blue")
    group_names = ("young", "old")
    spec = DataSpec(3, 10, 3)

    def settings(self):
        return {}

    def write(self, writer):
        tests, trains = np.zeros((2, 3, 10, 10), np.uint8), np.zeros((3, 3, 10, 10), np.uint8)
        tests[1] += 9
        trains[:, 0] = 255
        writer.add("full", "test", tests, np.array([1, 2]), np.array([0, 1]))
        writer.add("empty", "test", tests, np.array([1, 2]))
        writer.add("full", "train", np.concatenate([trains, tests[:1]]), np.array([0, 0, 0, 1]), np.array([1, 1, 0, 0]))


def coloured(tmp_path):
    data = Coloured(str(tmp_path))
    data.setup()
    return data


def test_counts_by_hand(tmp_path):
    write_counts(tmp_path / "clients.csv", coloured(tmp_path))
    rows = list(csv.reader((tmp_path / "clients.csv").open()))
    assert rows[0] == ["client", "split", "samples", "red", "a very long name of a class", "blue"]
    assert ["full", "train", "3", "3", "0", "0"] in rows
    assert ["full", "test", "2", "0", "1", "1"] in rows
    assert ["empty", "train", "0", "0", "0", "0"] in rows
    assert len(rows) == 7


def test_what_is_told(tmp_path):
    console = Console(record=True, width=120)
    describe(coloured(tmp_path), console)
    told = console.export_text()
    assert "2 clients, 3 classes, images 3x10x10: 3 train, 0 val, 4 test" in told
    assert "1/3" in told
    assert "group old: 2 train, 0 val, 1 test" in told
    assert "left out of full: 1 of train" in told


def test_a_contact_sheet_shows_the_images_of_clients_that_have_some(tmp_path):
    data = coloured(tmp_path)
    write_contact_sheet(tmp_path / "sheet.png", data)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    red = (sheet == [255, 0, 0]).all(-1)
    assert red.sum() == 3 * 48 * 48
    assert torch.equal(data.images[0], torch.zeros(3, 10, 10, dtype=torch.uint8)), "the arrays are as they were"
