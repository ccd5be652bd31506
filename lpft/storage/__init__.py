"""The files of a run: their paths, formats and checks."""
