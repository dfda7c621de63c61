"""How the miniature is trained: tokenizer, autoencoder, small CLIP, diffusion model, sample sheets, export."""
