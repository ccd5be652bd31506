"""The files of a run, and what is in them."""
