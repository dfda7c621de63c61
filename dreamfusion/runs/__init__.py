"""One run is one directory: manifest, metrics, previews, checkpoints, finding it again, resuming it. No tensors here."""
