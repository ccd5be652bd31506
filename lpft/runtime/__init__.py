"""Devices, processes, signals, seeds: what work runs on."""
