"""Draws the person with OpenGL (3.3 core through EGL; Mesa's llvmpipe is enough, no GPU is needed).

Passes: key light's depth -> region labels and distance -> screen-space occlusion -> shaded picture
at twice the video's size -> bloom and down-sampling. The label pass is also the ground truth of the masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avatar.conventions import REGION_BACKGROUND, REGION_HEAD, REGION_MOUTH, REGION_TORSO
from avatar.errors import UserError, one_line

from .parts import IRIS_ANGLE
from .person import Person, Posed
from .strands import Strands

SHADERS = Path(__file__).with_name("shaders")
SUPERSAMPLING = 2
SHADOW_SIZE, SHADOW_HALF_WIDTH, SHADOW_HALF_DEPTH = 1536, 34.0, 46.0
KEY_DIRECTION = np.array([-0.56, 0.50, 0.66]) / np.linalg.norm([-0.56, 0.50, 0.66])
FAR = 1000.0
LIT = ("skin", "eye", "mouth", "cloth")
"""Fragment shaders that compute lighting themselves."""
HAIR_COLOUR = (0.060, 0.034, 0.020)
BROW_COLOUR = (0.034, 0.018, 0.010)


def open_context() -> Any:
    """An off-screen OpenGL context, or a UserError that says what to install."""
    try:
        import moderngl
    except ImportError as e:
        raise UserError(
            "the demo renderer needs moderngl: pip install moderngl, or this project's extra `scripts`"
        ) from e
    try:
        return moderngl.create_context(standalone=True, backend="egl", require=330)  # type: ignore[arg-type]
    except Exception as e:
        raise UserError(
            "no OpenGL 3.3 through EGL here; on Debian or Ubuntu install libegl1 libegl-mesa0 libgl1-mesa-dri"
            f" ({one_line(e)})"
        ) from e


def noise_texture(size: int = 64, seed: int = 5) -> np.ndarray:
    """Tileable band-limited noise (size, size, size, 4) float16: gradient per texel, then value, unit variance each."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.fftn(rng.normal(size=(size,) * 3))
    f = np.sqrt(sum(g**2 for g in np.meshgrid(*[np.fft.fftfreq(size) * size] * 3, indexing="ij")))
    band = np.exp(-(((f - size * 0.14) / (size * 0.085)) ** 2))
    value = np.real(np.fft.ifftn(spectrum * band))
    value /= value.std()
    gradient = [(np.roll(value, -1, a) - np.roll(value, 1, a)) / 2 for a in (2, 1, 0)]  # x is the fastest axis
    gradient = [g / g.std() for g in gradient]
    return np.stack([*gradient, value], -1).astype(np.float16)


def projection_matrix(focal: float, size: int, near: float = 40.0, far: float = 300.0) -> np.ndarray:
    """Pinhole of `focal` px on a size x size image with the principal point in the middle, as an OpenGL matrix."""
    s = 2.0 * focal / size
    return np.array([[s, 0, 0, 0], [0, s, 0, 0],
                     [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)], [0, 0, -1, 0]])  # fmt: skip


def light_matrix(direction: np.ndarray, centre: np.ndarray, half_width: float, half_depth: float) -> np.ndarray:
    """Orthographic clip space seen from a far light in `direction`, looking at `centre`."""
    side = np.cross([0, 1, 0] if abs(direction[1]) < 0.95 else [1, 0, 0], direction)
    side /= np.linalg.norm(side)
    up = np.cross(direction, side)
    m = np.eye(4)
    m[0, :3], m[1, :3], m[2, :3] = side / half_width, up / half_width, -direction / half_depth
    m[:3, 3] = -m[:3, :3] @ centre
    return m


def _source(main: str, *includes: str) -> str:
    """A shader with the named files put before it."""
    strand = "strand_shade.glsl" in includes
    head = ["#version 330 core", f"#define PCF_SAMPLES {5 if strand else 10}", "#define SHADED" if strand else ""]
    return "\n".join([*head, *((SHADERS / name).read_text() for name in (*includes, main))])


