"""The player in a real browser, against what Python draws, hears and says."""

from __future__ import annotations

import copy
import io
import json

import numpy as np
import pytest
import torch
from export_page import Page
from PIL import Image

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, BRANCHES, MOUTH_BLENDSHAPES, SAMPLE_RATE
from avatar.dataset import motion_tensors
from avatar.evaluate.metrics import psnr
from avatar.export import ExportOptions, export
from avatar.export.bundle import single_page
from avatar.media import read_speech
from avatar.model import Avatar
from avatar.speech import predict_mouth
from avatar.speech.features import log_mel
from avatar.speech.person import poses_from_offsets
from avatar.track import read_motion_csv, read_motion_json
from avatar.types import Motion

EXPRESSIONS = (
    {},
    {"jawOpen": 0.5, "mouthLowerDownLeft": 0.3},
    {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "cheekSquintLeft": 0.3},
    {"eyeBlinkLeft": 0.9, "eyeBlinkRight": 0.9, "browInnerUp": 0.2},
    {"mouthPucker": 0.4, "mouthFunnel": 0.3, "jawOpen": 0.2},
)
OFFSETS = np.array([
    [0, 0, 0, 0, 0, 0], [0.1, 0.15, 0, 1, 0, 0], [-0.1, -0.2, 0.05, -1, 0.5, 1], [0, 0.1, -0.1, 0, 0, -2],
    [0.15, 0, 0, 0, 1, 0],
], np.float64)  # fmt: skip
"""Head turns (rad) and shifts (cm) from the person's neutral pose; the torso goes a third of the way."""
QUANTISED_DB, EXACT_DB = 45.0, 55.0


def five_states(someone: Avatar) -> Motion:
    """Five expressions and poses; what is not named rests."""
    motion = someone.rest_motion(np.arange(len(EXPRESSIONS)) / 25)
    coefficients = motion.coefficients.copy()
    for row, named in zip(coefficients, EXPRESSIONS, strict=True):
        for name, value in named.items():
            row[BLENDSHAPE_INDEX[name]] = value
    return Motion(
        motion.times,
        coefficients,
        poses_from_offsets(OFFSETS, someone.person.neutral_head),
        poses_from_offsets(OFFSETS / 3, someone.person.neutral_torso),
    )


@pytest.fixture(scope="module")
def someone(lively) -> Avatar:
    return Avatar.load(lively)


def beyond_the_clip(someone: Avatar) -> Motion:
    """What no clip shows: every coefficient at its end, both ways, and one far past it in a head turned too far."""
    motion = someone.rest_motion(np.arange(4) / 25)
    coefficients = motion.coefficients.copy()
    coefficients[0], coefficients[1], coefficients[2, ::2] = 1.0, -1.0, 1.0
    coefficients[3, BLENDSHAPE_INDEX["jawOpen"]] = 3.0
    offsets = np.zeros((4, 6))
    offsets[3] = [0.3, 0.6, -0.2, 2, -1, 3]
    return Motion(
        motion.times,
        coefficients,
        poses_from_offsets(offsets, someone.person.neutral_head),
        poses_from_offsets(offsets / 3, someone.person.neutral_torso),
    )


def likeness(page: Page, someone: Avatar, size: int | None = None, motion: Motion | None = None) -> list[float]:
    motion = motion or five_states(someone)
    drawn = [page.draw(motion, i)[..., :3] / 255 for i in range(len(motion.times))]
    wanted = [picture / 255 for picture in someone.frames(motion, size)]
    return [psnr(a, b) for a, b in zip(drawn, wanted, strict=True)]


def resolution(page: Page, pixels: int) -> None:
    page.js("player.setAttribute('resolution', argument)", pixels)


def test_pictures_are_those_of_the_renderer(page, someone):
    resolution(page, 96)
    assert min(likeness(page, someone)) > QUANTISED_DB
    resolution(page, 48)  # half the size: other projection, other footprint, plate averaged
    assert min(likeness(page, someone, 48)) > QUANTISED_DB
    assert page.errors == []


