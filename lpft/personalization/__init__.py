"""Fine-tune the global model for every client."""
