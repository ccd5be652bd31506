"""Experiments: parsed from YAML, the command line or Python to typed objects, and checked."""
