"use strict";
// Draw charts from plain data. Each function draws into its element and returns a description of the chart.

const HUES = ["#3b6fe0", "#dd7a1c", "#159a78", "#b8489c", "#8d7414", "#4aa3cf", "#cc4b3c", "#7a68c9"];

// Plotly interprets tags in texts; names of runs must be shown unchanged.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shorter = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function faint(name, share) {
  const [red, green, blue] = colour(name).match(/[\d.]+/g).map(Number);
  return `rgba(${red}, ${green}, ${blue}, ${share})`;
}

function layout(more = {}) {
  const axis = { gridcolor: colour("rule"), linecolor: colour("strong-rule"), zeroline: false, automargin: true, ticks: "", title: { standoff: 12 } };
  return {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("muted") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 16, t: 30, b: 46 }, hovermode: "closest", showlegend: false, dragmode: false,
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("strong-rule"), font: { color: colour("ink"), size: 12.5 }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("accent") },
    ...more, ...Object.fromEntries(["xaxis", "yaxis"].map((name) => [name, { ...axis, ...more[name], title: { ...axis.title, ...more[name]?.title } }])),
  };
}

function draw(element, traces, more, words) {
  const options = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] }; // no button that sends data to a server
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", words);
  Plotly.react(element, traces, { ...layout(more), ...(document.body.dataset.paper && { width: element.clientWidth }) }, options);
  return words;
}

function nothing(element, words) {
  Plotly.purge(element);
  element.style.minWidth = "";
  const line = document.createElement("p");
  line.className = "empty";
  line.textContent = words;
  element.removeAttribute("role");
  element.removeAttribute("aria-label");
  element.replaceChildren(line);
  return "";
}

// lines: [{name, epochs, values, hue (undefined: in the background), label}]
function drawCurves(element, lines, metric) {
  if (!lines.length) return nothing(element, `None of these runs recorded ${metric}.`);
  const named = new Set();
  const traces = lines.map((line) => ({
    x: line.epochs, y: line.values, mode: line.epochs.length > 1 ? "lines" : "markers",
    name: plain(shorter(line.label, 64)), legendgroup: line.label,
    showlegend: line.hue !== undefined && !named.has(line.label) && Boolean(named.add(line.label)),
    line: { color: line.hue === undefined ? colour("strong-rule") : HUES[line.hue % HUES.length], width: line.hue === undefined ? 1 : 2 },
    marker: { color: line.hue === undefined ? colour("strong-rule") : HUES[line.hue % HUES.length], size: 7 },
    hovertemplate: `${plain(line.name)}<br>epoch %{x}: %{y:.4f}<extra></extra>`,
  }));
  const whole = Math.max(...lines.map((line) => line.epochs.at(-1) ?? 0)) < 8;
  return draw(element, traces, {
    xaxis: { title: { text: "epoch", standoff: 8 }, ...(whole && { dtick: 1 }) }, yaxis: { title: { text: metric }, tickformat: metric.endsWith("top1") ? ".3f" : "" },
    showlegend: true, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { color: colour("ink") } },
  }, `${metric} by epoch, ${lines.length} ${lines.length === 1 ? "run" : "runs"}. The table below has the values.`);
}

// points: [{x, y, name, more, hue}]
function drawCost(element, points, xTitle, yTitle, onPick) {
  if (!points.length) return nothing(element, `None of these runs has both ${yTitle} and ${xTitle}.`);
  const xs = points.map((point) => point.x);
  const wide = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 15;
  const front = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) if (!front.length || point.y > front.at(-1).y) front.push(point);
  front.push({ x: Math.max(...xs), y: front.at(-1).y });
  const traces = [
    { x: front.map((p) => p.x), y: front.map((p) => p.y), mode: "lines", line: { color: colour("muted"), width: 1.2, dash: "dot", shape: "hv" }, hoverinfo: "skip" },
    {
      x: xs, y: points.map((p) => p.y), mode: "markers", customdata: points.map((p) => p.index),
      text: points.map((p) => `${plain(p.name)}<br>${plain(p.more)}`), hovertemplate: `%{text}<br>${yTitle} %{y:.4f}<br>${xTitle} %{x:.4s}<extra></extra>`,
      marker: {
        size: points.map((p) => (p.hue === undefined ? 9 : 13)), opacity: points.map((p) => (p.hue === undefined ? 0.6 : 1)),
        color: points.map((p) => (p.hue === undefined ? colour("accent") : HUES[p.hue % HUES.length])), line: { width: 1, color: colour("paper") },
      },
    },
  ];
  const words = draw(element, traces, {
    xaxis: { title: { text: wide ? `${xTitle}, logarithmic` : xTitle }, tickformat: "~s", ...(wide && { type: "log", dtick: 1 }) },
    yaxis: { title: { text: yTitle }, tickformat: ".3~f" },
  }, `${yTitle} against ${xTitle}, ${points.length} runs. The leaderboard has the values.`);
  element.removeAllListeners("plotly_click");
  element.on("plotly_click", (event) => event.points[0].customdata !== undefined && onPick(event.points[0].customdata));
  return words;
}

