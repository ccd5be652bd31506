"""Train the global model: FedAvg over simulated clients."""
