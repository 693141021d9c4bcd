"""The paper's networks (Table 1), built by name."""

from divtrain.models.build import ARCHITECTURES, Architecture, Normalized, build, build_architecture

__all__ = ["ARCHITECTURES", "Architecture", "Normalized", "build", "build_architecture"]
