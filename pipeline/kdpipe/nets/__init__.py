"""Torch blocks that two families of networks share."""
