"""Shipped experiments, their sections, and scripts for Slurm."""
