"""Measuring models: how often they are right, and whether they look at the object."""
