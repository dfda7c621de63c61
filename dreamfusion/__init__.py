"""Text to 3D by score distillation: a prompt becomes a mesh and a video, on any machine.

No torch here: `dreamfusion --help` has to answer at once. Import what you need from its own floor, e.g.
`from dreamfusion.training.trainer import Trainer`.
"""

__version__ = "0.1.0"
