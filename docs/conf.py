"""The documentation as a site that loads nothing from the network: ``sphinx-build -W docs build/site``."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import pkgutil
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lpft import __version__
from lpft.arguments import ARGUMENTS
from lpft.cli import COMMANDS, main

project = "lpft"
author = "the authors of lpft"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

default_role = "py:obj"  # docstrings name code in single backticks: a link where there is something to link to
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("State", "OptimizerCallable", "NetFactory", "Loss", "Draw", "Images")}
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Columns", "params_style")]

html_theme = "furo"
html_title = f"lpft {__version__}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
exclude_patterns = ["Thumbs.db", ".DS_Store"]

EXPERIMENTS = [command for command in COMMANDS if command not in ARGUMENTS]
"""Commands that read an experiment: they share their settings, which are shown for the first of them."""
Entry = tuple[str, str, str]
"""Group, option and description of a setting."""


class CommandReference(SphinxDirective):
    """What every command says with ``--help``, a section for each."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        shared = {entry[1:] for entry in _entries(_help("run"))}
        return [self._section(command, shared if command in EXPERIMENTS[1:] else set()) for command in COMMANDS]

    def _section(self, command: str, shared: set[tuple[str, str]]) -> nodes.section:
        text = _help(command)
        section = nodes.section(ids=[f"lpft-{command}"], names=[f"lpft {command}"])
        section += nodes.title(text=f"lpft {command}")
        section += nodes.paragraph(text=_description(text))
        entries = [entry for entry in _entries(text) if entry[1:] not in shared and entry[0] != _PROVENANCE]
        if shared:
            section += nodes.paragraph(text=f"All settings of lpft run{', and:' if entries else '.'}")
        elif command not in EXPERIMENTS:
            section += nodes.literal_block(text=" ".join(text.split("\n\n")[0].removeprefix("usage: ").split()))
        group, table = "options", nodes.definition_list()
        for title, option, description in entries:
            if title != group:
                section += table
                section += nodes.rubric(text=title[0].upper() + title[1:])
                group, table = title, nodes.definition_list()
            term = nodes.term("", "", nodes.literal(text=option))
            table += nodes.definition_list_item("", term, nodes.definition("", *_marked(description)))
        section += table
        return section


_PROVENANCE = "written to a run's config.yaml; not a setting"


def _help(command: str) -> str:
    out, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            main([command, "--help"])
    except SystemExit:
        return out.getvalue().replace(" \b", "")
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _description(text: str) -> str:
    return " ".join(text.split("\n\n")[1].split())


def _entries(text: str) -> Iterator[Entry]:
    """Read the settings out of the help of argparse."""
    for group in re.split(r"\n\n(?=\S[^\n]*:\n)", text)[1:]:
        title, _, body = group.partition(":\n")
        for entry in re.findall(r"^  (\S.*(?:\n {4,}.*)*)", body, re.MULTILINE):
            option, description = re.match(r"(.*?)(?:\s{2,}|\n\s+|$)((?:.|\n)*)", entry).groups()
            yield title, option, re.sub(r", known subclasses: [^)]*", "", " ".join(description.split()))


def _marked(text: str) -> list[nodes.Node]:
    """Return a paragraph in which what stands in backticks is code."""
    parts = re.split(r"(`+[^`]+`+)", text)
    marked = [nodes.literal(text=part.strip("`")) if part.startswith("`") else nodes.Text(part) for part in parts]
    return [nodes.paragraph("", "", *marked)]


class Classes(SphinxDirective):
    """The public classes of a package that are derived from a class, with their settings."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Return what autodoc makes of them."""
        package = importlib.import_module(self.arguments[0])
        module, _, name = self.arguments[1].rpartition(".")
        base = getattr(importlib.import_module(module), name)
        lines = [f".. autoclass:: {path}\n   :no-members:\n" for path in sorted(_subclasses(package, base))]
        if not lines:
            raise self.error(f"there are no classes derived from {self.arguments[1]} in {self.arguments[0]}")
        holder = nodes.container()
        self.state.nested_parse(StringList("\n".join(lines).splitlines(), "classes"), 0, holder)
        return holder.children


def _subclasses(package: ModuleType, base: type) -> Iterator[str]:
    """Yield how YAML names the concrete classes: by the package where it exports them, otherwise by their module."""
    inner = pkgutil.walk_packages(getattr(package, "__path__", []), f"{package.__name__}.")
    exported = {getattr(package, name): f"{package.__name__}.{name}" for name in getattr(package, "__all__", [])}
    for module in [package, *(importlib.import_module(found.name) for found in inner)]:
        for kind in vars(module).values():
            is_derived = inspect.isclass(kind) and issubclass(kind, base) and kind is not base
            if is_derived and kind.__module__ == module.__name__ and not inspect.isabstract(kind):
                path = exported.get(kind, "" if exported else f"{module.__name__}.{kind.__name__}")
                if path:
                    yield path


def keep_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from reading what stands before a colon in the first line of an attribute as its type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = f": {lines[0]}"


def named_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write aliases by their names within other types, too."""
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in (signature, returns))


def add_cells(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the cells of the notebook, but for its title, at the end of the page about it."""
    if page == "notebook":
        notebook = json.loads((Path(app.srcdir).parent / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
        texts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
        source[0] += "\n" + re.sub(r"^# .*\n", "", "\n\n".join(texts))


def setup(app: Sphinx) -> None:
    """Add the directives and the hooks."""
    app.add_directive("command-reference", CommandReference)
    app.add_directive("classes", Classes)
    app.connect("source-read", add_cells)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-process-signature", named_types)