class _Item:
    """One vertex/index buffer with its three programs."""

    def __init__(self, renderer: Renderer, vertex: str, fragment: str, region: int, triangles: np.ndarray,
                 layout: list[tuple[Any, str, tuple[str, ...]]], uniforms: dict[str, Any]) -> None:  # fmt: skip
        self.region, self.uniforms, self.model = region, uniforms, np.eye(4)
        index = renderer.ctx.buffer(triangles.astype(np.int32).tobytes())
        label = "label_strand" if vertex == "strand" else "label"
        self.vaos = {}
        for name, frag in (("shadow", "depth"), ("label", label), ("shade", fragment)):
            program = renderer.program(vertex, frag)
            content = []
            for buffer, fmt, names in layout:
                # An attribute the program does not read is skipped over.
                parts = fmt.split()
                used = [n in program for n in names]
                if any(used):
                    form = " ".join(p if u else f"{int(p[0]) * 4}x" for p, u in zip(parts, used, strict=True))
                    content.append((buffer, form, *[n for n, u in zip(names, used, strict=True) if u]))
            self.vaos[name] = (program, renderer.ctx.vertex_array(program, content, index))


class Renderer:
    """Holds the GL state of one person; `draw` gives a picture and its labels."""

    def __init__(self, person: Person, size: int, focal_px: float) -> None:
        import moderngl

        self.gl = moderngl
        self.person, self.size, self.focal_px = person, size, focal_px
        self.ctx = open_context()
        self._programs: dict[tuple[str, str], Any] = {}
        self._targets()
        texture = self.ctx.texture3d((64, 64, 64), 4, noise_texture().tobytes(), dtype="f2")
        texture.build_mipmaps()
        texture.filter = (moderngl.LINEAR_MIPMAP_NEAREST, moderngl.LINEAR)
        self.noise = texture
        self.ctx.enable_only(moderngl.NOTHING)
        self._screen("backdrop", self.backdrop_fbo, {"noise": self.noise})
        self._items()

    # --- set-up ---

    def program(self, vertex: str, fragment: str) -> Any:
        key = (vertex, fragment)
        if key not in self._programs:
            self._programs[key] = self.ctx.program(
                vertex_shader=_source(f"{vertex}.vert", *(("lighting.glsl", "strand_shade.glsl")
                                                          if fragment == "strand" else ())),
                fragment_shader=_source(f"{fragment}.frag", *(("lighting.glsl", "surface_lighting.glsl")
                                                              if fragment in LIT else ())),
            )  # fmt: skip
        return self._programs[key]

    def _targets(self) -> None:
        ctx, gl, big = self.ctx, self.gl, self.size * SUPERSAMPLING
        self.shadow = ctx.depth_texture((SHADOW_SIZE, SHADOW_SIZE))
        self.shadow.compare_func = "<="
        self.shadow.filter = (gl.LINEAR, gl.LINEAR)
        self.shadow.repeat_x = self.shadow.repeat_y = False
        self.shadow_fbo = ctx.framebuffer([], self.shadow)
        self.labels = ctx.texture((big, big), 2, dtype="f4")
        self.labels.filter = (gl.NEAREST, gl.NEAREST)
        self.labels.repeat_x = self.labels.repeat_y = False
        depth = ctx.depth_renderbuffer((big, big))
        self.label_fbo = ctx.framebuffer([self.labels], depth)
        half = (big // 2, big // 2)
        self.occlusion = [ctx.texture(half, 1, dtype="f2") for _ in range(2)]
        self.occlusion_fbo = [ctx.framebuffer([t]) for t in self.occlusion]
        self.shaded = ctx.texture((big, big), 4, dtype="f2")
        self.shade_fbo = ctx.framebuffer([self.shaded], depth)
        self.backdrop_fbo = ctx.framebuffer([ctx.texture((big, big), 4, dtype="f2")])
        small = (self.size // 4, self.size // 4)
        self.bloom = [ctx.texture(small, 4, dtype="f2") for _ in range(2)]
        for t in (*self.bloom, self.shaded, *self.occlusion):
            t.repeat_x = t.repeat_y = False
        self.bloom_fbo = [ctx.framebuffer([t]) for t in self.bloom]
        self.final_fbo = ctx.framebuffer([ctx.texture((self.size, self.size), 4)])

    def _buffer(self, *columns: np.ndarray) -> Any:
        rows = len(columns[0])
        return self.ctx.buffer(np.hstack([c.reshape(rows, -1) for c in columns]).astype(np.float32).tobytes())

    def _items(self) -> None:
        p = self.person
        moving = ("3f 3f", ("in_position", "in_normal"))
        static = ("3f 4f 4f", ("in_rest", "in_paint", "in_paint2"))
        paint = p.paint()
        self.skin_paint = paint
        self.skin_open = np.ones(len(paint), np.float32)
        self.cloth_open = np.ones(len(p.clothes.vertices), np.float32)
        self.skin_buffer = self._buffer(p.rest_skin, p.rest_skin)
        self.skin_static = self._buffer(p.rest_skin, paint[:, :4], paint[:, 4:], self.skin_open)
        self.skin = _Item(self, "surface", "skin", REGION_HEAD, p.skin.triangles,
                          [(self.skin_buffer, *moving), (self.skin_static, *static)], {"has_mouth": 1.0})  # fmt: skip
        tongue_paint = np.tile(np.array([2, 0, 0, 0], np.float32), (len(p.rest_tongue), 1))
        self.tongue_buffer = self._buffer(p.rest_tongue, p.rest_tongue)
        self.tongue = _Item(self, "surface", "mouth", REGION_MOUTH, p.tongue.triangles,
                            [(self.tongue_buffer, *moving),
                             (self._buffer(p.rest_tongue, tongue_paint, tongue_paint), *static)], {})  # fmt: skip
        self.upper, self.lower = (self._rigid(s, "mouth", REGION_MOUTH, {}) for s in (p.upper_teeth, p.lower_teeth))
        eye = {"eye_radius": p.asset.eye_radius, "iris_angle": IRIS_ANGLE}
        self.eyes = [self._rigid(p.eyeball, "eye", REGION_HEAD, dict(eye)) for _ in range(2)]
        self.cloth = self._rigid(p.clothes, "cloth", REGION_TORSO, {}, self.cloth_open)
        self.hair, self.hair_buffer = self._strands(p.hair, HAIR_COLOUR, 1.0)
        self.hair.uniforms["least_width"] = 0.0
        self.brows, self.brow_buffer = self._strands(p.brows, BROW_COLOUR, 0.10)
        self.lashes, self.lash_buffer = self._strands(p.lashes, (0.010, 0.007, 0.006), 0.05)
        self.items = [self.skin, self.cloth, self.hair, *self.eyes, self.upper, self.lower, self.tongue]
        # Finer than a pixel: blended over the rest, and without a say in depth and labels (they lie on the head).
        self.fine_items = [self.brows, self.lashes]

    def _rigid(
        self, s, fragment: str, region: int, uniforms: dict[str, Any], open_sky: np.ndarray | None = None
    ) -> _Item:
        extra = np.zeros((len(s.vertices), 4), np.float32)
        extra[:, 3] = 1.0 if open_sky is None else open_sky
        buffer = self._buffer(s.vertices, s.normals, s.vertices, s.paint, extra)
        names = ("in_position", "in_normal", "in_rest", "in_paint", "in_paint2")
        return _Item(self, "surface", fragment, region, s.triangles, [(buffer, "3f 3f 3f 4f 4f", names)], uniforms)

    def _strands(self, s: Strands, colour, gloss: float) -> tuple[_Item, Any]:
        n, k = s.points.shape[:2]
        t = np.broadcast_to(np.linspace(0, 1, k)[None], (n, k))
        strand = np.empty((n, k, 2, 4), np.float32)
        for side, sign in enumerate((-1, 1)):
            shade = [np.repeat(s.shade[:, i : i + 1], k, 1) for i in (0, 1)]
            strand[:, :, side] = np.stack([sign * s.half_width, t, *shade], -1)
        first = (np.arange(n)[:, None] * k + np.arange(k - 1)[None]).reshape(-1, 1) * 2
        triangles = np.concatenate([first + np.array(c) for c in ((0, 1, 3), (0, 3, 2))])
        buffer = self.ctx.buffer(_ribbon(s.points).tobytes())
        item = _Item(self, "strand", "strand", REGION_HEAD, triangles, [
            (buffer, "3f 3f", ("in_position", "in_tangent")),
            (self._buffer(strand.reshape(-1, 4)), "4f", ("in_strand",)),
        ], {"hair_colour": colour, "gloss": gloss})  # fmt: skip
        return item, buffer

    # --- per frame ---

    def _place(self, posed: Posed) -> None:
        self.skin_buffer.write(np.hstack([posed.skin, posed.skin_normals]).astype(np.float32).tobytes())
        self.tongue_buffer.write(np.hstack([posed.tongue, posed.tongue_normals]).astype(np.float32).tobytes())
        self.brow_buffer.write(_ribbon(posed.brows).tobytes())
        self.lash_buffer.write(_ribbon(posed.lashes).tobytes())
        self.upper.model = self.hair.model = posed.world_from_head
        self.lower.model, self.cloth.model = posed.world_from_lower_teeth, posed.world_from_torso
        centre = tuple((posed.world_from_head @ [0, 1.0, -1.5, 1])[:3])
        for item in (self.hair, self.brows, self.lashes):
            item.uniforms["head_centre"] = centre
        for item, model in zip(self.eyes, posed.world_from_eyes, strict=True):
            item.model = model
            item.uniforms["eye_from_world"] = tuple(model[:3, :3].ravel())  # column-major transpose = inverse

    def _pass(self, name: str, projection: np.ndarray, viewer: tuple[float, ...], items=None, **uniforms) -> None:
        for item in items if items is not None else self.items:
            program, vao = item.vaos[name]
            values = {"projection": tuple(projection.T.ravel()), "model": tuple(np.asarray(item.model).T.ravel()),
                      "viewer": viewer, "region": float(item.region), **uniforms, **item.uniforms}  # fmt: skip
            if name == "label" and "has_mouth" not in item.uniforms:
                values["has_mouth"] = 0.0
            for key, value in values.items():
                if key in program:
                    program[key] = value
            vao.render()

    def _screen(self, fragment: str, target: Any, textures: dict[str, Any], **uniforms) -> None:
        program = self.program("screen", fragment)
        for unit, (name, texture) in enumerate(textures.items()):
            texture.use(unit)
            if name in program:
                program[name] = unit
        for key, value in uniforms.items():
            if key in program:
                program[key] = value
        target.use()
        self.ctx.vertex_array(program, []).render(vertices=3)

    def draw(self, posed: Posed) -> tuple[np.ndarray, np.ndarray]:
        """One frame: sRGB picture (H, W, 3) uint8 and region labels (H, W) uint8."""
        ctx, big = self.ctx, self.size * SUPERSAMPLING
        self._place(posed)
        projection = projection_matrix(self.focal_px, self.size)
        centre = (posed.world_from_torso @ [0, -6.0, 0, 1])[:3]
        light = light_matrix(KEY_DIRECTION, centre, SHADOW_HALF_WIDTH, SHADOW_HALF_DEPTH)
        ctx.enable_only(self.gl.DEPTH_TEST)
        self.shadow_fbo.use()
        self.shadow_fbo.clear(depth=1.0)
        self._pass("shadow", light, (*KEY_DIRECTION, 0.0))
        self.label_fbo.use()
        self.label_fbo.clear(float(REGION_BACKGROUND), FAR, depth=1.0)
        self._pass("label", projection, (0.0, 0.0, 0.0, 1.0))
        labels = self._read_labels(big)

        ctx.enable_only(self.gl.NOTHING)
        focal = self.focal_px / self.size
        self._screen("occlusion", self.occlusion_fbo[0], {"labels": self.labels}, focal=focal, radius=1.5)
        self._screen("blur", self.occlusion_fbo[1], {"labels": self.labels, "occlusion": self.occlusion[0]})
        ctx.copy_framebuffer(self.shade_fbo, self.backdrop_fbo)
        self.shade_fbo.use()
        ctx.enable_only(self.gl.DEPTH_TEST)
        # The label pass left its depth: the costly shaders below run only where they are seen.
        ctx.depth_func = "<="
        for unit, texture in enumerate((self.shadow, self.occlusion[1], self.noise)):
            texture.use(unit)
        lighting = {"shadow_map": 0, "occlusion": 1, "noise": 2, "light_from_world": tuple(light.T.ravel()),
                    "key_direction": tuple(KEY_DIRECTION), "picture": (float(big), float(big)),
                    "least_width": 0.5 / (self.focal_px * SUPERSAMPLING)}  # fmt: skip
        self._pass("shade", projection, (0.0, 0.0, 0.0, 1.0), **lighting)
        ctx.enable(self.gl.BLEND)
        ctx.blend_func = self.gl.SRC_ALPHA, self.gl.ONE_MINUS_SRC_ALPHA
        self._pass("shade", projection, (0.0, 0.0, 0.0, 1.0), self.fine_items, **lighting)
        ctx.disable(self.gl.BLEND)
        ctx.depth_func = "<"
        ctx.enable_only(self.gl.NOTHING)
        self._screen("shrink", self.bloom_fbo[0], {"source": self.shaded}, direction=(0.0, 0.0))
        step = 1.0 / (self.size // 4)
        self._screen("shrink", self.bloom_fbo[1], {"source": self.bloom[0]}, direction=(step, 0.0))
        self._screen("shrink", self.bloom_fbo[0], {"source": self.bloom[1]}, direction=(0.0, step))
        self._screen("final", self.final_fbo, {"picture": self.shaded, "bloom": self.bloom[0]})
        rgb = np.frombuffer(self.final_fbo.read(components=3), np.uint8).reshape(self.size, self.size, 3)
        return rgb[::-1].copy(), labels

    def _read_labels(self, big: int) -> np.ndarray:
        """The label of the majority of a pixel's samples (ties: the larger label) at the video's size."""
        raw = np.frombuffer(self.label_fbo.read(components=2, dtype="f4"), np.float32).reshape(big, big, 2)
        fine = raw[::-1, :, 0].round().astype(np.uint8)
        s = SUPERSAMPLING
        cells = fine.reshape(self.size, s, self.size, s)
        votes = np.stack([(cells == label).sum((1, 3)) for label in range(4)])
        return (3 - votes[::-1].argmax(0)).astype(np.uint8)

    def bake_ambient(self, posed: Posed, directions: int = 72) -> None:
        """Measures how much of the sky each skin and cloth vertex sees at rest, and keeps it for the ambient light.

        Depth pictures from many directions over the sphere; cosine-weighted share of those a vertex is visible in."""
        self._place(posed)
        cloth = self.person.clothes
        m = posed.world_from_torso
        points = np.concatenate([posed.skin, cloth.vertices @ m[:3, :3].T + m[:3, 3]])
        normals = np.concatenate([posed.skin_normals, cloth.normals @ m[:3, :3].T])
        seen, total = np.zeros(len(points)), np.zeros(len(points))
        centre = (m @ [0, -8.0, 0, 1])[:3]
        solid = [self.skin, self.cloth, self.hair]
        self.ctx.enable_only(self.gl.DEPTH_TEST)
        for k in range(directions):  # Fibonacci sphere
            z = 1 - 2 * (k + 0.5) / directions
            a = k * np.pi * (3 - np.sqrt(5))
            d = np.array([np.sqrt(1 - z * z) * np.cos(a), z, np.sqrt(1 - z * z) * np.sin(a)])
            light = light_matrix(d, centre, 46.0, 60.0)
            self.shadow_fbo.use()
            self.shadow_fbo.clear(depth=1.0)
            self._pass("shadow", light, (*d, 0.0), solid)
            depth = np.frombuffer(self.shadow.read(), np.float32).reshape(SHADOW_SIZE, SHADOW_SIZE)
            clip = ((points + normals * 0.12) @ light[:3, :3].T + light[:3, 3]) * 0.5 + 0.5
            at = np.clip((clip[:, :2] * SHADOW_SIZE).astype(int), 0, SHADOW_SIZE - 1)
            weight = np.clip(normals @ d, 0, None)
            seen += weight * (clip[:, 2] - 0.0015 <= depth[at[:, 1], at[:, 0]])
            total += weight
        share = (seen / np.maximum(total, 1e-6)).astype(np.float32)
        count = len(posed.skin)
        skin = share[:count]
        incidence, quads = self.person.skin.incidence, self.person.skin.quads
        valence = np.asarray(incidence.sum(1)).ravel()
        for _ in range(2):
            skin = (incidence @ skin[quads].mean(1)) / valence
        # Lids open and close: what is folded away at rest must not stay black.
        lids = np.clip(self.person.masks[:, 1] * 1.5, 0, 1)
        skin = np.maximum(skin, 0.62 * lids)
        paint = self.skin_paint
        self.skin_static.write(np.hstack([self.person.rest_skin, paint, skin[:, None]]).astype(np.float32).tobytes())
        self.items[1] = self.cloth = self._rigid(cloth, "cloth", REGION_TORSO, {}, np.maximum(share[count:], 0.15))


def _ribbon(points: np.ndarray) -> np.ndarray:
    """Interleaved position and tangent, twice per strand point: (N * P * 2, 6) float32."""
    tangent = np.empty_like(points)
    tangent[:, 1:-1] = points[:, 2:] - points[:, :-2]
    tangent[:, 0], tangent[:, -1] = points[:, 1] - points[:, 0], points[:, -1] - points[:, -2]
    both = np.concatenate([points, tangent], -1).astype(np.float32)
    return np.repeat(both.reshape(-1, 6), 2, axis=0)
