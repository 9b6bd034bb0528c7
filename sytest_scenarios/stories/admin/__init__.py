"""What those who run the server can do, and nobody else."""
