"""Clients and their samples."""
