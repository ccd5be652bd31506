import csv

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console

from lpft.data.sources.base import Source, categories
from lpft.data.summary import describe, write_contact_sheet, write_counts
from tests.data.made import opened


class Coloured(Source):
    """Two clients: one sees red images only, of two groups, the other has no training samples."""

    class_names = ("red", "a very long name of a class", "blue")
    image_size, num_classes = 10, 3

    def table(self):
        rows = [("full", "test", 1, "young"), ("full", "test", 2, "old"), ("empty", "test", 1, None),
                ("empty", "test", 2, None), ("full", "train", 0, "old"), ("full", "train", 0, "old"),
                ("full", "train", 0, "young"), ("full", "train", 1, "young")]  # fmt: skip
        table = pd.DataFrame(rows, columns=["domain", "split", "label", "group"])
        return table.assign(
            domain=categories(table["domain"], ["full", "empty"]), group=categories(table["group"], ["young", "old"])
        )

    def images(self, positions):
        images = np.zeros((8, 10, 10, 3), np.uint8)
        images[[1, 3]] += 9
        images[4:7, ..., 0] = 255
        images[[0, 7], 0] = 99  # the only one that is not of one even colour, twice
        return images[positions]


def coloured(tmp_path):
    return opened(Coloured, val_share=0.0, max_left_out=1.0, cache_dir=str(tmp_path))


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
    assert "6 images: 3 of class red, 1 of class a very long name of a class, 2 of class blue" in told


def test_a_contact_sheet_shows_the_images_of_clients_that_have_some(tmp_path):
    data = coloured(tmp_path)
    write_contact_sheet(tmp_path / "sheet.png", data)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    red = (sheet == [255, 0, 0]).all(-1)
    assert red.sum() == 3 * 48 * 48
    assert torch.equal(data.images[1], torch.full((3, 10, 10), 9, dtype=torch.uint8)), "the arrays are as they were"
