"""Reports: tables, figures, TensorBoard events and a page, from client results. Nothing here imports lightning."""
