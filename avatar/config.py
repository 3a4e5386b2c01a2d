"""Settings of a fit: dataclasses are the only home of a default, TOML presets hold only differences.

`load_preset("quick")` returns the defaults with the preset's differences applied; an unknown key or a value of the
wrong type or out of range (`LIMITS`) is an error that names the key and what would be allowed.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from avatar.conventions import BRANCHES
from avatar.errors import UserError, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - same parser under its older name
    import tomli as tomllib

T = TypeVar("T")
MotionField = Literal["basis", "hashgrid"]


@dataclass(frozen=True)
class BranchConfig:
    """One set of Gaussians."""

    gaussians: int
    """Budget: how many Gaussians the branch may grow to."""
    bases: int
    """K, the number of motion bases; a `hashgrid` is fitted without and baked to as many."""


@dataclass(frozen=True)
class ModelConfig:
    """What the avatar is made of."""

    face: BranchConfig = BranchConfig(gaussians=9000, bases=20)
    mouth: BranchConfig = BranchConfig(gaussians=1000, bases=8)
    torso: BranchConfig = BranchConfig(gaussians=4000, bases=6)
    motion: MotionField = "basis"
    """How Gaussians move: basis (linear bases, weighted by the driver) or hashgrid (a function of place and driver, as
    in TalkingGaussian, slower to fit; the finished avatar has bases all the same)."""
    driver_hidden: int = 32
    """Width of the MLP from driver to basis weights."""
    start_fraction: float = 0.7
    """Share of the budget that is placed before training; the rest grows where the picture needs it."""
    geometric_prior: bool = True
    """Start the face's position bases from how landmarks move with each coefficient; a hashgrid starts at rest."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; images are 0..1."""

    dssim: float = 0.2
    """Share of D-SSIM against L1, as in 3DGS (Kerbl et al. 2023, eq. 7)."""
    mouth_weight: float = 3.0
    """How much more a pixel inside and around the mouth counts than one elsewhere."""
    labels: float = 0.1
    """Each branch covers its own region."""
    opacity: float = 0.002
    """Mean opacity, so that unused Gaussians fade and can be relocated (3DGS-MCMC, Kheradmand et al. 2024)."""
    scale: float = 0.002
    """Mean standard deviation in cm, for the same reason."""
    corrections: float = 1.0
    """Mean square of the per-frame corrections over their expected size."""


@dataclass(frozen=True)
class RateConfig:
    """Adam's learning rates at the start; they decay exponentially to `final_fraction` of it."""

    means: float = 6e-3
    """cm per step."""
    quats: float = 2e-3
    log_scales: float = 8e-3
    opacity_logits: float = 3e-2
    colors: float = 6e-3
    skin_logits: float = 1e-2
    bases: float = 1e-2
    """In units of model.gaussians.BASIS_UNITS."""
    basis_decay: float = 0.02
    """Decoupled weight decay of the bases (AdamW, Loshchilov and Hutter 2019): motion that nothing asks for fades."""
    drivers: float = 2e-3
    driver_decay: float = 1.0
    """The same of what makes the face's basis weights: its motion has many causes that a clip hardly tells apart."""
    hash_tables: float = 4e-2
    """Of the `hashgrid`'s encoding."""
    hash_layers: float = 1.2e-2
    """Of its MLPs. Half of these two cost 0.3 dB after 800 steps, a sixth and a quarter 0.6 dB."""
    backdrop: float = 2e-3
    corrections: float = 1e-3
    final_fraction: float = 0.05


@dataclass(frozen=True)
class DensityConfig:
    """Growth to the budget and relocation of unused Gaussians (after 3DGS-MCMC)."""

    every: int = 100
    growth: float = 1.1
    """Largest factor by which a branch grows at once."""
    dead_opacity: float = 0.02
    """Gaussians below this opacity are moved to where the picture needs them."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how the model is fitted."""

    steps: int = 2500
    batch: int = 1
    seed: int = 0
    codes_hidden: float = 0.5
    """Share of the steps without the frames' appearance codes, so that motion without them is learned too."""
    left_out: float = 0.05
    """Share of the Gaussians that each step draws without, see model.thinning."""
    losses: LossConfig = field(default_factory=LossConfig)
    rates: RateConfig = field(default_factory=RateConfig)
    density: DensityConfig = field(default_factory=DensityConfig)
    checkpoint_every: int = 500
    score_every: int = 250
    """Steps between scores of a few held-out frames (progress bar, TensorBoard, report)."""


@dataclass(frozen=True)
class SpeechConfig:
    """The audio-to-expression model of this person."""

    enabled: bool = True
    steps: int | None = None
    """Training steps; None goes by the length of the clip."""
    encoder: str = ""
    """Folder of a speech encoder (HuBERT, wav2vec 2.0 or WavLM, see speech.encoder) from which a second model of the
    person is learned, for where it is at hand; empty does without."""


