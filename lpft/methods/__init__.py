"""How a client personalizes the global model: one method per file, each written for one client."""
