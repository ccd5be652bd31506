"""The experiment: from YAML, command line or Python to typed objects, and the checks across its sections."""
