"""What belongs to arXiv:2511.12695 alone: verdicts on its claims, its Table 2, and the settings it does not give."""
