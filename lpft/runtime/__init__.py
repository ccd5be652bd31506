"""Devices, processes, signals, progress and seeds."""
