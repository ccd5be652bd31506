"""Algorithms of federated training other than FedAvg, for ``federation.algorithm``."""

from lpft.federated.algorithms.base import Algorithm
from lpft.federated.algorithms.ditto import Ditto
from lpft.federated.algorithms.fedbn import FedBN
from lpft.federated.algorithms.fedprox import FedProx
from lpft.federated.algorithms.fedrep import FedRep
from lpft.federated.algorithms.scaffold import Scaffold

__all__ = ["Algorithm", "Ditto", "FedBN", "FedProx", "FedRep", "Scaffold"]
