"""The one module that touches the CUDA kernels: ``_raster_cuda``, a plain C library loaded with ctypes.

No PyTorch header is involved, so one library serves every torch version; it is built by nvcc alone where one is found.
All memory is torch's, all work goes to torch's current stream, and nothing waits for the device, except for one number
per backward pass when `torch.use_deterministic_algorithms(True)` asks for the same bits every time.

Tests run the very same functions on CPU tensors with the library compiled for the host (cuda_ext/cuda/emulation).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from avatar.errors import one_line

NAME = "_raster_cuda"
NO_DEVICE = "PyTorch sees no CUDA device"
MAX_BRANCHES = 4
MAX_LAYERS = 16
ATTRIBUTES = 14
ATTRIBUTE_STRIDE = 16
POSE_SUMS = 28
SUMS = 16
FRAMES_TOGETHER = 8
PER_BRANCH = ("means", "quats", "log_scales", "opacity_logits", "colors", "skin", "bases", "weights")

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int32


class _Branch(ctypes.Structure):
    _fields_ = [(name, _Pointer) for name in PER_BRANCH] + [
        (name, _Int) for name in ("count", "basis_count", "first", "unused")
    ]


class _Scene(ctypes.Structure):
    _fields_ = [
        ("branches", _Branch * MAX_BRANCHES),
        *((name, _Pointer) for name in ("poses", "intrinsics", "background", "layers")),
        ("units", ctypes.c_float * ATTRIBUTES),
        *(
            (name, _Int)
            for name in (
                "branch_count", "batch", "splats", "width", "height", "colors", "coverage", "per_frame",
                "skin_is_logit", "half_bases",
            )
        ),
    ]  # fmt: skip


class _Buffers(ctypes.Structure):
    _fields_ = [
        *(
            (name, _Pointer)
            for name in (
                "attributes", "records", "boxes", "keys", "keys_sorted", "indices", "order", "masks", "temporary",
            )
        ),
        ("temporary_bytes", ctypes.c_int64),
        ("image", _Pointer),
        ("alpha", _Pointer),
    ]  # fmt: skip


class _Gradients(ctypes.Structure):
    _fields_ = [
        *(
            (name, _Pointer)
            for name in (
                "v_image", "v_alpha", "sums", "v_attributes", "v_mean2d", "pose_partials", "weight_partials",
                "slot_start", "partials",
            )
        ),
        *((name, _Pointer * MAX_BRANCHES) for name in PER_BRANCH),
        *((name, _Pointer) for name in ("poses", "intrinsics", "background", "sink")),
    ]  # fmt: skip


class _Loss(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("image", "target", "weights")),
        *((name, _Int) for name in ("batch", "height", "width", "channels")),
        *((name, _Pointer) for name in ("maps", "partials", "out", "v_ssim_image")),
    ]


class _Sh(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("sh", "means", "skin", "poses")),
        *((name, _Int) for name in ("batch", "splats", "terms", "channels")),
        *((name, _Pointer) for name in ("colors", "v_colors", "v_skin_frames", "pose_partials")),
        *((name, _Pointer) for name in ("v_sh", "v_means", "v_skin", "v_poses")),
    ]


class Library:
    """The compiled kernels: for the GPU, or (in tests) for the host.

    Raises:
        OSError: it cannot be loaded.
        ImportError: it was built from other sources than this file.
    """

    def __init__(self, path: Path) -> None:
        self.handle = ctypes.CDLL(str(path))
        for name in ("avatar_sort_bytes", "avatar_mask_words"):
            getattr(self.handle, name).restype = ctypes.c_int64
        for name in ("avatar_error", "avatar_layout"):
            getattr(self.handle, name).restype = ctypes.c_char_p
        sizes = " ".join(str(ctypes.sizeof(s)) for s in (_Branch, _Scene, _Buffers, _Gradients, _Loss, _Sh))
        if self.handle.avatar_layout().decode() != sizes:
            raise ImportError(f"{path.name} was built from another version of the sources; install the package again")

    def call(self, name: str, like: Tensor, *arguments) -> None:
        """Runs a function on the device and current stream of `like`."""
        if like.is_cuda:
            with torch.cuda.device(like.device):
                stream = torch.cuda.current_stream(like.device).cuda_stream
                code = getattr(self.handle, name)(*arguments, ctypes.c_void_p(stream))
        else:
            code = getattr(self.handle, name)(*arguments, None)
        if code:
            raise RuntimeError(f"{name} failed: {self.handle.avatar_error(code).decode()} (CUDA error {code}).")

    def number(self, name: str, *arguments: int) -> int:
        return int(getattr(self.handle, name)(*arguments))


@functools.lru_cache(maxsize=1)
def _load() -> tuple[Library | None, str]:
    """The kernels, or None and why they cannot be used."""
    path = library_path()
    if path is None:
        return None, "not built: nvcc was not found when the package was installed"
    try:
        return Library(path), ""
    except (OSError, ImportError, AttributeError) as error:
        return None, one_line(error)


def library_path() -> Path | None:
    """The library beside the CPU extension (an editable install keeps both apart from the sources), or None."""
    spec = importlib.util.find_spec("avatar._raster")
    folders = [Path(__file__).parents[1]]
    if spec is not None and spec.origin is not None:
        folders.insert(0, Path(spec.origin).parent)
    return next((path for folder in folders if (path := folder / f"{NAME}.so").is_file()), None)


def unavailable() -> str:
    """Why the kernels cannot run here, or an empty string when they can."""
    why = _load()[1]
    return why or ("" if torch.cuda.is_available() else NO_DEVICE)


def library() -> Library:
    """The kernels for the GPU; call only where `unavailable()` is empty."""
    found, why = _load()
    if found is None:
        raise RuntimeError(f"The CUDA rasterizer is not available ({why}).")
    return found


# ------------------------------------------------------------------------------------------------ scenes


@dataclass(frozen=True)
class Scene:
    """What the kernels draw. Tensors are contiguous float32 on one device and stay referenced while they work."""

    branches: tuple[tuple[Tensor, ...], ...]
    """Per branch, in the order of PER_BRANCH; without bases and weights when the Gaussians come frame by frame."""
    poses: Tensor
    intrinsics: Tensor
    background: Tensor | None
    layers: Tensor | None
    units: tuple[float, ...]
    width: int
    height: int
    coverage: int

    @property
    def per_frame(self) -> bool:
        return len(self.branches[0]) == 6

    @property
    def counts(self) -> list[int]:
        return [b[0].shape[-2] for b in self.branches]

    @property
    def batch(self) -> int:
        return self.poses.shape[0]

    @property
    def splats(self) -> int:
        return sum(self.counts)

    @property
    def colors(self) -> int:
        return self.branches[0][4].shape[-1]

    @property
    def channels(self) -> int:
        return self.colors + self.coverage

    def as_struct(self) -> _Scene:
        scene = _Scene()
        first = 0
        for i, (tensors, count) in enumerate(zip(self.branches, self.counts, strict=True)):
            branch = scene.branches[i]
            for name, tensor in zip(PER_BRANCH, tensors, strict=False):
                setattr(branch, name, tensor.data_ptr())
            branch.count, branch.first = count, first
            branch.basis_count = 0 if self.per_frame else tensors[6].shape[0]
            first += count
        scene.poses, scene.intrinsics = self.poses.data_ptr(), self.intrinsics.data_ptr()
        scene.background, scene.layers = _address(self.background), _address(self.layers)
        scene.units[:] = self.units
        scene.branch_count, scene.batch, scene.splats = len(self.branches), self.batch, self.splats
        scene.width, scene.height = self.width, self.height
        scene.colors, scene.coverage = self.colors, self.coverage
        scene.per_frame, scene.skin_is_logit = int(self.per_frame), int(not self.per_frame)
        scene.half_bases = int(not self.per_frame and self.branches[0][6].dtype == torch.float16)
        return scene


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _State:
    """The buffer that forward leaves for backward: one int32 tensor, cut into its parts."""

    def __init__(self, scene: Scene, kernels: Library, keep_attributes: bool, buffer: Tensor | None = None) -> None:
        items = scene.batch * scene.splats
        stride = kernels.number("avatar_record_stride", scene.channels)
        masks = kernels.number("avatar_mask_words", scene.batch, scene.splats, scene.width, scene.height)
        sizes = (items * stride, items * 2, items, masks, items * ATTRIBUTE_STRIDE if keep_attributes else 0)
        if buffer is None:
            buffer = torch.empty(sum(sizes), dtype=torch.int32, device=scene.poses.device)
        self.buffer = buffer
        self.records, self.boxes, self.order, self.masks, self.attributes = buffer.split(sizes)

    def into(self, buffers: _Buffers) -> None:
        for name in ("records", "boxes", "order", "masks"):
            setattr(buffers, name, getattr(self, name).data_ptr())
        buffers.attributes = self.attributes.data_ptr() if self.attributes.numel() else None


def draw(kernels: Library, scene: Scene, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, H, W, C) over the background, alpha (B, H, W), and the buffer for `draw_backward`.

    `keep`: backward will follow.
    """
    device, items = scene.poses.device, scene.batch * scene.splats
    image = torch.empty(scene.batch, scene.height, scene.width, scene.channels, device=device)
    alpha = torch.empty(scene.batch, scene.height, scene.width, device=device)
    state = _State(scene, kernels, keep and not scene.per_frame)
    sort_bytes = kernels.number("avatar_sort_bytes", scene.batch, scene.splats)
    temporary = torch.empty(sort_bytes, dtype=torch.uint8, device=device)
    keys = torch.empty(2, items, dtype=torch.int64, device=device)
    indices = torch.empty(items, dtype=torch.int32, device=device)
    buffers = _Buffers()
    state.into(buffers)
    buffers.keys, buffers.keys_sorted = keys[0].data_ptr(), keys[1].data_ptr()
    buffers.indices = indices.data_ptr()
    buffers.temporary, buffers.temporary_bytes = temporary.data_ptr(), temporary.numel()
    buffers.image, buffers.alpha = image.data_ptr(), alpha.data_ptr()
    kernels.call("avatar_draw", image, ctypes.byref(scene.as_struct()), ctypes.byref(buffers))
    return image, alpha, state.buffer


