"""The whole report: complete, self-contained, unchanged by a second call, safe against names."""

import logging
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from fabricate import CLIENTS, METHODS, WEIRD, make_run

from lpft.evaluation.diagnostics import LITTLE_DATA, Diagnostic
from lpft.reporting import sentences
from lpft.reporting.analysis import analyze_results
from lpft.reporting.console import comparison_table
from lpft.reporting.figures import drawings
from lpft.reporting.page import clients_compared
from lpft.reporting.report import write_report, write_tables
from lpft.reporting.sentences import diagnostic_lines
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("run"))
    write_report(run)
    return run


def test_every_figure_is_there_and_is_xml(run: Run) -> None:
    paths = sorted((run.root / "figures").iterdir())
    names = ["clients", "curves", "depth", "distortion", "ladder", "matrices", "tradeoff"]
    assert [path.stem for path in paths] == names
    for path in paths:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_page_needs_nothing_else(run: Run) -> None:
    page = read(run.root / "report.html")
    assert page.tags.count("svg") == 7
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", (run.root / "report.html").read_text())


def test_page_tells_what_was_done(run: Run) -> None:
    text = " ".join(read(run.root / "report.html").text.split())
    assert "10 clients share one model (SmallCNN), trained by federated averaging for 60 rounds." in text
    assert "with 3 seeds (0, 1, 2)" in text
    assert "only the last layer for 5 epochs, all layers for the other 10" in text
    assert all(name in text for name in (*METHODS, *CLIENTS))
    assert "federation.optimizer.lr" in text
    assert "Settings" in text
    assert "of a sweep" not in text, "nothing was swept"


def test_the_table_leads_to_the_meaning_of_its_columns(run: Run) -> None:
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert page.index('href="#terms"') < page.index("<table>") < page.index('id="terms"')


def test_first_screen_tells_the_result(run: Run) -> None:
    text = " ".join(read(run.root / "report.html").text.split())
    parts = ("Result", "95% interval", "clients' models reach", "Recommendation by validation data", "average3")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert places[-1] < text.index("Before you trust the numbers") < text.index("Differences, seed by seed")


def test_differences_and_recommendations_are_in_both_pages(run: Run) -> None:
    analysis = write_tables(run)
    found = analysis.certainty.comparisons["lpft", "ft", "local"]
    assert found.estimate.mean == pytest.approx(analysis.differences("lpft", "ft", "local").mean())
    expected = f"{found.estimate.mean:+.1f} ± {found.estimate.margin:.1f} {found.verdict}"
    better, same, worse = clients_compared(analysis, "lpft", "ft")
    for text in ((run.root / "report.md").read_text(encoding="utf-8"), read(run.root / "report.html").text):
        assert expected in text
        assert f"{better} / {same} / {worse}" in text
        assert "Which clients should fine-tune" in text
        assert text.count("personalize") > 1


def test_diagnostics_that_methods_or_clients_share_take_one_line() -> None:
    def little(method: str, density: float, client: str | None = None) -> Diagnostic:
        numbers = {"per_class": density, "val_before": 80.0, "val_after": 70.0}
        return Diagnostic(LITTLE_DATA, density, numbers, client, method)

    found = [little("lpft+lr=1", 1), little("lpft+lr=2", 1), little("lpft+lp_lr=3", 2)]
    lines = diagnostic_lines([*found, little("soup", 3, "a"), little("soup", 3, "b")])
    assert [line.partition(" training")[0] for line in lines] == [
        f"{LITTLE_DATA}: lpft+lr=1 and 1 more: 1.0",
        f"{LITTLE_DATA}: lpft+lp_lr=3: 2.0",
        f"{LITTLE_DATA}: 2 clients (a, b): a, soup: 3.0",
    ]


def test_diagnostics_have_numbers_and_a_remedy(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        few = {"num_train": 20, "train_accuracy": 100.0, "val_before": 90.0, "val_after": 70.0}
        return replace(cell, **few) if cell.client != "p" and cell.method == "lp" else cell

    clients = [f"<b>{letter}</b>" for letter in "abcdefghijk"] + ["p"]
    run = make_run(tmp_path, seeds=(0,), methods=("none", "lp"), clients=clients, edit=edit)
    (line,) = diagnostic_lines(write_report(run).analysis.diagnostics)
    assert line.startswith(f"{LITTLE_DATA}: 11 clients (<b>a</b>, <b>b</b>, ")
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        assert "oo little local data" in text
        assert "&lt;b&gt;a&lt;/b&gt;, lp: 2.0 training samples per class" in text
        assert "and 3 more, listed in diagnostics.csv" in text
        assert "Keep the global model for this client" in text
        assert "<b>a</b>" not in text
    assert len((tmp_path / "diagnostics.csv").read_text().splitlines()) == 12


def test_markdown_links_the_figures_that_exist(run: Run) -> None:
    text = (run.root / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(links) == 7
    assert all((run.root / link).is_file() for link in links)


def test_second_report_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0, 1), methods=("none", "lpft"), clients=CLIENTS[:3])
    write_report(run)
    first = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    write_report(run)
    assert first == {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}


