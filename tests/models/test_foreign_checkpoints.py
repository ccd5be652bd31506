from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import pickle
import re
import tarfile
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lpft.models.fit import read_weights
from lpft.models.foreign_checkpoints import read_state
from tests.toy import same_bits, toy_net


def state() -> dict[str, torch.Tensor]:
    return dict(toy_net(norm=True).state_dict())


@pytest.mark.parametrize("content", [{"epoch": 3, "optimizer": {"lr": 0.1}}, [torch.ones(1)], {}])
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"contains a (dict|list).* not tensors by name.*HINT"):
        read_weights(tmp_path / "m.pt", like=state())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_pickled_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"head.weight": Evil()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / "m.pt", like=state())
    assert "executed" not in capsys.readouterr().out


# Entries


def test_an_entry_is_named(tmp_path: Path) -> None:
    other = {name: torch.zeros_like(tensor) for name, tensor in state().items()}
    torch.save({"model_0": other, "server_model": state(), "a_iter": 3}, tmp_path / "fedbn.pt")
    with pytest.raises(ValueError, match=r"several models: model_0, server_model.*init_entry server_model"):
        read_state(tmp_path / "fedbn.pt")
    assert same_bits(read_state(tmp_path / "fedbn.pt", "server_model"), state())
    assert same_bits(read_state(tmp_path / "fedbn.pt", "model_0"), other)
    with pytest.raises(ValueError, match=r"no entry `server`.*HINT.*model_0, server_model"):
        read_state(tmp_path / "fedbn.pt", "server")


@pytest.mark.parametrize("entry", ["best.server", "best", "a.b.net", "a.b"])
def test_entries_are_nested_and_have_dots(entry: str, tmp_path: Path) -> None:
    torch.save({"best": {"server": state(), "acc": 3.0}, "a.b": {"net": state()}}, tmp_path / "m.pt")
    assert same_bits(read_state(tmp_path / "m.pt", entry), state())


def test_optimizers_and_losses_beside_the_model_are_no_models(tmp_path: Path) -> None:
    net = toy_net(norm=True)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(4, 1, 8, 8, dtype=torch.float64)).sum().backward()
    optimizer.step()
    content = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "loss": torch.ones(()), "n": Counter(a=1)}
    torch.save(content, tmp_path / "m.pt")
    assert same_bits(read_state(tmp_path / "m.pt"), dict(net.state_dict()))


def test_values_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    torch.save({**state(), "epoch": 3, "note": "x"}, tmp_path / "m.pt")
    assert same_bits(read_state(tmp_path / "m.pt"), state())


# Names


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_forward_module.", "module.module."])
def test_what_wrappers_add_to_names_is_removed(prefix: str, tmp_path: Path) -> None:
    torch.save({prefix + name: tensor for name, tensor in state().items()}, tmp_path / "m.pt")
    assert same_bits(read_state(tmp_path / "m.pt"), state())


def test_a_compiled_part_has_its_plain_names(tmp_path: Path) -> None:
    torch.save({name.replace("body.", "body._orig_mod."): t for name, t in state().items()}, tmp_path / "m.pt")
    assert same_bits(read_state(tmp_path / "m.pt"), state())


# Formats


def written(path: Path, content: object, **settings: object) -> Path:
    torch.save(content, path, **settings)  # type: ignore[arg-type]
    return path


def sharded(path: Path) -> Path:
    names = list(state())
    parts = {f"model-{k}.safetensors": names[k::2] for k in range(2)}
    for file, part in parts.items():
        save_file({name: state()[name] for name in part}, path.parent / file)
    path.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    return path


def odd_name(path: Path) -> Path:
    save_file(state(), path)
    return path


READABLE = {
    "legacy torch": lambda p: written(p / "m.pt", state(), _use_new_zipfile_serialization=False),
    "without an ending": lambda p: written(p / "model", OrderedDict(state())),
    "pytorch_model.bin": lambda p: written(p / "pytorch_model.bin", state()),
    "safetensors by content": lambda p: odd_name(p / "model.bin"),
    "several files": lambda p: sharded(p / "model.safetensors.index.json"),
    "numpy in torch": lambda p: written(p / "m.pt", {name: t.numpy() for name, t in state().items()}),
    "FL_global_model.pt": lambda p: written(p / "FL.pt", {"model": state(), "train_conf": {"train": {"model": "x"}}}),
    "path": lambda p: written(p / "m.ckpt", {"state_dict": state(), "dir": pathlib.Path("x")}),
    "numpy scalar": lambda p: written(p / "m.ckpt", {"state_dict": state(), "best": np.float64(3), "n": np.int64(1)}),
    "arguments": lambda p: written(p / "m.ckpt", {"state_dict": state(), "args": argparse.Namespace(lr=0.1)}),
    "sparse": lambda p: written(p / "m.pt", {**state(), "body.6.weight": state()["body.6.weight"].to_sparse()}),
}


