"""Files of other programs: the lines that a message proposes are run as they stand there."""

import json
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lpft.data.sources import Arrays, Sites
from lpft.data.sources.array_files import ArrayDomain
from lpft.data.sources.foreign import foreign
from lpft.data.sources.pickles import load_npz
from tests.commands import lpft
from tests.data.made import made

NUM = {"train": 12, "test": 4}


def arrays(client, low=-1.0, size=8, channels=1):
    """Images with the values of a grey ramp, scaled as the program does, and labels."""
    rng = np.random.default_rng(client)
    parts = {}
    for split, num in NUM.items():
        pixels = rng.integers(0, 256, (num, channels, size, size))
        pixels[0, 0, 0, :2] = 0, 255
        parts[split] = (pixels / 255 * (1 - low) + low).astype(np.float32), np.arange(num) % 3, pixels
    return parts


def pfllib(root, channels=1):
    """Write what PFLlib's ``save_file`` writes."""
    for client in range(3):
        for split, (x, y, _) in arrays(client, channels=channels).items():
            (root / split).mkdir(exist_ok=True)
            with (root / split / f"{client}.npz").open("wb") as file:
                np.savez_compressed(file, data={"x": x, "y": y})
    (root / "config.json").write_text(json.dumps({"num_clients": 3, "num_classes": 3}))
    (root / "rawdata").mkdir()
    return root / "train" / "0.npz"


def leaf(root):
    for split in NUM:
        (root / split).mkdir()
        users = {}
        for client in range(3):
            x, y, _ = arrays(client, low=0.0)[split]
            users[str(client)] = {"x": x.reshape(len(x), -1).tolist(), "y": y.tolist()}
        content = {"users": list(users), "num_samples": [NUM[split]] * 3, "user_data": users}
        (root / split / f"all_data_0_{split}.json").write_text(json.dumps(content))
    return root / "train" / "all_data_0_train.json"


def torch_dicts(root):
    for client in range(3):
        for split, (x, y, _) in arrays(client, low=0.0).items():
            (root / split).mkdir(exist_ok=True)
            torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, root / split / f"{client}.pt")
    return root / "train" / "0.pt"


def torch_datasets(root):
    """Write what FedLab writes: a pickled dataset for each client."""
    for client in range(3):
        for split, (x, y, _) in arrays(client, low=0.0).items():
            (root / split).mkdir(exist_ok=True)
            dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
            torch.save(dataset, root / split / f"data{client}.pkl")
    return root / "train" / "data0.pkl"


def matlab(root):
    for client in range(3):
        content = {}
        for split, (_, y, pixels) in arrays(client).items():
            content |= {f"x_{split}": pixels[:, 0].astype(np.uint8), f"y_{split}": y}
        savemat(root / f"{client}.mat", content)
    return root / "0.mat"


def converted(message, root):
    """Run the lines of a message as it says, and return the arrays of every client."""
    assert message.count("HINT") == 1
    (root / "convert.py").write_text(message.partition("there.\n")[2])
    subprocess.run([sys.executable, "convert.py"], cwd=root, check=True)
    return [dict(np.load(path)) for path in sorted((root / "clients").glob("*.npz"))]


@pytest.mark.parametrize("write", [pfllib, leaf, torch_dicts, torch_datasets, matlab])
def test_the_lines_convert_to_what_is_read(tmp_path, monkeypatch, write):
    path = write(tmp_path)
    with pytest.raises(ValueError, match="which is not supported") as stop:
        made(Arrays, {"a": ArrayDomain(str(path.relative_to(tmp_path)))}, root=str(tmp_path)).source.table()
    clients = converted(str(stop.value), tmp_path)
    assert len(clients) == 3
    for client, content in enumerate(clients):
        for split, (_, y, pixels) in arrays(client).items():
            assert content[f"x_{split}"].dtype == np.uint8
            assert np.array_equal(content[f"x_{split}"].reshape(pixels.shape), pixels)
            assert content[f"y_{split}"].tolist() == y.tolist()
    monkeypatch.chdir(tmp_path)
    lpft("prepare", "--data", "clients.yaml", "--data.cache_dir", tmp_path / "cache", "--out", tmp_path / "run")
    counts = (tmp_path / "run" / "data" / "clients.csv").read_text().splitlines()
    assert len(counts) == 1 + 3 * 3


def test_colours_and_a_folder_that_is_taken_for_sites(tmp_path):
    pfllib(tmp_path, channels=3)
    with pytest.raises(ValueError, match="as PFLlib writes") as stop:
        made(Sites, root=str(tmp_path), image_size=8).source.table()
    clients = converted(str(stop.value), tmp_path)
    assert all(np.array_equal(client["x_train"], arrays(n, channels=3)["train"][2]) for n, client in enumerate(clients))
    assert "channels: 3" in (tmp_path / "clients.yaml").read_text()


def test_hdf5_of_tensorflow_federated(tmp_path, monkeypatch):
    """The library is not there, so that a module of the same form stands in for it."""
    (tmp_path / "fed_train.h5").touch()
    (tmp_path / "fed_test.h5").touch()
    message = foreign(tmp_path / "fed_train.h5")

    class Held:
        def __init__(self, values):
            self.values = values

        def __getitem__(self, _):
            return self.values

    def open_file(path):
        split = "train" if "train" in str(path) else "test"
        examples = {}
        for client in range(3):
            x, y, _ = arrays(client, low=0.0)[split]
            examples[f"f{client}"] = {"pixels": Held(x[:, 0]), "label": Held(y)}
        return {"examples": examples}

    monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=open_file))
    monkeypatch.chdir(tmp_path)
    exec(message.partition("there.\n")[2], {})
    for client in range(3):
        content = np.load(tmp_path / "clients" / f"f{client}.npz")
        assert np.array_equal(content["x_test"], arrays(client)["test"][2][:, 0])


def test_pixels_outside_the_range_stop_the_lines(tmp_path):
    """Images of another scale must not be written wrongly without a word."""
    path = pfllib(tmp_path)
    np.savez(path, data={"x": arrays(0)["train"][0] * 3, "y": arrays(0)["train"][1]})
    with pytest.raises(subprocess.CalledProcessError):
        converted(foreign(path), tmp_path)


class Evil:
    def __reduce__(self):
        return open, ("run", "w")


def test_no_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", data=np.array(Evil(), object))
    assert foreign(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="is not loaded"):
        load_npz(tmp_path / "a.npz")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(Evil()))
    assert foreign(tmp_path / "b.pkl")
    assert not (tmp_path / "run").exists()


def test_files_of_ones_own_are_no_ones_elses(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.zeros(3), x_train=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:40])
    for name in ("a.npz", "cut.npz", "not_there.json", "b.npy"):
        assert foreign(tmp_path / name) == ""
    assert {*load_npz(tmp_path / "a.npz")} == {"data", "x_train"}
    assert not re.search(r"allow_pickle=True", foreign(pfllib(tmp_path)))
