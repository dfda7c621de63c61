"""Meshes that people modelled: reading their formats, making them small, and naming them."""
