"""What is shipped can be listed, and written in a form that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lpft.config.files import check_file
from lpft.shipped import files
from tests.commands import lpft
from tests.test_shipped import ALL, EXPERIMENTS, TEMPLATE

SHIPPED = {entry.name: entry for entry in files.shipped()}


def test_every_configuration_is_listed_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {kind: {name for name, entry in SHIPPED.items() if entry.kind == kind} for kind in files.TITLES}
    names = {path: path.relative_to(TEMPLATE.parent).with_suffix("").as_posix() for path in ALL}
    assert kinds["included"] == {names[path] for path in EXPERIMENTS}
    assert kinds["template"] == {names[TEMPLATE]}
    assert kinds["to bring"] == set(names.values()) - kinds["included"] - kinds["template"]
    assert {"ladder", "tuned", "sizes/smoke"} <= kinds["addition"]
    lpft("init")
    words = capsys.readouterr().out.split()
    for name, entry in SHIPPED.items():
        assert name.rpartition("/")[2] in [word.strip(",") for word in words] or name in words
        assert entry.about or entry.kind == "section", f"{name} has no comment"


@pytest.mark.parametrize("name", SHIPPED)
def test_written_files_are_complete_and_equal(name: str, tmp_path: Path) -> None:
    texts = files.copies(name, tmp_path / "my 'own'")
    files.write(texts, force=False)
    written = tmp_path / "my 'own'" / f"{name}.yaml"
    check_file(written)
    for path in texts:
        original = files.CONFIGS / path.relative_to(tmp_path / "my 'own'")
        assert yaml.safe_load(path.read_text()) == yaml.safe_load(original.read_text())


def test_the_command_runs_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lpft("init", "e2_lp_duration")
    lpft("init", "configs/sizes/smoke.yaml", "--to", "more")
    lpft("plan", "-c", "experiments/e2_lp_duration.yaml", "-c", "more/sizes/smoke.yaml")
    assert "-c more/sizes/smoke.yaml" in Path("more/sizes/smoke.yaml").read_text()
    lpft("init", "slurm")
    assert Path("slurm/submit.sh").stat().st_mode & 0o100
    assert not Path("slurm/settings.sh").stat().st_mode & 0o100


def test_a_changed_file_is_kept_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lpft("init", "digits")
    original = Path("digits.yaml").read_text()
    Path("data/digits.yaml").write_text("mine")
    Path("digits.yaml").unlink()
    lpft("init", "digits", code=2)
    error = capsys.readouterr().err
    assert "data/digits.yaml" in error
    assert "--force" in error
    assert not Path("digits.yaml").exists(), "all or nothing"
    lpft("init", "digits", "--force")
    lpft("init", "digits")
    assert Path("digits.yaml").read_text() == original
    assert "mine" not in Path("data/digits.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["digitz"], ["'digitz'", "digits"]),
        (["../../pyproject"], ["HINT"]),
        (["digits", "folder"], ["own_sites", "--to"]),
        (["digits", "--to", "file"], ["file"]),
    ],
)
def test_bad_input_gets_a_hint(
    words: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    lpft("init", *words, code=2)
    error = capsys.readouterr().err
    assert [text for text in expected if text not in error] == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_required_data_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lpft("init", "celeba")
    shown = capsys.readouterr().out
    assert "list_attr_celeba.txt" in shown
    assert "lpft run -c celeba.yaml --data.source.root FOLDER" in shown
