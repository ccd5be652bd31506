"""The linear model in which fine-tuning and LP-FT can be compared in closed form."""
