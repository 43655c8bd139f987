"""Programs that train, evaluate and describe the networks: `python -m training <task>`."""