@pytest.mark.parametrize("write", READABLE.values(), ids=READABLE)
def test_what_is_read(write, tmp_path: Path) -> None:
    assert same_bits(read_weights(write(tmp_path), state()), state())


@pytest.mark.parametrize("start", [b"\x80", b"\x78\x9c"])  # of pickles, and of what zlib has compressed
def test_safetensors_may_begin_like_anything(start: bytes, tmp_path: Path) -> None:
    path, note = tmp_path / "m.bin", 0
    while True:
        save_file({"w": torch.ones(2, 2)}, path, metadata={"note": "x" * note})
        content = path.read_bytes()
        if content.startswith(start):
            break
        note += max(1, (int.from_bytes(start, "little") - int.from_bytes(content[:8], "little")) // 2)
    assert same_bits(read_state(path), {"w": torch.ones(2, 2)})


def scripted(path: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    return path


def packed(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(written(path.parent / "m.pt", state()), "m.pt")
    return path


def with_text(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def saved_arrays(path: Path) -> Path:
    np.save(path, np.array([np.ones(2), np.ones((3, 2))], object), allow_pickle=True)
    return path


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title>"
REFUSED = {
    "Git LFS": (lambda p: with_text(p / "m.pt", LFS), "Git LFS pointer to a file of 12,345 bytes.*git lfs pull"),
    "Git LFS, safetensors": (lambda p: with_text(p / "m.safetensors", LFS), "Git LFS pointer"),
    "annex": (lambda p: with_text(p / "m.pt", "/annex/objects/SHA256E-s1--a.pt"), "git annex get"),
    "web page": (lambda p: with_text(p / "m.npz", PAGE), "web page, 'Sign in'"),
    "web page, gzip": (lambda p: with_text(p / "m.pt", gzip.compress(PAGE.encode())), "web page"),
    "S3": (lambda p: with_text(p / "m.pt", '<?xml version="1.0"?><Error><Code>AccessDenied</Code>'), "AccessDenied"),
    "Zenodo": (lambda p: with_text(p / "m.pt", '{"status": 404, "message": "x"}'), "text file that starts with"),
    "not found": (lambda p: with_text(p / "m.pt", "404: Not Found"), "404: Not Found"),
    "empty": (lambda p: with_text(p / "m.pt", b""), "is empty"),
    "unfinished by name": (lambda p: with_text(p / "m.pt.part", b"PK\0\xff"), "unfinished download"),
    "unfinished, zeros": (lambda p: with_text(p / "m.pt", bytes(5000)), "starts with zeros"),
    "cut off": (lambda p: with_text(p / "m.pt", written(p / "w.pt", state()).read_bytes()[:-90]), "truncated"),
    "gzip": (lambda p: with_text(p / "m.pt.gz", gzip.compress(written(p / "w.pt", state()).read_bytes())), "gunzip"),
    "folder": (lambda p: p, "is a folder that contains nothing"),
    "object arrays": (lambda p: saved_arrays(p / "m.npy"), "arrays of Python objects.*numpy.savez"),
    "TorchScript": (lambda p: scripted(p / "m.pt"), "is TorchScript.*torch.jit.load"),
    "pickle": (lambda p: with_text(p / "m.pkl", pickle.dumps(state())), "is a pickle.*pickle.load"),
    "tar": (lambda p: packed(p / "m.tar"), "tar archive of m.pt"),
    "HDF5": (lambda p: with_text(p / "m.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)), "is HDF5.*savez"),
    "ONNX": (lambda p: with_text(p / "m.onnx", b"\x08\x07\x12\x07pytorch\xff"), "is ONNX.*onnx.load"),
}


@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_why(write, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        read_state(write(tmp_path))
    assert "HINT" in str(caught.value)
    assert "\x1b" not in str(caught.value)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


OBJECTS = {
    "whole model": lambda: Own(),
    "model in an entry": lambda: {"model": Own(), "epoch": 1},
    "beside": lambda: {"state_dict": Own().state_dict(), "note": Fraction(1, 2)},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", OBJECTS.values(), ids=OBJECTS)
def test_refused_classes_are_named_and_the_line_works(
    content, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "m.pt", content(), _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"objects of .*(test_foreign_checkpoints\.Own|fractions\.Fraction)") as caught:
        read_state(tmp_path / "m.pt")
    line = re.search(r'python -c "(.*)"', str(caught.value))
    assert line is not None
    monkeypatch.chdir(tmp_path)
    exec(line[1], {})
    assert set(read_state(tmp_path / "weights.pt")) == {"layer.weight", "layer.bias"}
