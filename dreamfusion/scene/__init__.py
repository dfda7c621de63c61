"""What is optimised: a field of density and colour, its start, its normals, and the background behind it."""
