"""Stage 5a: the avatar's model, its composite and its file."""

from avatar.model.avatar import Avatar
from avatar.model.bake import baked
from avatar.model.cavity import add_prior
from avatar.model.compose import Composite, compose, to_bytes
from avatar.model.file import SUFFIX, Metadata
from avatar.model.gaussians import Branch, GaussianBatch
from avatar.model.initialise import initial_model
from avatar.model.lining import add_lining
from avatar.model.model import AvatarModel
from avatar.model.own_motion import own_motion

__all__ = [
    "SUFFIX",
    "Avatar",
    "AvatarModel",
    "Branch",
    "Composite",
    "GaussianBatch",
    "Metadata",
    "add_lining",
    "add_prior",
    "baked",
    "compose",
    "initial_model",
    "own_motion",
    "to_bytes",
]
