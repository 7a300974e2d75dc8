"""The outermost layer: connections, deadlines, headers, keys and rates."""
