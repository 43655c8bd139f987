"""Programs that turn trained networks into the graphs their tasks declare: `python -m export <task>`."""
