"""The bridge to Flower: clients and server of an experiment as Flower apps, and LP-FT where the data are.

`lpft.flower.client` has the ClientApp, `lpft.flower.server` the ServerApp; both need the extra ``flower``. What they do
is in modules that know nothing of Flower: `node` works with a node's clients, `roster` knows who is where.
"""