// axes: [{title, values (number, text or null, one for each run)}]; runs: [{name, hue}]; the last axis determines the colour
function drawParallel(element, axes, runs) {
  if (axes.length < 2) return nothing(element, "No hyperparameter differs between these runs.");
  const places = axes.map(placed);
  element.style.minWidth = `${axes.length * 7.5}rem`;
  const outcome = places.at(-1).at;
  const traces = [];
  const line = (members, style) => traces.push({
    x: members.flatMap(() => [...axes.keys(), null]), y: members.flatMap((run) => [...places.map((place) => place.at[run]), null]),
    text: members.flatMap((run) => [...axes.map((axis) => `${plain(runs[run].name)}<br>${plain(axis.title)}: ${plain(axis.values[run] ?? "–")}`), ""]),
    hovertemplate: "%{text}<extra></extra>", mode: "lines+markers", marker: { size: 4 }, ...style,
  });
  const known = [...runs.keys()].filter((run) => outcome[run] !== null);
  const unknown = [...runs.keys()].filter((run) => outcome[run] === null);
  if (unknown.length) line(unknown, { line: { color: faint("muted", 0.25), width: 1 } });
  const ranked = known.sort((a, b) => outcome[a] - outcome[b]);
  const levels = Math.min(6, ranked.length);
  for (let level = 0; level < levels; level++) {
    const members = ranked.slice(Math.floor((level * ranked.length) / levels), Math.floor(((level + 1) * ranked.length) / levels));
    line(members, { line: { color: faint("accent", 0.12 + (0.75 * (level + 1)) / levels), width: 0.8 + (1.2 * (level + 1)) / levels } });
  }
  for (const run of runs.keys()) if (runs[run].hue !== undefined) line([run], { line: { color: HUES[runs[run].hue % HUES.length], width: 3 } });
  const label = (text, x, y, more) => ({ text: plain(text), x, y, showarrow: false, font: { size: 11.5, color: colour("muted") }, ...more });
  const annotations = places.flatMap((place, i) => [
    label(shorter(axes[i].title, 26), i, 1.09, { font: { size: 12, color: colour("ink") } }),
    ...place.ticks.map(([text, y]) => label(shorter(text, 18), i, y, { xanchor: i === axes.length - 1 ? "left" : "right", xshift: i === axes.length - 1 ? 7 : -7, bgcolor: faint("paper", 0.8), borderpad: 1 })),
  ]);
  return draw(element, traces, {
    xaxis: { visible: false, range: [-0.06, axes.length - 0.94], fixedrange: true }, yaxis: { visible: false, range: [-0.06, 1.14], fixedrange: true },
    shapes: axes.map((_, i) => ({ type: "line", x0: i, x1: i, y0: 0, y1: 1, line: { color: colour("strong-rule"), width: 1 }, layer: "below" })),
    annotations, margin: { l: 20 + 6 * Math.max(...places[0].ticks.map(([text]) => Math.min(text.length, 18))), r: 56, t: 30, b: 8 },
  }, `Parallel coordinates of ${axes.map((axis) => axis.title).join(", ")}, ${runs.length} runs. The leaderboard has the values.`);
}

// Convert the values of an axis to heights from 0 to 1, with ticks: numbers to scale, texts at equal distances.
function placed({ values, format = String }) {
  const some = [...new Set(values.filter((value) => value !== null))];
  if (some.every((value) => typeof value === "number")) {
    const low = Math.min(...some), high = Math.max(...some);
    const scale = low > 0 && high / low > 20 ? Math.log : Number;
    const at = (value) => (value === null ? null : high > low ? (scale(value) - scale(low)) / (scale(high) - scale(low)) : 0.5);
    const ends = [low, high];
    return { at: values.map(at), ticks: (some.length <= 6 ? some : ends).map((value) => [format(value), at(value)]) };
  }
  const words = some.map(String).sort();
  const at = (value) => (value === null ? null : words.length > 1 ? words.indexOf(String(value)) / (words.length - 1) : 0.5);
  const shown = words.length <= 12 ? words : words.filter((_, i) => i % Math.ceil(words.length / 12) === 0);
  return { at: values.map(at), ticks: shown.map((word) => [word, at(word)]) };
}