def test_beyond_the_clip_too_pictures_are_those_of_the_renderer(page, someone):
    resolution(page, 96)
    motion = beyond_the_clip(someone)
    assert min(likeness(page, someone, motion=motion)) > QUANTISED_DB
    # which says something: without the limits the renderer's own pictures are others
    free = unlimited(someone)
    pairs = zip(someone.frames(motion), free.frames(motion), strict=True)
    assert max(psnr(a / 255, b / 255) for a, b in pairs) < 35


def test_sliders_beyond_the_clip_go_as_far_as_the_renderers(page, someone):
    """Pictures of the synthetic person are too coarse to tell; positions, which `gaussians()` gives, are not."""
    stopped = copy.deepcopy(someone)
    stopped.model.beyond.mix.zero_()
    for name in ("mouthLeft", "mouthFunnel", "eyeLookInLeft", "cheekPuff"):
        motion = someone.rest_motion(np.zeros(1))
        motion.coefficients[:, BLENDSHAPE_INDEX[name]] = 1.0
        state = [part.ravel().tolist() for part in (motion.coefficients[0], motion.camera_from_head[0, :3])]
        found = page.js(
            """const { gaussiansOf } = await import("./modules/gaussians.js");
            const weights = player.drivers.weights(argument[0], argument[1], argument[1]);
            return [...gaussiansOf(player.scene, weights, argument[1], argument[1]).centers];""",
            state,
        )
        wanted, without = (positions(each, motion) for each in (someone, stopped))
        moved = np.linalg.norm(wanted - without, axis=1)
        assert moved.max() > 0.2, name  # cm, by the prior alone
        assert np.abs(np.reshape(found, (-1, 3)) - wanted).max() < 0.05 * moved.max(), name


def positions(someone: Avatar, motion: Motion) -> np.ndarray:
    """Every Gaussian in three.js axes, cm, where head and torso have one pose."""
    weights = someone.model.weights(motion_tensors(motion, torch.device("cpu")))
    parts = [someone.model.branch(name)(weights[name]).means[0].numpy() for name in BRANCHES]
    return (np.concatenate(parts) @ motion.camera_from_head[0, :3, :3].T + motion.camera_from_head[0, :3, 3]) * [
        1,
        -1,
        -1,
    ]


def unlimited(someone: Avatar) -> Avatar:
    """The avatar as before its limits were measured."""
    free = copy.deepcopy(someone)
    for name in BRANCHES:
        free.model.branch_limits(name).load_tensors({}, 0, 0)
    return free