def test_names_cannot_do_anything(tmp_path: Path) -> None:
    clients = (*WEIRD, "<img src=x onerror=alert(1)>", "|*[x](javascript:y)*|", "{{ 7*7 }}")
    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft"), clients=clients)
    write_report(run)
    page = read(run.root / "report.html")
    assert not {"script", "img"} & set(page.tags)
    assert all(" ".join(name.split()) in page.text for name in clients)
    markdown = (run.root / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert r"\|\*\[x\](javascript:y)\*\|" in markdown
    for path in (run.root / "figures").iterdir():
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert "script" not in tags


def test_diagnostics_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        if cell.method == "lp":
            return None if cell.client == CLIENTS[0] else cell
        return replace(cell, status="diverged") if cell.client == CLIENTS[4] and cell.method == "ft" else cell

    run = make_run(tmp_path, seeds=(0,), clients=CLIENTS[:5], edit=edit, rounds=12)
    run.cell(0, "ft_short", CLIENTS[2]).write_text("{}")
    with caplog.at_level(logging.WARNING, logger="lpft"):
        report = write_report(run)
    assert f"{CLIENTS[2]}.json" in caplog.text
    assert [result.method for result in report.analysis.method_results if not result.complete] == ["ft_short", "lp"]
    for name in ("report.html", "report.md"):
        text = (run.root / name).read_text(encoding="utf-8").replace("\\", "")
        assert f"left out: lp, seed 0: 1 of 5 clients missing ({CLIENTS[0]})" in text
        assert f"left out: ft_short, seed 0: 1 damaged ({CLIENTS[2]})" in text
        assert "lobal model not converged" in text
        assert "seed 0: mean validation accuracy changed by " in text
        assert f"diverged: {CLIENTS[4]}" in text
        assert "one seed: " in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("methods", "clients", "seeds", "eval_every", "figures"),
    [
        (("none",), ("only",), (0,), 0, {"tradeoff", "matrices"}),
        (("none", "lpft"), ("only",), (0,), 5, {"tradeoff", "curves", "clients", "distortion", "depth", "matrices"}),
        ([f"m{i}" for i in range(14)], ("a", "b"), (4,), 0, {"tradeoff", "clients", "distortion", "depth", "matrices"}),
        (
            ("ft",),
            [f"client {i}" for i in range(100)],
            (0,),
            0,
            {"tradeoff", "clients", "distortion", "depth", "matrices"},
        ),
    ],
)
def test_small_and_large(
    tmp_path: Path, methods: list[str], clients: list[str], seeds: list[int], eval_every: int, figures: set[str]
) -> None:
    run = make_run(tmp_path, seeds=seeds, methods=methods, clients=clients, eval_every=eval_every)
    assert {path.stem for path in write_report(run).figures} == figures
    read(run.root / "report.html")


@pytest.mark.filterwarnings("error")
def test_nothing_known_about_accuracy(tmp_path: Path) -> None:
    """No client has test samples."""

    def edit(cell: ClientResult) -> ClientResult:
        unknown = {"local_before": None, "val_before": None, "val_after": None, "distortion_own": None, "epochs": []}
        return replace(cell, accuracy=[None] * len(cell.clients), status="no_test", distortion_all=None, **unknown)

    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft"), clients=("a", "b"), edit=edit)
    write_report(run)
    assert "no_test: a, b" in (run.root / "report.html").read_text(encoding="utf-8")


def test_report_without_any_complete_method(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        return None if cell.client == CLIENTS[0] else cell

    run = make_run(tmp_path, seeds=(0,), edit=edit)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "tradeoff.svg").write_text("old")
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    assert write_report(run).figures == []
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.svg"]
    assert "No method is complete yet" in (run.root / "report.html").read_text(encoding="utf-8")


def test_report_imports_no_lightning_and_tables_no_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft"), clients=("a", "b"))
    code = (
        "import sys; from lpft.reporting.report import write_report, write_tables; from lpft.storage.run import Run;"
        f"write_tables(Run({str(run.root)!r}));"
        "print([name for name in ('torch', 'matplotlib', 'tensorboard') if name in sys.modules]);"
        f"write_report(Run({str(run.root)!r}));"
        "print([name for name in ('torch', 'lightning', 'pytorch_lightning', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_comparison_is_printed_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft"), clients=("a", "b"))
    write_report(run)
    assert capsys.readouterr().out == ""
    write_report(run, show=True)
    assert "Global" in capsys.readouterr().out


def test_another_metric_is_named_instead_of_accuracy(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft"))
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    run.config.write_text(yaml.safe_dump({**config, "evaluation": {"metric": "auroc"}}), encoding="utf-8")
    report = write_report(run)
    for page in (report.page, run.root / "report.md"):
        text = page.read_text(encoding="utf-8")
        assert "AUROC in percent." in text
        assert "Accuracy in percent." not in text
    figure = (run.root / "figures/tradeoff.svg").read_text(encoding="utf-8")
    assert "Local: AUROC on the own test set" in figure
    assert str(comparison_table(report.analysis).caption).startswith("AUROC in percent.")


@pytest.mark.parametrize("metric", ["accuracy", "auroc"])
def test_results_titles_and_captions_name_the_metric(tmp_path: Path, metric: str) -> None:
    """Accuracy is left in what is accuracy with any metric: what is chosen by validation data, names of files."""
    run = make_run(tmp_path, seeds=(0, 1), methods=("none", "ft", "lpft"))
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    run.config.write_text(yaml.safe_dump({**config, "evaluation": {"metric": metric}}), encoding="utf-8")
    analysis = analyze_results(run)
    texts = [f"{drawing.title} {drawing.caption}" for drawing in drawings(analysis).values()]
    joined = " ".join([*texts, sentences.result(analysis.certainty)]).replace("accuracy.csv", "")
    assert ("accuracy" in joined.lower()) == (metric == "accuracy")
    assert ("AUROC matrices" in joined) == ("AUROC over the epochs" in joined) == (metric == "auroc")
    assert "image" not in joined, "inputs may be feature arrays"
