"""config.yaml is read back as it was written."""

from pathlib import Path

import pytest

from lpft.storage.config_file import read_config, write_config
from lpft.storage.provenance import Provenance
from lpft.storage.run import Run


@pytest.mark.parametrize(
    "name", ["plain", "Zürich", "\udcfcbung", "tab\tand\x07bell", "\U0001f3e5", "yes", "1e3", "null", ""]
)
def test_any_folder_name_is_restored(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path)
    config = {"seeds": [0], "methods": {}, "data": {"root": f"/data/{name}", "name": name}}
    write_config(run, config, Provenance())
    assert read_config(run)["data"] == config["data"]
    write_config(run, config, Provenance())  # reads what is there


@pytest.mark.parametrize("content", [b"", b"- a list", b"a: {", b"\xff\xfe\x00", b"text", b"a: \x00"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    run = Run(tmp_path)
    run.config.write_bytes(content)
    with pytest.raises(ValueError, match="move it away"):
        read_config(run)
