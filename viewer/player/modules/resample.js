// Sound of any sample rate to another, in chunks of any size: windowed sinc (Smith, "Digital audio resampling", 1984).

const CROSSINGS = 32; // zero crossings on each side: flat to 7 kHz of 8, and 2 ms of delay at 16 kHz
const PASS = 0.96; // of the band kept before the filter falls

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

export class Resampler {
  constructor(from, to) {
    const common = gcd(Math.round(from), Math.round(to));
    this.up = Math.round(to) / common;
    this.down = Math.round(from) / common;
    const cutoff = PASS * Math.min(1, to / from); // of the input's Nyquist frequency
    this.half = Math.ceil(CROSSINGS / cutoff);
    this.phases = Array.from({ length: this.up }, (_, phase) => this.taps(phase / this.up, cutoff));
    this.reset();
  }

  /** Weights of the inputs from -half + 1 to half around a place that is `fraction` past an input. */
  taps(fraction, cutoff) {
    const taps = new Float32Array(2 * this.half);
    let sum = 0;
    for (let i = 0; i < taps.length; i++) {
      const x = i - this.half + 1 - fraction;
      const u = x / this.half;
      const window = Math.abs(u) < 1 ? 0.42 + 0.5 * Math.cos(Math.PI * u) + 0.08 * Math.cos(2 * Math.PI * u) : 0;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
      taps[i] = window * sinc;
      sum += taps[i];
    }
    return taps.map((t) => t / sum);
  }

  reset() {
    this.buffer = new Float32Array(this.half - 1); // silence before the first input
    this.first = -(this.half - 1); // number of the input that buffer[0] is
    this.next = 0; // number of the next output
  }

  /** The outputs for which all inputs are there. Output n is at the time of input n * from / to. */
  push(samples) {
    if (this.up === this.down) return samples;
    const all = new Float32Array(this.buffer.length + samples.length);
    all.set(this.buffer);
    all.set(samples, this.buffer.length);
    const end = this.first + all.length; // inputs below this number are here
    const out = [];
    for (;;) {
      const whole = Math.floor((this.next * this.down) / this.up);
      if (whole + this.half >= end) break;
      const taps = this.phases[(this.next * this.down) % this.up];
      const from = whole - this.half + 1 - this.first;
      let sum = 0;
      for (let i = 0; i < taps.length; i++) sum += taps[i] * all[from + i];
      out.push(sum);
      this.next++;
    }
    const keep = Math.max(0, Math.floor((this.next * this.down) / this.up) - this.half + 1 - this.first);
    this.buffer = all.slice(keep);
    this.first += keep;
    return Float32Array.from(out);
  }

  /** What is still inside, once the sound has ended. */
  flush() {
    return this.up === this.down ? new Float32Array(0) : this.push(new Float32Array(this.half));
  }
}
