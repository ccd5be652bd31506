"""How good the personalized models are, at home and elsewhere."""
