"""The configuration of a run: its keys (schema), what changing a key means (roles), and how it is read (parse)."""

from dist_rmd.config.parse import help_text, parse, read_yaml, repeated, to_yaml
from dist_rmd.config.roles import Change, Leaf, Role, determinants, differences, leaf, leaves, stated
from dist_rmd.config.schema import (
    Augment,
    Checkpoint,
    Config,
    Data,
    Distributed,
    EncoderName,
    Fraction,
    LabelledOptimization,
    Log,
    Model,
    Noise,
    Optimization,
    Run,
    Schedule,
    Speed,
    StageConfig,
    Weights,
    Width,
    to_dict,
)

__all__ = [
    "Augment", "Change", "Checkpoint", "Config", "Data", "Distributed", "EncoderName", "Fraction",
    "LabelledOptimization", "Leaf", "Log", "Model", "Noise", "Optimization", "Role", "Run", "Schedule", "Speed",
    "StageConfig", "Weights", "Width", "determinants", "differences", "help_text", "leaf", "leaves", "parse",
    "read_yaml", "repeated", "stated", "to_dict", "to_yaml",
]  # fmt: skip
