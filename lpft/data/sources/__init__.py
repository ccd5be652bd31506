"""Where samples come from: one source a module; `lpft.data.sources.Digits` and the like are imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "Arrays": "arrays",
    "AttributeTable": "attributes",
    "CelebA": "celeba",
    "CheXpert": "chexpert",
    "CifarC": "cifar_c",
    "Digit5": "digit5",
    "Digits": "digits",
    "Domains": "domains",
    "DomainNet": "domains",
    "Sites": "sites",
    "Source": "base",
    "TeacherStudent": "teacher_student",
}

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
