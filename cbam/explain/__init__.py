"""Explaining a network: the cut into trunk and head, CAM methods, and the engine over both."""
