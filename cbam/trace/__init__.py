"""A network as a graph: cut into trunk and head, and rewritten to run in fewer passes."""
