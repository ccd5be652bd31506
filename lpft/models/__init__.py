"""Networks made of a body (feature extractor) and a head (last linear layer)."""
