"""Sources of samples: one per module, imported on use."""

from __future__ import annotations

from lpft.data.lazy import lazy_names

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
    "FeatureArrays": "feature_arrays",
    "Sites": "sites",
    "SklearnTable": "sklearn_tables",
    "Source": "base",
    "TeacherStudent": "teacher_student",
}

__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
