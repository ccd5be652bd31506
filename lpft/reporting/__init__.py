"""Cells in; tables, figures, TensorBoard events and a page out. Nothing here imports lightning."""
