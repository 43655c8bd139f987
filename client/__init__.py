"""The command line of the client: `python -m client <task> IMAGE…`, and `python -m client.demo`."""
