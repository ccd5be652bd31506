"""Personalize a federated model for every client without forgetting the rest of the world."""

__version__ = "0.1.0"