@dataclass(frozen=True)
class FitConfig:
    """Everything a fit can be told."""

    size: int | None = None
    """Side of the avatar's frame in pixels; None keeps the clip's own up to 512."""
    device: str = "auto"
    """auto, cpu or cuda."""
    rasterizer: str = "auto"
    """auto (native code for the device), native, reference (the PyTorch twin, slow) or gsplat (needs it and a GPU)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)


STEPS = (1, 10_000_000)
WEIGHT = (0.0, 1000.0)
LIMITS: dict[str, tuple[float, float]] = {
    "size": (64, 4096),
    **{f"model.{name}.gaussians": (1, 1_000_000) for name in BRANCHES},
    **{f"model.{name}.bases": (1, 256) for name in BRANCHES},
    "model.driver_hidden": (1, 4096),
    "model.start_fraction": (0.001, 1.0),
    **{f"train.losses.{f.name}": WEIGHT for f in dataclasses.fields(LossConfig)},
    "train.losses.dssim": (0.0, 1.0),
    "train.losses.mouth_weight": (0.01, 1000.0),
    **{f"train.rates.{f.name}": (0.0, 1.0) for f in dataclasses.fields(RateConfig)},
    "train.rates.basis_decay": (0.0, 100.0),
    "train.rates.driver_decay": (0.0, 100.0),
    "train.rates.final_fraction": (1e-6, 1.0),
    "train.density.every": STEPS,
    "train.density.growth": (1.0, 100.0),
    "train.density.dead_opacity": (0.0, 1.0),
    "train.steps": STEPS,
    "train.batch": (1, 1024),
    "train.seed": (0, 2**32 - 1),
    "train.codes_hidden": (0.0, 1.0),
    "train.left_out": (0.0, 0.5),
    "train.checkpoint_every": STEPS,
    "train.score_every": STEPS,
    "speech.steps": STEPS,
}
"""Lowest and highest value of every setting that is a number."""


def config_folder() -> Path:
    """Where the presets live: beside the package in a checkout, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def preset_names() -> list[str]:
    """The presets that can be named on the command line."""
    return sorted(p.stem for p in config_folder().glob("*.toml"))


def load_preset(name: str | Path) -> FitConfig:
    """The settings of a preset by name, or of any TOML file by path.

    Raises:
        UserError: no such preset; not TOML; unknown key; wrong type; out of range.
    """
    path = Path(name) if str(name).endswith(".toml") else config_folder() / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"There is no preset '{name}'; choose one of {', '.join(preset_names())} or a .toml file.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"The preset {path} is not valid TOML: {one_line(error)}.") from None
    return with_changes(FitConfig(), values, where=str(path))


def checked(config: Any) -> FitConfig:
    """The settings, each of the type and in the range that a preset's would have to be.

    Raises:
        UserError: one that is not, or something else than settings.
    """
    if not isinstance(config, FitConfig):
        raise UserError(f"Settings are a FitConfig, such as load_preset gives, not {config!r}.")
    return with_changes(FitConfig(), dataclasses.asdict(config), "settings")


def with_changes(config: T, values: dict[str, Any], where: str, prefix: str = "") -> T:
    """A copy of the dataclass with nested `values` applied.

    Raises:
        UserError: a key that the settings do not have, or a value of another type than the default's or out of range.
    """
    known = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: unknown setting '{prefix}{key}'; known here: {', '.join(sorted(known))}.")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise UserError(f"{where}: '{prefix}{key}' is a group of settings, not a single value.")
            changes[key] = with_changes(current, value, where, f"{prefix}{key}.")
        else:
            changes[key] = _typed(value, hints[key], f"{where}: '{prefix}{key}'")
            check_range(prefix + key, changes[key], f"{where}: '{prefix}{key}'")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def check_range(key: str, value: Any, name: str) -> None:
    """Holds a setting's value (None passes) against `LIMITS`.

    Args:
        name: what the setting is called where the value comes from.
    Raises:
        UserError: it is out of range.
    """
    if key not in LIMITS or value is None:
        return
    low, high = LIMITS[key]
    if not low <= value <= high:  # what is not a number fails here too
        raise UserError(f"{name} must be from {low} to {high}, not {value}.")


def _typed(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise UserError(f"{where} must be {' or '.join(get_args(hint))}, not {value!r}.")
    allowed = getattr(hint, "__args__", (hint,))
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    for kind in allowed:
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    names = " or ".join(getattr(k, "__name__", str(k)) for k in allowed)
    raise UserError(f"{where} must be {names}, not {value!r}.")
