// Charts as SVG: the votes as they come in, and their entropy by noise level.

// As wide as its place, so that letters keep their size.
const widthOf = (place) => Math.max(300, place.clientWidth || 640);
const colour = (k) => `var(--c${k % 6})`;

export function element(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    // An attribute could not name a colour of the page's palette.
    if (key === "fill" || key === "stroke") made.style[key] = value;
    else made.setAttribute(key, value);
  }
  made.textContent = text;
  return made;
}

function frame(width, height, label) {
  return element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

const points = (list) => list.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

// The votes of one image: who won each trial so far.
export class VoteChart {
  constructor(place, model) {
    Object.assign(this, { place, model, won: [], ending: null });
    this.draw();
  }

  add(won) {
    this.won.push(...won);
    this.draw();
  }

  end(text) {
    this.ending = text;
    this.draw();
  }

  draw() {
    this.width = widthOf(this.place);
    const two = this.model.classes.length === 2;
    this.place.replaceChildren(two ? this.leads() : this.shares());
  }

  // Shown as far as there are trials, and some room ahead.
  get span() {
    return Math.min(this.model.trials, Math.max(40, Math.ceil((this.won.length * 1.25) / 20) * 20));
  }

  label(what) {
    return `${what} after each of ${this.won.length} trials. ${this.ending ?? ""}`;
  }

  axis(svg, x, bottom) {
    const step = this.span > 200 ? 100 : this.span > 80 ? 20 : 10;
    for (let n = 0; n <= this.span; n += step) {
      svg.append(element("text", { x: x(n), y: bottom, "text-anchor": "middle" }, n || ""));
    }
    svg.append(element("text", { x: this.width, y: bottom + 16, "text-anchor": "end" }, "trials"));
  }

  // Two classes: the lead of one over the other, and where it stops the image.
  leads() {
    const { classes, boundary } = this.model;
    const up = classes.indexOf(this.model.positive ?? classes[1]);
    const [height, middle, left] = [232, 104, 4];
    const svg = frame(this.width, height, this.label(`Lead in votes of ${classes[up]}`));
    const lead = [0];
    for (const k of this.won) lead.push(lead.at(-1) + (k === null ? 0 : k === up ? 1 : -1));
    // A lead cannot exceed the trials, and beyond the run's length there is no stop.
    const walls = (boundary ?? []).slice(0, this.span).map((b, i) => [i + 1, b]);
    const reached = walls.filter(([n, b]) => b <= n);
    const top = Math.max(10, ...lead.map(Math.abs), ...reached.map(([, b]) => b)) * 1.2;
    const x = (n) => left + (n / this.span) * (this.width - left - 12);
    const y = (votes) => middle - (votes / top) * (middle - 8);
    for (const sign of [1, -1]) {
      const own = colour(sign === 1 ? up : 1 - up);
      if (reached.length) {
        const edge = reached.map(([n, b]) => [x(n), y(sign * b)]);
        const beyond = y(sign * top);
        const wall = [...edge, [edge.at(-1)[0], beyond], [edge[0][0], beyond]];
        svg.append(element("polygon", { points: points(wall), class: "wall", fill: own }));
        svg.append(element("polyline", { points: points(edge), class: "edge", stroke: own }));
      }
      const name = classes[sign === 1 ? up : 1 - up];
      const place = { x: x(0) + 4, y: sign === 1 ? 18 : 2 * middle - 10, fill: own };
      svg.append(element("text", place, `${sign === 1 ? "▲" : "▼"} ${name}`));
    }
    svg.append(element("line", { x1: x(0), x2: x(this.span), y1: y(0), y2: y(0), class: "axis" }));
    if (reached.length) {
      const at = { x: this.width - 16, y: y(0) - 7, "text-anchor": "end" };
      svg.append(element("text", at, "undecided"));
    }
    svg.append(element("polyline", { points: points(lead.map((l, n) => [x(n), y(l)])), class: "path" }));
    const end = { cx: x(lead.length - 1), cy: y(lead.at(-1)), r: 4.5, fill: "var(--ink)" };
    svg.append(element("circle", end));
    this.axis(svg, x, 2 * middle + 8);
    return svg;
  }

  // More classes: the share of the votes of each.
  shares() {
    const [height, bottom] = [212, 184];
    const svg = frame(this.width, height, this.label("Share of the votes of each class"));
    const x = (n) => 30 + (n / this.span) * (this.width - 42);
    const y = (share) => bottom - share * (bottom - 8);
    for (const share of [0, 0.5, 1]) {
      svg.append(element("line", { x1: x(0), x2: x(this.span), y1: y(share), y2: y(share), class: "axis" }));
      svg.append(element("text", { x: 0, y: y(share) + 4 }, share));
    }
    this.model.classes.forEach((_, k) => {
      let votes = 0;
      const path = this.won.map((won, i) => [x(i + 1), y((votes += won === k) / (i + 1))]);
      svg.append(element("polyline", { points: points(path), class: "path", stroke: colour(k) }));
    });
    this.axis(svg, x, bottom + 18);
    return svg;
  }
}

// Votes, share and its bounds of each class.
export function drawBars(place, classes, said) {
  const trials = Math.max(said.trials, 1);
  const rows = classes.map((name, k) => {
    const row = document.createElement("div");
    row.className = "vote-row";
    const [label, track, count] = ["span", "span", "span"].map((tag) => document.createElement(tag));
    label.className = "name";
    label.textContent = name;
    track.className = "track";
    const [fill, interval] = [document.createElement("div"), document.createElement("div")];
    fill.className = "fill";
    fill.style.width = `${(100 * said.votes[k]) / trials}%`;
    fill.style.background = colour(k);
    interval.className = "interval";
    interval.style.left = `${100 * said.share_low[k]}%`;
    interval.style.right = `${100 * (1 - said.share_high[k])}%`;
    track.append(fill, interval);
    const votes = Number.isInteger(said.votes[k]) ? said.votes[k] : said.votes[k].toFixed(1);
    const [low, high] = [said.share_low[k], said.share_high[k]].map((s) => Math.round(100 * s));
    count.className = "count";
    const bounds = low === high ? `${low}%` : `${low} to ${high}%`;
    count.textContent = `${votes} of ${said.trials}; ${bounds}`;
    row.append(label, track, count);
    return row;
  });
  place.replaceChildren(...rows);
}

// Entropy of the votes by noise level, and the shares below.
export function drawNoise(place, classes, levels) {
  const most = Math.log2(classes.length);
  const width = widthOf(place);
  const [height, bottom, left] = [196, 116, 34];
  const spoken = levels.map((l) => `log-SNR ${l.logsnr.toFixed(1)}: ${l.entropy_bits.toFixed(2)} bits`);
  const svg = frame(width, height, `Entropy by noise level. ${spoken.join("; ")}`);
  const step = (width - left) / levels.length;
  for (const bits of [0, most / 2, most]) {
    const y = bottom - (bits / most) * (bottom - 10);
    svg.append(element("line", { x1: left, x2: width, y1: y, y2: y, class: "axis" }));
    svg.append(element("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, +bits.toFixed(1)));
  }
  levels.forEach((level, i) => {
    const [x, wide] = [left + i * step + 5, step - 10];
    const tall = (level.entropy_bits / most) * (bottom - 10);
    svg.append(element("rect", { x, width: wide, y: bottom - tall, height: Math.max(tall, 1.5), class: "bar", rx: 2 }));
    let from = x;
    classes.forEach((name, k) => {
      const part = wide * level.vote_share[name];
      svg.append(element("rect", { x: from, width: part, y: bottom + 10, height: 14, fill: colour(k) }));
      from += part;
    });
    const middle = { x: x + wide / 2, y: bottom + 42, "text-anchor": "middle" };
    svg.append(element("text", middle, level.logsnr.toFixed(1)));
  });
  svg.append(element("text", { x: left, y: height - 16 }, "much noise"));
  svg.append(element("text", { x: width, y: height - 16, "text-anchor": "end" }, "little noise (log-SNR)"));
  svg.append(element("text", { x: left, y: 4 }, "bits"));
  place.replaceChildren(svg);
}
