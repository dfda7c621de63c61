"""What a user takes away: the mesh, its files, the turntable, pictures."""