function drawConfusion(element, { names, matrix }) {
  const shares = matrix.map((row) => { const sum = row.reduce((a, b) => a + b, 0); return row.map((n) => (sum ? n / sum : 0)); });
  const short = names.map((name) => plain(shorter(name, 16)));
  const places = [...names.keys()];
  const tick = { tickmode: "array", tickvals: places, ticktext: short, showgrid: false, constrain: "domain" };
  const few = names.length <= 14;
  const ink = (share) => (share > 0.55 ? colour("paper") : colour("ink"));
  element.style.height = `${Math.min(44, 20 + Math.max(names.length, 8) * 0.5)}rem`;
  return draw(element, [{
    type: "heatmap", x: places, y: places, z: shares, customdata: matrix, zmin: 0, zmax: 1, xgap: 1, ygap: 1, showscale: false,
    colorscale: [[0, colour("sunken")], [0.001, faint("accent", 0.06)], [0.25, faint("accent", 0.45)], [1, colour("accent")]],
    text: matrix.map((row) => row.map((_, i) => short[i])),
    hovertemplate: "true %{y}: predicted as %{text}<br>%{customdata} images, %{z:.1%}<extra></extra>",
  }], {
    xaxis: { ...tick, title: { text: "predicted" }, side: "bottom", tickangle: names.some((name) => name.length > 3) ? -45 : 0 }, yaxis: { ...tick, title: { text: "true" }, autorange: "reversed", scaleanchor: "x" },
    annotations: few ? shares.flatMap((row, y) => row.map((share, x) => ({ x, y, text: matrix[y][x] ? String(matrix[y][x]) : "", showarrow: false, font: { size: 11, color: ink(share) } }))) : [],
    margin: { l: 60, r: 6, t: 30, b: 60 },
  }, `Confusion matrix of ${names.length} classes, rows are the true classes. The table of confused pairs has the largest entries.`);
}

// points: [class, x, y], in the order of the line; classes: number of all classes; chance: add a dotted diagonal
function drawRates(element, points, classes, xTitle, yTitle, chance) {
  const names = [...new Set(points.map(([name]) => name))];
  const lines = names.map((name, i) => {
    const own = points.filter((point) => point[0] === name);
    return { x: own.map((point) => point[1]), y: own.map((point) => point[2]), mode: "lines", name: plain(shorter(name, 32)), line: { color: HUES[i % HUES.length], width: 2 }, hovertemplate: `${plain(name)}<br>${xTitle} %{x:.3f}, ${yTitle} %{y:.3f}<extra></extra>` };
  });
  const shown = names.length < classes ? `the first ${names.length} of ${classes} classes` : classes === 1 ? "1 class" : `${classes} classes`;
  const diagonal = { x: [0, 1], y: [0, 1], mode: "lines", line: { color: colour("muted"), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false };
  return draw(element, chance ? [diagonal, ...lines] : lines, {
    xaxis: { title: { text: xTitle, standoff: 8 }, range: [-0.01, 1.01], dtick: 0.2 }, yaxis: { title: { text: yTitle }, range: [-0.01, 1.02], dtick: 0.2 },
    showlegend: true, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { color: colour("ink") } },
  }, `${yTitle[0].toUpperCase()}${yTitle.slice(1)} against ${xTitle} of ${shown}, each compared with all others. The table has the values.`);
}

// bins: [low, high, images, accuracy, confidence]
function drawCalibration(element, bins) {
  const full = bins.filter((bin) => bin[2]);
  const middle = (bin) => (bin[0] + bin[1]) / 2;
  const widths = full.map((bin) => (bin[1] - bin[0]) * 0.92);
  const images = full.reduce((sum, bin) => sum + bin[2], 0);
  return draw(element, [
    { x: [0, 1], y: [0, 1], mode: "lines", line: { color: colour("muted"), width: 1, dash: "dot" }, hoverinfo: "skip" },
    { type: "bar", x: full.map(middle), y: full.map((bin) => bin[3]), width: widths, marker: { color: faint("accent", 0.28) }, customdata: full, hovertemplate: "confidence %{customdata[4]:.3f}, accuracy %{y:.3f}<br>%{customdata[2]} images<extra></extra>" },
    { x: full.map((bin) => bin[4]), y: full.map((bin) => bin[3]), mode: "lines+markers", line: { color: colour("accent"), width: 2 }, marker: { size: 6, color: colour("accent") }, hoverinfo: "skip" },
    { type: "bar", x: full.map(middle), y: full.map((bin) => bin[2] / images), width: widths, yaxis: "y2", marker: { color: faint("muted", 0.5) }, hoverinfo: "skip" },
  ], {
    xaxis: { title: { text: "confidence" }, range: [0, 1], dtick: 0.2, anchor: "y2" }, yaxis: { title: { text: "accuracy" }, range: [0, 1.02], domain: [0.26, 1], dtick: 0.2 },
    yaxis2: { domain: [0, 0.16], title: { text: "images", font: { size: 11 } }, tickformat: ".0%", nticks: 3, gridcolor: colour("rule"), zeroline: false, automargin: true },
    bargap: 0,
  }, `Accuracy by confidence in ${full.length} bins; on the dotted line they are equal. The table has the values.`);
}
