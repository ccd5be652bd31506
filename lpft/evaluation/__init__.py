"""Evaluation of personalized models on the data of all clients, and statistics of the results."""
