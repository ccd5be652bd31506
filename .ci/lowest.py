"""Print the lowest versions that pyproject.toml allows, as pip takes them, but for packages that take long to load."""

import re
from pathlib import Path

HEAVY = ("lightning", "torch", "torchvision", "torchmetrics", "tensorboard", "scipy", "scikit-learn", "matplotlib")

project = Path(__file__).parents[1] / "pyproject.toml"
dependencies = re.search(r"^dependencies = \[(.*?)^\]", project.read_text(encoding="utf-8"), re.M | re.S)
assert dependencies
for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)', dependencies[1]):
    if name not in HEAVY:
        print(f"{name}=={version}")
print("pytz")  # pandas needs it before 3.0
