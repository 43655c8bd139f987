"""A linter for Triton model repositories, anyone's: `python -m export lint [DIR]`, before any server starts."""
