"""The code that the pages of the documentation show, and what is not run of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "python3 -m venv": "installs packages; .ci/run does it",
    ".venv/bin/": "is in that environment; .ci/run does it",
    "source .venv/bin/activate": "concerns the reader's shell",
    "pip install": "installs packages; tests/test_wheel.py does it",
    "lpft completion": "writes into the reader's home; tests/test_wheel.py has a shell complete words",
    "mkdir -p ~/": "goes with it",
    "echo 'fpath": "goes with it",
    "tensorboard": "serves pages until it is ended",
    "git clone": "there is no address to clone from",
    "cd lpft": "goes with it",
    "cp slurm/examples/gpu.sh": "settings of a cluster; tests/slurm submits with such",
    "export": "settings of a cluster; tests/slurm submits with such",
    "srun": "needs Slurm; tests/slurm runs it",
    "flwr run": "needs Flower; tests/flower runs it",
    "flower-super": "goes with it",
    "python -m lpft.flower": "goes with it",
    "lpft export /data/models": "needs a node's models; tests/flower does it",
    "lpft predict north_model": "goes with it",
    "slurm/submit.sh": "needs Slurm; tests/slurm runs it",
    "lpft status /scratch": "needs Slurm; tests/slurm runs it",
    "python benchmarks/coverage.py": "takes a minute; tests/evaluation/test_certainty.py simulates a part of it",
    "lpft prepare -c wards.yaml": "needs tables; tests/test_docs.py runs it",
    "lpft run -c wards.yaml": "goes with it",
    "lpft export runs/wards": "goes with it",
    "lpft predict north new_patients.csv": "goes with it",
    "lpft predict models/north new_patients.csv": "needs tables; tests/test_feature_export.py predicts such",
    "lpft run -c configs/digits.yaml -c digits_logged.yaml": "needs MLflow and Weights & Biases;"
    " tests/reporting/test_loggers_elsewhere.py has them where they are installed",
    "lpft run -c configs/digits.yaml --loggers mlflow.yaml": "goes with it",
    "lpft report runs/digits --loggers digits_logged.yaml": "goes with it",
    "lpft report runs/digits --loggers MLFlowLogger": "goes with it",
    "lpft run -c configs/digit5_small.yaml": "needs images that are not in the checkout; its command line is parsed",
    "lpft run -c configs/pacs_mobilenet.yaml": "needs images that are not in the checkout; its command line is parsed",
    "lpft run -c configs/experiments/g1_global_model.yaml": "takes long; tests/test_shipped.py runs it, if asked to",
    "lpft run -c configs/experiments/e2_lp_duration.yaml --data": "is another line on other data; it is parsed",
}
"""How commands begin that are not run, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: the file.
        line: the first line of its content, from 1.
        language: what stands behind the fence.
        text: the content.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it shows, if its first line is a comment with it."""
        named = re.match(r"# (\w+\.(?:py|yaml))\n", self.text)
        return named[1] if named else None

    def commands(self) -> list[str]:
        """Return the commands of a shell block: one a line, or several joined by ``&&``."""
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in re.sub(r"\\\n\s*", "", self.text).splitlines())
        return [command for line in lines for command in line.split(" && ") if command]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page, in order; of some languages only, if there are any."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(page, text[: match.start(2)].count("\n") + 1, match[1], match[2]) for match in found]
    return [block for block in every if not languages or block.language in languages]


def reason(command: str) -> str | None:
    """Return why a command is not run, or None if it is."""
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)
