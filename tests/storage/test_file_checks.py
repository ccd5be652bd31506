from __future__ import annotations

from pathlib import Path

import pytest

from lpft.storage.file_checks import check_content

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("content", [LFS, b"<html><body>", b'\xef\xbb\xbf<?xml version="1.0"?>', b""])
@pytest.mark.parametrize("text", [True, False])
def test_what_stands_in_for_data_is_refused(content: bytes, text: bool, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match="HINT"):
        check_content(tmp_path / "x.csv", text)


def test_text_may_be_data(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("file,label\na.png,0\n")
    check_content(tmp_path / "x.csv", text=True)
    with pytest.raises(ValueError, match="text file that starts with 'file,label'"):
        check_content(tmp_path / "x.csv")


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00" + bytes(99), b"\x80\x02}", b"\x00\x01\x02"])
def test_binary_data_pass(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    check_content(tmp_path / "x.bin")
