"""Layers whose gradients are cheap to differentiate again, put in the place of torch's."""

from divtrain.double_backward._torch import uncompiled
from divtrain.double_backward.mode import FastDoubleBackward
from divtrain.double_backward.twice import differentiated_twice

__all__ = ["FastDoubleBackward", "differentiated_twice", "uncompiled"]
