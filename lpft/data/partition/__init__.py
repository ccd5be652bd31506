"""From samples to clients: one partition a module; `lpft.data.partition.Dirichlet` and the like are imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "ByColumn": "by_column",
    "ByDomain": "by_domain",
    "Dirichlet": "dirichlet",
    "Iid": "iid",
    "MainClasses": "main_classes",
    "Partition": "base",
    "Pathological": "main_classes",
    "QuantitySkew": "quantity",
    "SpuriousCorrelation": "spurious",
}

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
