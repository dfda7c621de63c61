"""How a scene is seen: rays, empty-space skipping, ray marching, compositing, shading."""
