"""Pictures with known cameras: readers for the layouts in use, undistortion, and where the scene's ball lies among them."""
