// The map of items on a canvas, and small charts as SVG.

const SVG = "http://www.w3.org/2000/svg";
const MOVE_MS = 450;
const INTEREST_COLOURS = 6;

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export function sparkline(svg, values) {
  const most = Math.max(1, ...values);
  const points = values.map((value, index) => `${(index * 120) / Math.max(1, values.length - 1)},${27 - (25 * value) / most}`);
  svg.replaceChildren(element("polyline", { points: points.join(" ") }));
}

export function histogram(svg, counts) {
  const most = Math.max(1, ...counts);
  svg.replaceChildren(...counts.map((count, index) => {
    const height = count ? Math.max(1, (27 * count) / most) : 0;
    return element("rect", { x: index * 10 + 1, y: 28 - height, width: 8, height });
  }));
}

/** A bar from 0 to `end` with an interval and a mark in it. */
export function interval(low, high, rate, end) {
  const at = (value) => (100 * value) / end;
  const svg = element("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(
    element("rect", { class: "track", x: 0, y: 5, width: 100, height: 2 }),
    element("rect", { class: "interval", x: at(low), y: 3, width: Math.max(0.6, at(high) - at(low)), height: 6 }),
    element("rect", { class: "rate", x: at(rate) - 0.4, y: 0, width: 0.8, height: 12 }),
  );
  return svg;
}

export class ItemMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.places = new Map();
    this.labels = [];
    this.listed = [];
    this.clicked = [];
    this.interests = [];
    this.from = [];
    this.movedAt = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  setItems(map) {
    this.items = map;
    this.hues = [...new Set(map.labels)].sort();
    this.places = new Map(map.items.map((item, index) => [item, [map.x[index], map.y[index]]]));
    this.draw();
  }

  setUser(listed, clicked, interests) {
    const known = this.interests.length === interests.length;
    this.from = known ? this.current() : interests.map((point) => [point.x, point.y]);
    Object.assign(this, { listed, clicked, interests, movedAt: performance.now() });
    this.animate();
  }

  current() {
    const progress = this.still.matches ? 1 : Math.min(1, (performance.now() - this.movedAt) / MOVE_MS);
    const eased = 1 - (1 - progress) ** 3;
    return this.interests.map((point, index) => {
      const [x, y] = this.from[index] ?? [point.x, point.y];
      return [x + (point.x - x) * eased, y + (point.y - y) * eased];
    });
  }

  animate() {
    this.draw();
    if (performance.now() - this.movedAt < MOVE_MS && !this.still.matches) requestAnimationFrame(() => this.animate());
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.max(1, width * scale);
    this.canvas.height = Math.max(1, height * scale);
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    pen.scale(scale, scale);
    this.at = ([x, y]) => [width / 2 + x * (width / 2 - 14), height / 2 - y * (height / 2 - 14)];
    this.drawItems(pen, style);
    this.drawMarks(pen, style);
    this.drawInterests(pen, style);
  }

  drawItems(pen, style) {
    const light = style.getPropertyValue("--dot").trim();
    pen.globalAlpha = 0.5;
    (this.items?.items ?? []).forEach((item, index) => {
      const group = this.hues.indexOf(this.items.labels[index]);
      pen.fillStyle = this.hues.length > 1 ? `hsl(${(group * 137.5) % 360} 45% ${light})` : style.getPropertyValue("--muted");
      this.disc(pen, this.places.get(item), 1.7);
    });
    pen.globalAlpha = 1;
  }

  drawMarks(pen, style) {
    pen.fillStyle = pen.strokeStyle = style.getPropertyValue("--text");
    pen.lineWidth = 1.8;
    this.listed.forEach((item) => this.places.has(item) && this.disc(pen, this.places.get(item), 3.4));
    this.clicked.slice(0, 20).forEach((item, index) => {
      if (!this.places.has(item)) return;
      pen.globalAlpha = Math.max(0.25, 1 - index / 20);
      pen.beginPath();
      pen.arc(...this.at(this.places.get(item)), index === 0 ? 7 : 5, 0, 2 * Math.PI);
      pen.stroke();
    });
    pen.globalAlpha = 1;
  }

  drawInterests(pen, style) {
    this.current().forEach((point, index) => {
      const [x, y] = this.at(point);
      pen.fillStyle = style.getPropertyValue(`--interest-${index % INTEREST_COLOURS}`);
      pen.strokeStyle = style.getPropertyValue("--surface");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(x, y - 9); pen.lineTo(x + 9, y); pen.lineTo(x, y + 9); pen.lineTo(x - 9, y); pen.closePath();
      pen.fill();
      pen.stroke();
    });
  }

  disc(pen, place, radius) {
    pen.beginPath();
    pen.arc(...this.at(place), radius, 0, 2 * Math.PI);
    pen.fill();
  }
}
