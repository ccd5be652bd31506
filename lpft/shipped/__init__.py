"""What the package brings along to start from: experiments, their sections, scripts for Slurm."""
