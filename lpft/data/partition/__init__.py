"""Partitions of samples into clients: one per module, imported on use."""

from __future__ import annotations

from lpft.data.lazy import lazy_names

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
__getattr__ = lazy_names(__name__, MODULES)
