"""What pulls a scene towards a text: noise schedule, score distillation, view-dependent prompts, frozen models.

The only room, beside the miniature's, that imports diffusers and transformers. Nothing is imported here, so that
`dreamfusion.guidance.models` (is the model there?) answers without loading torch.
"""