def test_basis_weights_are_those_of_the_model(page, someone):
    """Within and beyond the clip, with the limits and without; the browser's are undone by its own mix."""
    motions = [five_states(someone), beyond_the_clip(someone)]
    states = [
        [part.ravel().tolist() for part in (m.coefficients[i], m.camera_from_head[i, :3], m.camera_from_torso[i, :3])]
        for m in motions
        for i in range(len(m.times))
    ]
    found = page.js(
        """const { Drivers } = await import("./modules/weights.js");
        const { manifest, tensors } = player.avatar;
        const kept = Object.entries(tensors).filter(([name]) => !name.startsWith("limits."));
        const weights = (drivers) => argument.map((state) => drivers.weights(...state).map((w) => [...w]));
        const mixes = manifest.layers.map(({ name }) => [...tensors[`${name}.mix`].data]);
        const free = new Drivers({ manifest, tensors: Object.fromEntries(kept) });
        return [mixes, weights(player.drivers), weights(free)];""",
        states,
    )
    models = (someone.model, unlimited(someone).model)
    batches = [motion_tensors(motion, torch.device("cpu")) for motion in motions]
    for model, answers in zip(models, found[1:], strict=True):
        parts = [model.weights(batch) for batch in batches]
        for branch, name in enumerate(BRANCHES):
            wanted = torch.cat([part[name] for part in parts]).numpy()
            learned = model.branch(name).basis_count
            mixed, modes = np.split(np.array([answer[branch] for answer in answers]), [learned], axis=1)
            mix = np.reshape(found[0][branch], (learned, learned))
            np.testing.assert_allclose(np.linalg.solve(mix, mixed.T).T, wanted[:, :learned], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(modes, wanted[:, learned:], rtol=1e-4, atol=2e-4 * np.abs(wanted).max())
        within = model.branch("face").basis_count
        assert bool(parts[1]["face"][:, within:].any()) == (model is someone.model)


def test_a_transparent_background_leaves_the_person(page, someone):
    resolution(page, 96)
    motion = five_states(someone)
    with torch.no_grad():
        composite = someone.model(motion_tensors(motion, torch.device("cpu")))
    drawn = page.draw(motion, 1, transparent=True)
    alpha = drawn[..., 3] / 255
    np.testing.assert_allclose(alpha, composite.alpha[1].numpy(), atol=0.02)
    assert alpha.min() < 0.01 and alpha.max() > 0.9
    # premultiplied: over the plate it is the opaque picture
    over = drawn[..., :3] / 255 + (1 - alpha[..., None]) * someone.model.backdrop.numpy()
    assert psnr(over.clip(0, 1), page.draw(motion, 1)[..., :3] / 255) > QUANTISED_DB


def test_float_bases_are_exact(browser, silent, someone, tmp_path):
    options = ExportOptions(name="exact", avatar_path=silent, float_bases=True)
    export(silent, tmp_path / "exact", "player", options)
    page = Page(browser, tmp_path / "exact", "index.html?idle=off&resolution=96")
    try:
        page.ready()
        assert min(likeness(page, someone)) > EXACT_DB
        assert min(likeness(page, someone, motion=beyond_the_clip(someone))) > EXACT_DB
    finally:
        page.close()


def test_log_mel_has_the_numbers_of_training(page):
    random = np.random.default_rng(0)
    samples = (0.1 * random.normal(size=4000) * np.linspace(0, 1, 4000)).astype(np.float32)
    found = page.js(
        """const { LogMelStream } = await import("./modules/logmel.js");
        const stream = new LogMelStream(player.manifest.speech);
        const samples = Float32Array.from(argument);
        const parts = [[0, 1000], [1000, 1001], [1001, 4000]];
        return parts.map(([from, to]) => [...stream.push(samples.subarray(from, to))]);""",
        samples.tolist(),
    )
    ours = np.concatenate([np.array(part, np.float64) for part in found]).reshape(-1, 64)
    np.testing.assert_allclose(ours, log_mel(samples)[0], atol=1e-4)


def test_the_model_in_the_page_says_what_pytorch_says(page, runtime, someone):
    random = np.random.default_rng(1)
    samples = (0.1 * random.normal(size=SAMPLE_RATE // 2) * np.sin(np.arange(SAMPLE_RATE // 2) / 900)).astype(
        np.float32
    )
    found = page.js(
        """const { SpeechStream } = await import("./modules/speech.js");
        const stream = new SpeechStream(await player.speechModel(), 16000);
        for (let i = 0; i < argument.length; i += 700) await stream.push(Float32Array.from(argument.slice(i, i + 700)));
        await stream.end();
        return stream.values.map((v) => [...v]);""",
        samples.tolist(),
    )
    with torch.no_grad():
        wanted = someone.speech(torch.from_numpy(log_mel(samples)[0])[None])[0].numpy()
    assert wanted.std(axis=0).max() > 0.01  # the mouth really moves
    np.testing.assert_allclose(np.array(found), wanted, atol=1e-4)


def test_a_sound_moves_the_mouth_as_drive_does(page, runtime, someone, spoken):
    resolution(page, 48)
    sound = list(spoken.read_bytes())
    record, dense, over, again, left = page.js(
        """const seen = [];
        const note = ({ detail }) => seen.push([detail.time, player.coefficients.jawOpen]);
        await player.playSound(new Uint8Array(argument).buffer);
        player.addEventListener("frame", note);
        await new Promise((resolve) => player.addEventListener("ended", resolve, { once: true }));
        player.removeEventListener("frame", note);
        const moments = Array.from({ length: 80 }, (_, i) => 0.4 + i / 50);
        const jaw = player.manifest.speech.coefficients.indexOf("jawOpen");
        const dense = moments.map((time) => [time, player.source.stream.at(time)[jaw]]);
        const over = [player.playing, player.time];
        await player.play();   // once more, from the start
        const again = player.playing;
        player.stop();
        return [seen, dense, over, again, player.source];""",
        sound,
    )
    assert (over, again, left) == ([False, 0], True, None)
    shown = [r for r in record if r[0] > 0.35]  # after the fade from rest
    assert len(shown) >= 1  # more on a machine with nothing else to do
    times, jaw = np.array([*shown, *dense], np.float64).T
    mouth = predict_mouth(someone.speech, someone.person, read_speech(spoken), times)
    wanted = mouth[:, MOUTH_BLENDSHAPES.index("jawOpen")]
    assert wanted.std() > 0.01
    np.testing.assert_allclose(jaw[: len(shown)], wanted[: len(shown)], atol=0.05 * np.ptp(wanted))
    assert np.corrcoef(jaw, wanted)[0, 1] > 0.99


def test_a_sound_sounds_once_and_only_while_it_is_wanted(page, runtime, spoken):
    resolution(page, 48)
    found = page.js(
        """const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
        const sounding = new Set();
        const start = AudioBufferSourceNode.prototype.start;
        AudioBufferSourceNode.prototype.start = function (...given) {
          sounding.add(this);
          this.addEventListener("ended", () => sounding.delete(this));
          return start.apply(this, given);
        };
        const now = async () => (await sleep(150), [player.playing, sounding.size]);
        const sound = new Uint8Array(argument).buffer;
        const track = { names: ["jawOpen"], frames: [{ time: 0, weights: [0] }, { time: 50, weights: [1] }] };
        const found = {};
        await player.playSound(sound);
        player.seek(0.2);
        await player.play();
        found.playing = await now();
        player.pause();
        found.paused = await now();
        player.stop();
        const started = player.playSound(sound);
        while (!player.source) await sleep(0);
        player.pause();
        await started;
        found.pausedWhileStarting = await now();
        player.seek(1);
        const resumed = player.play();
        player.seek(0.5);   // while it starts: it starts there
        await resumed;
        found.resumed = [...(await now()), player.time < 1];
        player.stop();
        const opened = player.playSound(sound);
        player.stop();
        await opened;
        found.stoppedWhileOpening = await now();
        await Promise.all([player.playSound(sound), player.playTrack(track)]);
        found.newest = [player.duration, ...(await now())];
        await Promise.all([player.useMicrophone(), player.playTrack(track)]);
        found.afterMicrophone = player.duration;
        player.stop();
        AudioBufferSourceNode.prototype.start = start;
        return found;""",
        list(spoken.read_bytes()),
    )
    assert found == {
        "playing": [True, 1], "paused": [False, 0], "pausedWhileStarting": [False, 0], "resumed": [True, 1, True],
        "stoppedWhileOpening": [False, 0], "newest": [50, True, 0], "afterMicrophone": 50,
    }  # fmt: skip


def test_the_microphone_moves_the_mouth_with_every_picture(page, runtime):
    resolution(page, 48)
    found = page.js(
        """await player.useMicrophone();
        const jaws = new Set();
        while (player.source.stream.values.length < 20) await new Promise((resolve) => setTimeout(resolve, 20));
        const start = { ...player.stats, tokens: player.source.stream.values.length, time: player.time };
        const note = () => jaws.add(player.coefficients.jawOpen);
        player.addEventListener("frame", note);
        const late = performance.now() + 10000;
        const pause = () => new Promise((resolve) => setTimeout(resolve, 200));
        do await pause(); while (player.stats.frames < start.frames + 20 && performance.now() < late);
        player.removeEventListener("frame", note);
        const end = { ...player.stats, tokens: player.source.stream.values.length, time: player.time };
        player.stop();
        return { start, end, jaws: jaws.size };"""
    )
    start, end = found["start"], found["end"]
    frames = end["frames"] - start["frames"]
    # most pictures show something new; in the pauses of the sound the mouth rests
    assert end["motionFrames"] - start["motionFrames"] >= 0.5 * frames > 2
    assert found["jaws"] >= 0.4 * frames
    # and the model keeps up with the sound: 50 tokens a second
    assert end["tokens"] - start["tokens"] > 0.6 * 50 * (end["time"] - start["time"])


def test_nothing_is_created_while_it_runs(page):
    resolution(page, 96)  # left to itself it seeks the size that the machine keeps up with
    found = page.js(
        """player.tick(performance.now());
        const gl = player.renderer.gl;
        const made = {};
        const kinds = ["Texture", "Buffer", "Framebuffer", "Program", "Shader", "VertexArray"];
        const things = kinds.map((kind) => `create${kind}`);
        for (const name of [...things, "bufferData", "texStorage2D", "texStorage3D"]) {
          made[name] = 0;
          gl[name] = (...given) => (made[name]++, WebGL2RenderingContext.prototype[name].apply(gl, given));
        }
        player.idle = true;
        const before = player.stats;
        let now = performance.now();
        const calls = new Set();
        for (let i = 0; i < 120; i++) {   // half a minute of its own clock
          player.tick((now += 250));
          calls.add(player.stats.drawCalls);
          if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve));
          cancelAnimationFrame(player.request);
        }
        player.idle = false;
        player.last = performance.now();
        player.request = requestAnimationFrame(player.tick);
        for (const name of Object.keys(made)) delete gl[name];
        return { made, before, after: player.stats, calls: [...calls] };"""
    )
    assert found["made"] == dict.fromkeys(found["made"], 0)
    assert found["calls"] == [5]  # three branches, the splats, the composite
    assert found["after"]["frames"] >= found["before"]["frames"] + 120
    for key in ("textures", "buffers", "framebuffers", "programs"):
        assert found["after"][key] == found["before"][key]


def test_a_lost_graphics_card_and_another_address_are_no_end(page, someone):
    resolution(page, 96)
    motion = five_states(someone)
    before = page.draw(motion, 1)
    page.js(
        """const lost = player.renderer.gl.getExtension("WEBGL_lose_context");
        const event = (name) => new Promise((resolve) => player.addEventListener(name, resolve, { once: true }));
        let next = event("contextlost");
        lost.loseContext();
        await next;
        await new Promise((resolve) => setTimeout(resolve));   // the browser counts it as lost after the event
        next = event("contextrestored");
        lost.restoreContext();
        await next;"""
    )
    np.testing.assert_array_equal(page.draw(motion, 1), before)
    page.js("player.setAttribute('src', './'); await player.ready")
    np.testing.assert_array_equal(page.draw(motion, 1), before)
    # taken out of the page and put in again, too
    page.js(
        """const place = player.parentElement;
        player.remove();
        await new Promise((resolve) => setTimeout(resolve, 20));
        place.prepend(player);
        await player.ready;"""
    )
    np.testing.assert_array_equal(page.draw(motion, 1), before)
    assert page.js("return player.stats.textures") == 14
    page.errors.clear()  # the browser reports the loss that was asked for


def test_another_address_in_the_middle_of_a_picture_is_no_end(page):
    """What waits for the old avatar's depth order is let go of, and the new one is drawn and moves."""
    found = page.js(
        """const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
        const moves = async (element) => {
          element.idle = true;
          const { frames } = element.stats;
          for (let i = 0; i < 200 && element.stats.frames < frames + 2; i++) await sleep(10);
          element.idle = false;
          return [element.stats.frames >= frames + 2, element.exact];
        };
        const shot = player.snapshot().then(() => "drawn", (error) => error.message);
        player.setAttribute("src", "././");
        await player.ready;
        const switched = [await Promise.race([shot, sleep(1000)]), ...(await moves(player))];
        const other = document.createElement("avatar-player");
        other.setAttribute("src", ".");
        other.style.cssText = "position:absolute;width:64px;height:64px";
        document.body.append(other);
        while (!other.exact) await sleep(0);
        other.remove();   // during its first picture
        await sleep(50);
        document.body.append(other);
        await other.ready;
        const again = await moves(other);
        other.remove();
        return [switched, again];"""
    )
    assert found == [["The avatar was taken away before it was drawn.", True, 0], [True, 0]]
    assert page.errors == []


def test_tracks_are_read_as_python_reads_them(page, tmp_path):
    names = list(reversed(BLENDSHAPES))
    random = np.random.default_rng(2)
    weights = random.random((5, 52)).round(4)
    lam = {"names": names, "metadata": {"fps": 30}, "frames": [
        {"time": i / 30, "weights": w.tolist(), "rotation": []} for i, w in enumerate(weights)
    ]}  # fmt: skip
    head = ["Timecode", "BlendShapeCount", *(n[0].upper() + n[1:] for n in names), "HeadYaw", "HeadPitch", "HeadRoll"]
    rows = [f"00:00:01:{i:02d}.500,55,{','.join(map(str, w))},0.1,-0.2,{i / 50}" for i, w in enumerate(weights)]
    (tmp_path / "lam.json").write_text(json.dumps(lam))
    (tmp_path / "face.csv").write_text("\ufeff" + "\r\n".join([",".join(head), *rows]))
    for path, reader in ((tmp_path / "lam.json", read_motion_json), (tmp_path / "face.csv", read_motion_csv)):
        found = page.js(
            """const { parseTrack } = await import("./modules/track.js");
            const track = parseTrack(argument, player.names, player.manifest.timecode_rates);
            return [track.times, [...track.weights], track.angles && [...track.angles]];""",
            path.read_text(encoding="utf-8"),
        )
        times, coefficients, angles = reader(path)
        np.testing.assert_allclose(found[0], times, atol=1e-9)
        np.testing.assert_allclose(np.reshape(found[1], (-1, 52)), coefficients, atol=1e-6)
        assert (found[2] is None) == (angles is None)
        if angles is not None:
            np.testing.assert_allclose(np.reshape(found[2], (-1, 3)), angles)


def test_a_track_turns_the_head_as_drive_does(page, someone, tmp_path):
    """Head angles give the pose of `file_source`; the coefficients pass through."""
    from avatar.drive import file_source

    frames = [{"time": t, "weights": [0.25] * 52, "head": [0.2, -0.1, 0.05]} for t in (0.0, 5.0)]
    (tmp_path / "t.json").write_text(json.dumps({"names": list(BLENDSHAPES), "frames": frames}))
    found = page.js(
        """await player.playTrack(argument);
        for (let i = 0; i < 30; i++) player.stage.advance(0.25);   // past the fade
        const state = player.stage.shown;
        const result = [state.coefficients, player.stage.poses(state).head];
        player.stop();
        return result;""",
        (tmp_path / "t.json").read_text(),
    )
    np.testing.assert_allclose(found[0], 0.25, atol=1e-6)
    wanted = file_source(someone, tmp_path / "t.json", None).camera_from_head[0, :3]
    np.testing.assert_allclose(np.reshape(found[1], (3, 4)), wanted, atol=1e-5)


def test_hands_and_keys_move_it(page):
    page.js("player.setAttribute('resolution', 64)")
    shot = """await player.draw(player.stage.shown);
        return player.renderer.pixels().reduce((a, b, i) => (a * 31 + b * (i % 7)) % 1e9, 7);"""
    before = page.js(shot)
    page.page.click("#sliders")
    page.page.locator(".slider:has-text('jawOpen') input").fill("1")
    page.until("player.coefficients.jawOpen === 1")
    assert page.js(shot) != before
    held = page.page.locator(".slider.set")
    assert held.count() == 1
    page.page.dblclick("avatar-player", position={"x": 50, "y": 50})
    assert (held.count(), page.js("return player.stage.fixed.size")) == (0, 0)
    page.page.locator(".slider:has-text('jawOpen') input").fill("1")
    page.page.focus("avatar-player")
    page.page.keyboard.press("ArrowRight")
    page.page.click("#release")
    assert (held.count(), page.js("return [player.stage.fixed.size, player.stage.turn[0]]")) == (0, [0, 0])
    page.page.focus("avatar-player")
    page.page.keyboard.press("ArrowRight")
    assert page.js("return player.stage.turn[0]") == pytest.approx(0.06)
    page.page.keyboard.press("Home")
    page.until("player.stage.turn[0] === 0 && player.coefficients.jawOpen < 1")
    box = page.page.locator("avatar-player").bounding_box()
    page.page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 260, box["y"] + 200)
    assert page.js("return player.stage.turn[0]") > 0.02
    page.page.mouse.up()
    page.js("player.playTrack({ names: ['jawOpen'], frames: [{ time: 0, weights: [0] }, { time: 9, weights: [1] }] })")
    page.until("player.playing")
    page.page.focus("avatar-player")
    page.page.keyboard.press("Space")
    assert page.js("return [player.playing, player.duration]") == [False, 9]
    page.page.keyboard.press("Escape")
    assert page.js("return player.source") is None


def test_messages_are_heard_from_named_origins_only(page):
    send = """player.reset(); argument ? player.setAttribute("listen", argument) : player.removeAttribute("listen");
        window.postMessage({ type: "avatar", coefficients: { jawOpen: 0.75 } }, "*");
        await new Promise((resolve) => setTimeout(resolve, 30));
        return player.stage.fixed.size;"""
    assert page.js(send, None) == 0
    assert page.js(send, "https://elsewhere.example") == 0
    assert page.js(send, page.address.rstrip("/")) == 1
    page.js("player.reset(); player.removeAttribute('listen')")


def test_a_callback_drives_it(page):
    found = page.js(
        """player.drive((seconds) => ({ coefficients: { jawOpen: 0.6 }, head: [0.1, 0, 0] }));
        while (player.stage.fade) await new Promise((resolve) => setTimeout(resolve, 10));
        await new Promise((resolve) => player.addEventListener("frame", resolve, { once: true }));
        const { coefficients } = player.stage.advance(0);
        player.drive(null);
        return [player.names.indexOf("jawOpen"), coefficients];"""
    )
    assert found[1][found[0]] == pytest.approx(0.6)


def test_what_is_no_number_is_refused_and_leaves_the_person_there(page):
    refused, missing, told, shown = page.js(
        """const refused = [];
        const wrong = [() => player.turn(NaN, 0), () => player.turn("left"), () => player.drive(5),
          () => (player.gain = "abc"), () => player.seek(NaN)];
        for (const call of wrong) {
          try { call(); refused.push("nothing"); } catch (error) { refused.push(error.name); }
        }
        player.turn(0.2);
        const missing = player.stage.turn;
        player.reset();
        const told = [], shown = [];
        const note = ({ detail }) => told.push(detail.message);
        player.addEventListener("error", note);
        const answers = [{ jawOpen: NaN, mouthPucker: 0.3 }, { jawOpen: undefined }, { jawOpen: 5 },
          { head: [NaN, 0, 0] }, { head: [0.1] }, { coefficients: [0.1, 0.2] }, null];
        for (const answer of answers) {
          player.drive(answer === null ? () => { throw new Error("mine"); } : () => answer);
          const { frames } = player.stats;
          player.changed = true;
          while (player.stats.frames === frames) await new Promise((resolve) => setTimeout(resolve, 10));
          const state = player.stage.shown;
          const { head, torso } = player.stage.poses(state);
          const within = state.coefficients.length === 52 && state.coefficients.every((v) => v >= 0 && v <= 1);
          shown.push([within && [...head, ...torso].every(Number.isFinite), player.stage.callback !== null]);
          player.drive(null);
        }
        await new Promise((resolve) => setTimeout(resolve));
        player.removeEventListener("error", note);
        return [refused, missing, told, shown];"""
    )
    assert refused == ["RangeError", "RangeError", "TypeError", "RangeError", "RangeError"]
    assert missing == [pytest.approx(0.2), 0, 0]
    assert shown == [[True, True]] * 4 + [[True, False]] * 3
    assert ["yaw" in told[0], "2 coefficients" in told[1], told[2:]] == [True, True, ["mine"]]
    page.errors.clear()  # they are on the console too


def test_idle_motion_is_the_persons_and_rests_for_those_who_ask(browser, page, player_folder):
    found = page.js(
        """const { Manner } = await import("./modules/manner.js");
        const manner = new Manner(player.avatar);
        const heads = [], blinks = [];
        for (let i = 0; i < 1500; i++) { const m = manner.advance(1 / 25); heads.push(m.head); blinks.push(m.closure); }
        return [heads, blinks];"""
    )
    heads, blinks = np.array(found[0]), np.array(found[1])
    assert np.isfinite(heads).all() and heads[:, 3].std() > 0.1  # sways as the recorded clip does
    assert np.abs(np.diff(heads[:, 3])).max() < 1.0  # no jump at a joint, cm per frame
    closings = ((blinks[1:] > 0.5) & (blinks[:-1] <= 0.5)).sum()
    assert 8 <= closings <= 50  # a minute of the usual 26
    calm = Page(browser, player_folder, "index.html", reduced_motion="reduce")
    try:
        calm.ready()
        assert calm.js("return player.idle") is False
    finally:
        calm.close()


@pytest.mark.parametrize(("broken", "words"), [
    ("bases.bin", ["bases.bin", "damaged"]),
    ("manifest.json", ["newer than this player"]),
    ("splats.bin", ["splats.bin", "missing"]),
    ("webgl", ["WebGL2"]),
])  # fmt: skip
def test_what_is_wrong_is_said_on_the_page(page, broken, words):
    """In the same page, so that it stays quick: another component with one thing broken."""
    text = page.js(
        """const [broken, base] = argument;
        const real = window.fetch, context = HTMLCanvasElement.prototype.getContext;
        window.fetch = async (address, options) => {
          const answer = await real(address, options);
          if (!String(address).endsWith(broken)) return answer;
          if (broken === "splats.bin") return new Response("", { status: 404 });
          const bytes = new Uint8Array(await answer.arrayBuffer());
          if (broken === "bases.bin") bytes[1000] ^= 1;
          else return new Response(JSON.stringify({ ...JSON.parse(new TextDecoder().decode(bytes)), version: 99 }));
          return new Response(bytes);
        };
        if (broken === "webgl") HTMLCanvasElement.prototype.getContext = () => null;
        const other = document.createElement("avatar-player");
        other.setAttribute("src", ".");
        other.style.cssText = "position:absolute;width:200px;height:200px";
        document.body.append(other);
        const said = await other.ready.then(() => "fine", (error) => error.message);
        Object.assign(window, { fetch: real });
        HTMLCanvasElement.prototype.getContext = context;
        const shown = other.message.hidden ? "" : other.message.textContent;
        other.remove();
        return [said, shown];""",
        [broken, page.address],
    )
    assert text[0] == text[1]
    for word in words:
        assert word in text[0]
    page.errors.clear()


def test_the_single_file_opens_from_disk_and_speaks(browser, runtime, player_folder, tmp_path, spoken):
    files = {p.relative_to(player_folder).as_posix(): p.read_bytes() for p in player_folder.rglob("*") if p.is_file()}
    path = tmp_path / "lively.html"
    path.write_bytes(single_page(files))
    page = Page(browser, player_folder, path.as_uri())
    try:
        page.ready()
        assert not page.page.locator("#notice").is_visible()
        resolution(page, 48)
        page.js(
            "player.idle = false; await player.playSound(new Uint8Array(argument).buffer)", list(spoken.read_bytes())
        )
        assert page.js("return [player.playing, Math.round(player.duration)]") == [True, 2]
        assert page.errors == []
    finally:
        page.close()


def test_a_folder_opened_from_disk_says_how_to_see_it(browser, player_folder):
    page = Page(browser, player_folder, (player_folder / "index.html").as_uri())
    try:
        assert "avatar play" in page.page.inner_text("#notice")
        assert not page.page.locator("nav").is_visible()
        page.page.goto((player_folder / "embed.html").as_uri())
        assert "avatar play" in page.page.inner_text("avatar-player")
    finally:
        page.close()


def test_a_page_around_shines_through_a_transparent_frame(browser, player_folder):
    page = Page(browser, player_folder, "README.md")
    try:
        page.js(
            """document.body.innerHTML = '<iframe width="600" height="200" style="border: 0"></iframe>';
            document.body.style.background = "#f00";
            const frame = document.querySelector("iframe");
            frame.src = "index.html?transparent&idle=off&resolution=48";
            await new Promise((resolve) => (frame.onload = resolve));
            await frame.contentDocument.querySelector("avatar-player").ready;"""
        )
        frame = page.page.frames[1]
        assert not frame.locator("#backdrop").is_checked()
        corner = Image.open(io.BytesIO(page.page.screenshot(clip={"x": 20, "y": 20, "width": 1, "height": 1})))
        assert corner.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    finally:
        page.close()


def test_the_embedding_example_works(browser, player_folder):
    page = Page(browser, player_folder, "embed.html")
    try:
        page.ready()
        resolution(page, 48)
        # the page's own script waits for the player too, and only then listens to its buttons
        page.js("while (!document.getElementById('smile').onclick) await new Promise((r) => setTimeout(r, 10))")
        page.page.click("#smile")
        page.until("player.coefficients.mouthSmileLeft > 0.5")
        assert page.js("return [...player.gaussians().centers].every(Number.isFinite)")
        assert page.errors == []
    finally:
        page.close()
