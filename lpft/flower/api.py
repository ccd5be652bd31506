"""The parts of Flower that lpft uses; no other module imports Flower."""

try:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "flwr":
        raise
    raise ModuleNotFoundError(
        "lpft's Flower apps need Flower, which is not installed or too old. HINT: pip install 'lpft[flower]'"
        " (Python 3.11 or newer)."
    ) from error

__all__ = [
    "NODE_UNAVAILABLE",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Grid",
    "Message",
    "MetricRecord",
    "RecordDict",
    "ServerApp",
]

NODE_UNAVAILABLE = 5
"""Code of Flower's error for a node that has disconnected; its name in Flower is not public."""
