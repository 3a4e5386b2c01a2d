// Log-mel columns of 16 kHz speech as they arrive, with the numbers of avatar/speech/features.py.

const HZ_PER_MEL = 200 / 3; // linear part of Slaney's scale (Auditory Toolbox, 1998)
const BREAK_HZ = 1000; // above it the scale is logarithmic
const LOG_STEP = Math.log(6.4) / 27;

function hzFromMel(mel) {
  const corner = BREAK_HZ / HZ_PER_MEL;
  return mel < corner ? mel * HZ_PER_MEL : BREAK_HZ * Math.exp(LOG_STEP * (mel - corner));
}

/** Triangular filters of unit area over the power bins: for each band its first bin and weights. */
export function melFilters({ sample_rate: rate, n_fft: size, n_mels: bands }) {
  const nyquist = rate / 2;
  const top = BREAK_HZ / HZ_PER_MEL + Math.log(nyquist / BREAK_HZ) / LOG_STEP;
  const corner = Array.from({ length: bands + 2 }, (_, i) => hzFromMel((top * i) / (bands + 1)));
  return Array.from({ length: bands }, (_, m) => {
    const [low, middle, high] = corner.slice(m, m + 3);
    const weights = [];
    let first = 0;
    for (let bin = 0; bin <= size / 2; bin++) {
      const hz = (nyquist * bin) / (size / 2);
      const height = Math.min((hz - low) / (middle - low), (high - hz) / (high - middle));
      if (height <= 0) continue;
      if (!weights.length) first = bin;
      weights.push((height * 2) / (high - low));
    }
    return { first, weights: Float64Array.from(weights) };
  });
}

/** In-place complex FFT of a power-of-two length (Cooley and Tukey, 1965), tables made once. */
export class Fourier {
  constructor(size) {
    this.size = size;
    this.cos = Float64Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sin = Float64Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
    this.reversed = new Uint32Array(size);
    for (let i = 1; i < size; i++) this.reversed[i] = (this.reversed[i >> 1] >> 1) | (i & 1 ? size >> 1 : 0);
  }

  transform(re, im) {
    const { size, cos, sin, reversed } = this;
    for (let i = 0; i < size; i++) {
      const j = reversed[i];
      if (j > i) {
        [re[i], re[j]] = [re[j], re[i]];
        [im[i], im[j]] = [im[j], im[i]];
      }
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let from = 0; from < size; from += 2 * half) {
        for (let k = 0; k < half; k++) {
          const a = from + k;
          const b = a + half;
          const [c, s] = [cos[k * stride], sin[k * stride]];
          const x = re[b] * c + im[b] * s;
          const y = im[b] * c - re[b] * s;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  }
}

export class LogMelStream {
  /** `audio`: sample_rate, n_fft, hop, n_mels, floor of the manifest. */
  constructor(audio) {
    this.audio = audio;
    this.filters = melFilters(audio);
    this.fourier = new Fourier(audio.n_fft);
    this.window = Float64Array.from({ length: audio.n_fft }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / audio.n_fft));
    this.re = new Float64Array(audio.n_fft);
    this.im = new Float64Array(audio.n_fft);
    this.reset();
  }

  reset() {
    this.pending = new Float32Array(this.audio.n_fft - this.audio.hop); // before the first sample there is silence
  }

  /** Columns (n_mels numbers each, one after the other) completed by these samples, -1..1. */
  push(samples) {
    const { n_fft: size, hop, n_mels: bands } = this.audio;
    const all = new Float32Array(this.pending.length + samples.length);
    all.set(this.pending);
    all.set(samples, this.pending.length);
    const count = Math.max(0, Math.floor((all.length - (size - hop)) / hop));
    this.pending = all.slice(count * hop);
    const out = new Float32Array(count * bands);
    for (let t = 0; t < count; t++) this.column(all.subarray(t * hop, t * hop + size), out.subarray(t * bands, (t + 1) * bands));
    return out;
  }

  column(frame, out) {
    const { re, im } = this;
    for (let i = 0; i < frame.length; i++) re[i] = frame[i] * this.window[i];
    im.fill(0);
    this.fourier.transform(re, im);
    this.filters.forEach(({ first, weights }, m) => {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * (re[first + i] ** 2 + im[first + i] ** 2);
      out[m] = Math.log(sum + this.audio.floor);
    });
  }
}
