// What is made of sound before the model is asked about the mouth: level and colour of the person's own clip, and
// whether anyone speaks. The port of avatar/speech/hearing.py, token by token; its numbers come with the manifest.

const LEAST_BIN_DB = -90; // of the level's histogram, in steps of 1 dB
const BINS = 120;

/** How loud someone speaks, in dB of mel power: a mean over tokens that stand out. */
class Level {
  constructor(settings) {
    this.settings = settings;
    this.fade = 1 - 1 / settings.kept_tokens;
    this.count = new Float64Array(BINS);
    this.sum = new Float64Array(BINS);
    this.recent = [];
    this.tokens = 0;
  }

  standsOut(decibel) {
    const { syllable_tokens: length, stands_out_db: margin, least_db: least } = this.settings;
    this.recent.push(decibel);
    if (this.recent.length > length) this.recent.shift();
    return decibel > Math.max(least, Math.min(...this.recent) + margin);
  }

  add(decibel) {
    const bin = Math.min(Math.max(Math.floor(decibel - LEAST_BIN_DB), 0), BINS - 1);
    for (let i = 0; i < BINS; i++) {
      this.count[i] *= this.fade;
      this.sum[i] *= this.fade;
    }
    this.count[bin] += 1;
    this.sum[bin] += decibel;
    this.tokens = this.tokens * this.fade + 1;
  }

  get decibel() {
    const all = this.count.reduce((a, b) => a + b, 0);
    let top = 0;
    for (let below = this.count[0]; below < 0.95 * all; below += this.count[top]) top++;
    const first = Math.max(0, top - this.settings.below_top_db + 1);
    const near = (list) => list.subarray(first).reduce((a, b) => a + b, 0);
    return near(this.sum) / near(this.count);
  }
}

/** How the mean spectrum of what is heard differs from the person's own; `gain` (dB per band) brings it there. */
class Colour {
  constructor(settings, bands) {
    this.settings = settings;
    this.fade = 1 - 1 / settings.kept_tokens;
    this.sum = new Float64Array(bands);
    this.tokens = 0;
    this.gain = null;
  }

  add(columns) {
    const { spectrum: own, spectrum_tokens: learned, chance_db: chance, largest_gain_db: limit } = this.settings;
    if (!own) return; // not known: files of before
    const bands = own.length;
    const width = columns.length / bands;
    this.tokens = this.tokens * this.fade + 1;
    const missing = own.map((value, band) => {
      let mean = 0;
      for (let i = band; i < columns.length; i += bands) mean += columns[i] / width;
      this.sum[band] = this.sum[band] * this.fade + mean;
      return (value - this.sum[band] / this.tokens) * (10 / Math.LN10);
    });
    const middle = missing.reduce((a, b) => a + b, 0) / bands;
    const power = missing.reduce((sum, v) => sum + (v - middle) ** 2, 0) / bands;
    const byChance = chance ** 2 * (1 / this.tokens + 1 / learned);
    const share = 1 - byChance / Math.max(power, 1e-12);
    this.gain = share > 0 ? missing.map((v) => Math.min(Math.max(share * (v - middle), -limit), limit)) : null;
  }
}

/** A share 0..1 a token later: it comes fast and goes slowly. */
function eased(value, there, { attack_tokens: attack, release_tokens: release }) {
  return value + ((there ? 1 : 0) - value) / (there ? attack : release);
}

/** Whether someone speaks, from loudness above the room's floor. */
class Voice {
  constructor(settings) {
    this.settings = settings;
    this.floor = settings.gate;
    this.speaking = 0;
  }

  token(loudness) {
    const { gate, floor_rise: rise, margin } = this.settings;
    this.floor = Math.max(gate, Math.min(loudness, this.floor + rise));
    this.speaking = eased(this.speaking, loudness > this.floor + margin, this.settings);
    return this.speaking;
  }
}

/** Listens to log-mel for a model. `spec`: the manifest's `speech`. */
export class Hearing {
  constructor(spec) {
    this.settings = spec.hearing;
    this.bands = spec.n_mels;
    this.floor = spec.floor;
    this.level = new Level(this.settings);
    this.voice = new Voice(this.settings);
    this.colour = new Colour(this.settings, spec.n_mels);
    this.gain = 0;
    this.syllables = 0;
    this.share = 0;
  }

  /** The next token's columns at the person's own level and colour, and the share of the mouth that is told now (0 rests). */
  token(columns) {
    const power = columns.reduce((sum, v) => sum + this.power(v), 0) / columns.length;
    const decibel = 10 * Math.log10(power + 1e-12);
    const standsOut = this.level.standsOut(decibel);
    if (standsOut) this.follow(decibel);
    const levelled = this.gain ? columns.map((v) => this.amplified(v, this.gain)) : columns;
    if (standsOut) this.colour.add(levelled);
    const speaking = this.voice.token(this.loudness(levelled));
    this.syllables = eased(this.syllables, standsOut, this.settings);
    const { quiet, share_step: most } = this.settings;
    const wanted = Math.max(speaking, this.syllables) >= quiet ? 1 : 0;
    this.share += Math.min(Math.max(wanted - this.share, -most), most);
    const { gain } = this.colour;
    const heard = gain ? levelled.map((v, i) => this.amplified(v, gain[i % this.bands])) : levelled;
    return { columns: heard, share: this.share };
  }

  follow(decibel) {
    const { level, own_db: own, largest_gain_db: limit, sure_tokens: sure } = this.settings;
    this.level.add(decibel);
    if (level === null) return;
    const trust = this.level.tokens / (this.level.tokens + sure);
    const wanted = trust * (level - this.level.decibel);
    this.gain = Math.sign(wanted) * Math.min(Math.max(Math.abs(wanted) - own, 0), limit);
  }

  amplified(value, decibel) {
    return Math.log(this.power(value) * 10 ** (decibel / 10) + this.floor);
  }

  /** Mel power without the floor that was added to it. */
  power(value) {
    return Math.max(0, Math.exp(value) - this.floor);
  }

  loudness(columns) {
    const means = [];
    for (let from = 0; from < columns.length; from += this.bands) {
      means.push(columns.subarray(from, from + this.bands).reduce((a, b) => a + b, 0) / this.bands);
    }
    return Math.max(...means);
  }
}
