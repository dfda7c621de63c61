"""The loop that joins a scene, its renderer and a guidance: randomness, losses, optimiser, watchdog, previews."""
