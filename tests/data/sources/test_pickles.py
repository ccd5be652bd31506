import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest

from lpft.data.sources.pickles import load_arrays

ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.arange(6.0).reshape(2, 3, order="F"),
    np.array([1, 2], ">i4"),
    np.array(["zebra", "whale"]),
    np.array([b"a", b"bc"]),
    np.array([True, False]),
    np.array(3),
    np.empty((0, 5), np.float32),
]


def save(folder, content):
    path = folder / "it.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_out_as_they_went_in(tmp_path, protocol):
    for array in ARRAYS:
        found = load_arrays(save(tmp_path, pickle.dumps(array, protocol)))
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert np.array_equal(found, array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_numbers(tmp_path, protocol):
    content = {
        "pair": (np.arange(3), ["a", "ü", 1.5, None, True]),
        "number": np.float32(2.5),
        "names": np.array(["a", None, "b"], object),
        "bytes": b"\xff\x00",
        "more": [{1, 2}, frozenset({3}), 2j, OrderedDict(x=np.ones(1))],
    }
    found = load_arrays(save(tmp_path, pickle.dumps(content, protocol)))
    assert list(found) == list(content)
    assert isinstance(found["pair"], tuple)
    assert np.array_equal(found["pair"][0], np.arange(3))
    assert found["pair"][1] == content["pair"][1]
    assert (found["number"], found["number"].dtype) == (2.5, np.float32)
    assert found["names"].tolist() == ["a", None, "b"]
    assert found["bytes"] == b"\xff\x00"
    assert found["more"][:3] == content["more"][:3]
    assert found["more"][3]["x"].tolist() == [1.0]


def test_the_modules_of_older_numpy(tmp_path):
    content = pickle.dumps(np.arange(3), 2)
    assert b"numpy._core" in content
    assert load_arrays(save(tmp_path, content.replace(b"numpy._core", b"numpy.core"))).tolist() == [0, 1, 2]


def test_a_pickle_of_python_2(tmp_path):
    """Python 2 wrote an array's bytes as a string: {'data': array([[1, 200]], uint8), 'labels': [7]}, protocol 2."""
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\xc8tbU\x06labelsq\x08]q\tK\x07au."
    )
    assert pickle.loads(content, encoding="latin1")["data"].tolist() == [[1, 200]]  # what is read is what was meant
    found = load_arrays(save(tmp_path, content))
    assert found["data"].tolist() == [[1, 200]]
    assert found["data"].dtype == np.uint8
    assert found["labels"] == [7]


class Call:
    def __init__(self, function, *arguments):
        self.called = (function, arguments)

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, "system"), (subprocess.getoutput, "getoutput"), (eval, "eval")]
)
def test_what_would_run_a_program_is_refused_and_does_not_run(tmp_path, protocol, function, named):
    command = f"open({str(tmp_path / 'ran')!r}, 'w')" if function is eval else f"touch {tmp_path / 'ran'}"
    content = pickle.dumps([np.ones(2), {"x": Call(function, command)}], protocol)
    with pytest.raises(ValueError, match=rf"it.pkl is not loaded: it names `.*{named}`.*numpy arrays.*HINT"):
        load_arrays(save(tmp_path, content))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (pickle.dumps(Call(np.load, "x.npy")), "numpy.*load"),
        (pickle.dumps(np.random.default_rng), "default_rng"),
        (pickle.dumps(np.zeros(1, [("a", "u1")])), "arrays of records"),
        (pickle.dumps(np.zeros(1, "datetime64[s]")), "datetime64"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "rot13"),
    ],
)
def test_other_things_are_refused_by_name(tmp_path, content, named):
    with pytest.raises(ValueError, match=rf"not loaded: it .*{named}"):
        load_arrays(save(tmp_path, content))


def test_an_array_of_objects_cannot_be_made_of_bytes(tmp_path):
    """Else the file's bytes would be taken for addresses in memory."""
    content = pickle.dumps(np.zeros(1, np.int64), 4).replace(b"\x8c\x02i8", b"\x8c\x02O8")
    with pytest.raises(ValueError, match="cannot be read"):
        load_arrays(save(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 something else",
        pickle.dumps(np.arange(100))[:-30],
        pickle.dumps(np.zeros((2, 3), np.uint8), 2).replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86"),
        b"]q\x00h\x00a.",  # a list that holds itself
        b"cnumpy\nndarray\n)R.",
    ],
)
def test_damaged_files_are_reported(tmp_path, content):
    with pytest.raises(ValueError, match=r"it.pkl cannot be read as a pickle of arrays \(.*HINT"):
        load_arrays(save(tmp_path, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path / "nowhere.pkl")
