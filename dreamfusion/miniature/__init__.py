"""The small model inside the package and the procedural world it was trained on."""