def draw_backward(
    kernels: Library,
    scene: Scene,
    image: Tensor,
    alpha: Tensor,
    state_buffer: Tensor,
    v_image: Tensor,
    v_alpha: Tensor | None,
    with_sink: bool,
    deterministic: bool,
) -> tuple[list[list[Tensor]], Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients per branch (in its tensors' order), of poses, intrinsics and background, and the sink's increment."""
    device, items = scene.poses.device, scene.batch * scene.splats
    state = _State(scene, kernels, not scene.per_frame, state_buffer)
    struct, buffers, gradients = scene.as_struct(), _Buffers(), _Gradients()
    state.into(buffers)
    buffers.image, buffers.alpha = image.data_ptr(), alpha.data_ptr()

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    blocks = kernels.number("avatar_blocks", scene.splats)
    weights = [
        kernels.number("avatar_animate_blocks", count) * tensors[6].shape[0] * FRAMES_TOGETHER
        for count, tensors in zip(scene.counts, scene.branches, strict=True)
        if not scene.per_frame
    ]
    held = {
        "sums": scratch(items, SUMS),
        "v_attributes": scratch(items, ATTRIBUTE_STRIDE),
        "pose_partials": scratch(scene.batch * blocks, POSE_SUMS, dtype=torch.float64),
        "weight_partials": scratch(max(weights, default=0)),
        "v_image": v_image,
        "v_alpha": v_alpha,
        "v_mean2d": scratch(items, 2) if with_sink else None,
    }
    results = [[torch.empty_like(t) for t in tensors] for tensors in scene.branches]
    poses, intrinsics = torch.empty_like(scene.poses), torch.empty_like(scene.intrinsics)
    background = None if scene.background is None else torch.empty_like(scene.background)
    sink = torch.zeros(scene.splats, 2, device=device) if with_sink else None
    if deterministic and items:
        held["slot_start"], held["partials"] = _slots(kernels, struct, buffers, scene, scratch)
    for name, tensor in held.items():
        setattr(gradients, name, _address(tensor))
    for i, tensors in enumerate(results):
        for name, tensor in zip(PER_BRANCH, tensors, strict=False):
            getattr(gradients, name)[i] = tensor.data_ptr()
    gradients.poses, gradients.intrinsics = poses.data_ptr(), intrinsics.data_ptr()
    gradients.background, gradients.sink = _address(background), _address(sink)
    kernels.call("avatar_draw_backward", image, ctypes.byref(struct), ctypes.byref(buffers), ctypes.byref(gradients))
    return results, poses, intrinsics, background, sink


def _slots(kernels: Library, struct: _Scene, buffers: _Buffers, scene: Scene, scratch) -> tuple[Tensor, Tensor]:
    """Places for the sum of every splat over every tile of its box. Waits for the device: their number is there."""
    items = scene.batch * scene.splats
    temporary = scratch(kernels.number("avatar_sort_bytes", scene.batch, scene.splats), dtype=torch.uint8)
    counts, slot_start = scratch(items + 1, dtype=torch.int32), scratch(items + 1, dtype=torch.int32)
    buffers.temporary, buffers.temporary_bytes = temporary.data_ptr(), temporary.numel()
    kernels.call(
        "avatar_slots", counts, ctypes.byref(struct), ctypes.byref(buffers),
        ctypes.c_void_p(counts.data_ptr()), ctypes.c_void_p(slot_start.data_ptr()),
    )  # fmt: skip
    return slot_start, scratch(max(1, int(slot_start[-1])), SUMS)


# ------------------------------------------------------------------------------------------ view-dependent colours


def _sh_struct(scene: Sequence[Tensor]) -> _Sh:
    job, (sh, means, skin, poses) = _Sh(), scene
    job.sh, job.means, job.skin, job.poses = (t.data_ptr() for t in (sh, means, skin, poses))
    job.batch, job.splats, job.terms, job.channels = *means.shape[:2], *sh.shape[1:]
    return job


def sh_colors(kernels: Library, scene: Sequence[Tensor]) -> Tensor:
    """Colours (B, N, C). `scene`: sh, means, skin, poses."""
    job, (sh, means, _, _) = _sh_struct(scene), scene
    colors = means.new_empty(*means.shape[:2], sh.shape[2])
    job.colors = colors.data_ptr()
    kernels.call("avatar_sh", means, ctypes.byref(job))
    return colors


def sh_colors_backward(kernels: Library, scene: Sequence[Tensor], v_colors: Tensor) -> list[Tensor]:
    """Gradients of the four tensors of `scene`."""
    job, (_, means, _, _) = _sh_struct(scene), scene
    gradients = [torch.empty_like(t) for t in scene]
    blocks = kernels.number("avatar_blocks", means.shape[1])
    v_skin_frames = means.new_empty(means.shape[:2])
    partials = means.new_empty(means.shape[0] * blocks * 24, dtype=torch.float64)
    job.v_colors, job.v_skin_frames, job.pose_partials = (t.data_ptr() for t in (v_colors, v_skin_frames, partials))
    job.v_sh, job.v_means, job.v_skin, job.v_poses = (t.data_ptr() for t in gradients)
    kernels.call("avatar_sh_backward", means, ctypes.byref(job))
    return gradients


# ------------------------------------------------------------------------------------------------ image loss


def _loss_struct(image: Tensor, target: Tensor, weights: Tensor) -> _Loss:
    loss = _Loss()
    loss.image, loss.target, loss.weights = image.data_ptr(), target.data_ptr(), weights.data_ptr()
    loss.batch, loss.height, loss.width, loss.channels = image.shape
    return loss


def l1_ssim(
    kernels: Library, image: Tensor, target: Tensor, weights: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """(l1, ssim, sum of weights * channels) and d ssim / d image times that sum (empty when not asked)."""
    out = torch.empty(3, device=image.device)
    blocks = kernels.number("avatar_loss_blocks", *image.shape[:3])
    partials = torch.empty(blocks, 3, dtype=torch.float64, device=image.device)
    maps = torch.empty(3 if with_gradient else 0, *image.shape, device=image.device)
    v_ssim_image = torch.empty_like(image) if with_gradient else image.new_empty(0)
    loss = _loss_struct(image, target, weights)
    loss.out = out.data_ptr()
    loss.partials = partials.data_ptr()
    loss.maps = maps.data_ptr() if with_gradient else None
    loss.v_ssim_image = v_ssim_image.data_ptr()
    kernels.call("avatar_l1_ssim", image, ctypes.byref(loss))
    return out, v_ssim_image


def l1_ssim_backward(
    kernels: Library, images: Sequence[Tensor], total: Tensor, v_ssim_image: Tensor, v_l1: Tensor, v_ssim: Tensor
) -> Tensor:
    """d loss / d image from the gradients of the two scalars, which stay on the device."""
    image, target, weights = images
    v_image = torch.empty_like(image)
    loss = _loss_struct(image, target, weights)
    loss.v_ssim_image = v_ssim_image.data_ptr()
    kernels.call(
        "avatar_l1_ssim_backward", image, ctypes.byref(loss),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (total, v_l1, v_ssim, v_image)),
    )  # fmt: skip
    return v_image
