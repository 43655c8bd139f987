"""Fovea: medical-imaging networks, from training to a served, measured, explained answer."""
