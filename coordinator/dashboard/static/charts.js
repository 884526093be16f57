// Charts as SVG. Each function takes values and returns one element; nothing here knows of federations.

const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 22;

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function figure(width, height, label) {
  return element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

function text(x, y, content, anchor = "start") {
  return element("text", { x, y, "text-anchor": anchor }, content);
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000 || size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

// A line chart. `series`: [{ points: [[x, y], ...], kind: "first" | "second" }]; `mark`: an x to draw a line at.
export function lines(series, { width, height = 200, label, format = short, from = null, to = null, mark = null, xName = "round" }) {
  const points = series.flatMap((each) => each.points);
  if (points.length === 0) return null;
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const x0 = xs.reduce((a, b) => Math.min(a, b)), x1 = Math.max(xs.reduce((a, b) => Math.max(a, b)), x0 + 1);
  let y0 = from ?? ys.reduce((a, b) => Math.min(a, b)), y1 = to ?? ys.reduce((a, b) => Math.max(a, b));
  if (y0 === y1) { y0 -= Math.abs(y0) * 0.1 || 0.5; y1 += Math.abs(y1) * 0.1 || 0.5; }
  const x = (value) => LEFT + ((value - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - ((value - y0) / (y1 - y0)) * (height - TOP - BOTTOM);
  const svg = figure(width, height, label);
  for (let tick = 0; tick <= 4; tick++) {
    const value = y0 + ((y1 - y0) * tick) / 4;
    svg.append(element("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "axis" }));
    svg.append(text(LEFT - 6, y(value) + 4, format(value), "end"));
  }
  svg.append(text(LEFT, height - 5, `${xName} ${x0}`), text(width - RIGHT, height - 5, String(x1), "end"));
  if (mark !== null) svg.append(element("line", { x1: x(mark), x2: x(mark), y1: TOP, y2: height - BOTTOM, class: "mark" }));
  for (const { points: own, kind } of series) {
    if (own.length === 0) continue;
    const d = own.map(([a, b], index) => `${index ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    svg.append(element("path", { d: own.length === 1 ? `${d}h0.1` : d, class: `line ${kind}`, "stroke-linecap": "round" }));
  }
  return svg;
}

// A heat map: a row a name, a column an entry of `columns`; `columns[c][r]` is a number. Many columns are thinned out.
export function heatmap(names, columns, { width, label, describe, limit = 200 }) {
  if (columns.length === 0) return null;
  const step = Math.ceil(columns.length / limit);
  const shown = columns.map((values, index) => [index, values]).filter(([index]) => index % step === 0);
  const longest = names.reduce((most, name) => Math.max(most, name.length), 0);
  const left = Math.min(8 + 6.2 * longest, width / 3), row = names.length > 40 ? 9 : 16;
  const height = names.length * row + BOTTOM;
  const svg = figure(width, height, label);
  const values = shown.flatMap(([, each]) => each);
  const low = values.reduce((a, b) => Math.min(a, b)), high = Math.max(values.reduce((a, b) => Math.max(a, b)), low + 1);
  const cell = (width - left - RIGHT) / shown.length;
  names.forEach((name, index) => {
    if (row > 10) svg.append(text(left - 6, index * row + row - 4, name.length * 6.2 > left ? `…${name.slice(-Math.floor(left / 6.6))}` : name, "end"));
  });
  shown.forEach(([cycle, each], column) => {
    each.forEach((value, index) => {
      const share = (value - low) / (high - low);
      const box = element("rect", {
        x: left + column * cell, y: index * row, width: cell + 0.3, height: row - 1, fill: shade(share),
      });
      box.append(element("title", {}, describe(names[index], cycle, value)));
      svg.append(box);
    });
  });
  svg.append(text(left, height - 5, "cycle 1"), text(width - RIGHT, height - 5, String(columns.length), "end"));
  return svg;
}

function shade(share) {
  const style = getComputedStyle(document.documentElement);
  const [from, to] = ["--scale-from", "--scale-to"].map((name) => style.getPropertyValue(name).split(",").map(Number));
  return `rgb(${from.map((value, index) => Math.round(value + (to[index] - value) * share)).join(" ")})`;
}
