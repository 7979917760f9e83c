"""NetAdapt: a trained network adapted step by step to a resource that is measured. Yang et al., arXiv 1804.03230.

`adapt(model, Journal(folder, Settings(budget=0.6, iterations=13), facts, resume), Calls(resource, finetune, finish, evaluate))`:
what the resource is and how a network is trained comes from outside.
"""

from frenzy.compress.netadapt.adapt import FINAL, Calls, Journal, adapt
from frenzy.compress.netadapt.architecture import load, read_architecture, save, write_architecture
from frenzy.compress.netadapt.channels import Candidate, Channels, Group, Layer
from frenzy.compress.netadapt.resources import multiply_accumulates, parameters
from frenzy.compress.netadapt.schedule import RANKS, Settings, planned

__all__ = [
    "FINAL", "RANKS", "Calls", "Candidate", "Channels", "Group", "Journal", "Layer", "Settings", "adapt", "load",
    "multiply_accumulates", "parameters", "planned", "read_architecture", "save", "write_architecture",
]  # fmt: skip
