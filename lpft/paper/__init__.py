"""The reproduction of arXiv:2511.12695: verdicts on its claims, its Table 2, and the settings it does not state."""
