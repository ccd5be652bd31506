"""Federated training and personalization with Flower, on the machines that hold the data.

`lpft.flower.client` contains the ClientApp, `lpft.flower.server` the ServerApp; both need the extra ``flower``. `node`
(the work of a node) and `roster` (the clients of all nodes) do not depend on Flower.
"""
