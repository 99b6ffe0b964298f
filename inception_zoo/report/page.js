// State of the page: filter, sort order, expanded groups, selected runs, and the run shown in detail.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs.map((run, index) => ({ ...run, index }));
const BEST_SHOWN = 8; // maximum number of groups with drawn curves
const PARALLEL_AXES = 9; // maximum number of axes
const WORD_COLUMNS = 6; // up to this number, each varying key has its own column

const view = { words: [], state: "", key: "val", falling: true, open: new Set(), everySeed: false, chosen: new Set(), run: 0 };
const $ = (id) => document.getElementById(id);

// --- helpers

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const grouped = (number, digits) => number.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const plural = (count, word) => `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;
const FIGURES = {
  val: { title: "val top-1", show: (v) => v.toFixed(4) },
  test: { title: "test top-1", show: (v) => v.toFixed(4) },
  ap: { title: "test AP", show: (v) => v.toFixed(4), long: "test average precision, the mean over the labels" },
  recall: { title: "test recall@1", show: (v) => v.toFixed(4) },
  ece: { title: "ece", show: (v) => v.toFixed(4), rising: true, long: "expected calibration error" },
  parameters: { title: "params, M", show: (v) => grouped(v / 1e6, 2), rising: true, same: true, long: "parameters" },
  multiply_adds: { title: "mult-adds, M", show: (v) => grouped(v / 1e6, 0), rising: true, same: true, long: "multiply-adds per image" },
  speed: { title: "images/s", show: (v) => grouped(v, 0), plainMean: true, long: "images per second in training" },
  minutes: { title: "minutes", show: (v) => grouped(v, 1), rising: true, plainMean: true },
};

const accuracy = (run) => run.val ?? run.test ?? run.ap ?? run.recall ?? -1;
const said = (run, key) => run.overrides[key] ?? configOf(run)[key] ?? null;
function configOf(run) {
  const config = { ...DATA.config, ...run.config };
  for (const key of Object.keys(config)) if (config[key] === null) delete config[key];
  return config;
}
const number = (text) => (text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
const VARYING = DATA.varying.map((key) => {
  const values = RUNS.map((run) => said(run, key));
  return { key, values, numeric: values.every((value) => value === null || number(value) !== null) };
});
const GROUP_SIZES = new Map();
for (const run of RUNS) GROUP_SIZES.set(run.group, (GROUP_SIZES.get(run.group) ?? 0) + 1);
const wordColumns = VARYING.length <= WORD_COLUMNS ? VARYING : [];
const otherWords = (run) => VARYING.filter((v) => v.values[run.index] !== null).map((v) => `${v.key}=${v.values[run.index]}`).join("  ");
for (const run of RUNS) run.searched = [run.name, run.model, run.swapped, run.state, run.reason, `seed=${run.seed}`, ...VARYING.map((v) => `${v.key}=${v.values[run.index]}`)].join(" ").toLowerCase();

// --- groups: runs that differ only in their seed, after filtering

function statistics(values) {
  if (!values.length) return { mean: null, sd: null, n: 0 };
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const sd = values.length > 1 ? Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1)) : null;
  return { mean, sd, n: values.length };
}

const shownRuns = () => RUNS.filter((run) => (!view.state || run.state === view.state) && view.words.every((word) => run.searched.includes(word)));

function groupsOf(runs) {
  const groups = new Map();
  for (const run of runs) groups.has(run.group) ? groups.get(run.group).push(run) : groups.set(run.group, [run]);
  return [...groups.entries()].map(([id, members]) => {
    members.sort((a, b) => (a.seed ?? Infinity) - (b.seed ?? Infinity) || a.index - b.index);
    const finished = members.filter((run) => run.state === "finished");
    const latest = new Map(finished.map((run) => [run.seed ?? run.index, run])); // of a repeated seed only the last run counts
    const counted = members.length > 1 ? [...latest.values()] : members;
    const figures = {};
    for (const key of Object.keys(FIGURES)) figures[key] = statistics(counted.map((run) => run[key]).filter((value) => value !== null));
    const best = members.reduce((a, b) => (accuracy(b) > accuracy(a) ? b : a));
    return { id, members, figures, best, counted: counted.length };
  });
}

function sortValue(group, key) {
  if (key in FIGURES) return group.figures[key].mean;
  const first = group.members[0];
  if (key === "name") return first.name;
  if (key === "words") return otherWords(first) || null;
  if (key === "state") return stateWords(group.members);
  if (key.startsWith("=")) return VARYING.find((v) => v.key === key.slice(1)).numeric ? number(said(first, key.slice(1))) : said(first, key.slice(1));
  return first[key] || null;
}

function ordered(groups) {
  const direction = view.falling ? -1 : 1;
  const compare = (a, b) => {
    const [x, y] = [sortValue(a, view.key), sortValue(b, view.key)];
    if (x === null || y === null) return (x === null) - (y === null); // missing values come last in both directions
    return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  };
  return groups.sort(compare);
}

function stateWords(runs) {
  const counts = new Map();
  for (const run of runs) counts.set(run.state, (counts.get(run.state) ?? 0) + 1);
  return counts.size === 1 ? runs[0].state : [...counts].map(([state, count]) => `${count} ${state}`).join(", ");
}

// --- leaderboard

const COLUMNS = [
  { key: "name", title: "run" }, { key: "model", title: "model" }, { key: "swapped", title: "block changes" },
  ...wordColumns.map((v) => ({ key: `=${v.key}`, title: v.key, mono: true })),
  ...(VARYING.length > wordColumns.length ? [{ key: "words", title: "varying overrides" }] : []),
  { key: "state", title: "state" },
  ...Object.entries(FIGURES).filter(([key]) => RUNS.some((run) => run[key] !== null)).map(([key, figure]) => ({ key, title: figure.title, long: figure.long, numeric: true })),
];

function boardHead() {
  const cells = COLUMNS.map((column) => h("th", { scope: "col", "data-key": column.key, class: [column.numeric && "number", column.mono && "key"].filter(Boolean).join(" ") || null },
    h("button", { type: "button", title: column.long, onclick: () => sortBy(column.key) }, column.title)));
  $("board").tHead.replaceChildren(h("tr", {}, h("th", { scope: "col", class: "tick" }, h("span", { class: "hidden" }, "compare")), cells));
}

function sortBy(key) {
  const bestFirst = key in FIGURES && !FIGURES[key].rising;
  view.falling = view.key === key ? !view.falling : bestFirst;
  view.key = key;
  showBoard();
}

function figureCell(key, { mean, sd }, isGroup, anySd) {
  const figure = FIGURES[key];
  if (mean === null) return h("td", { class: "number none" }, "–", padding(anySd, key));
  const spread = isGroup && sd !== null && !figure.same && !figure.plainMean ? h("span", { class: "sd" }, ` ± ${figure.show(sd)}`) : padding(anySd, key);
  return h("td", { class: "number" }, figure.show(mean), spread);
}
const padding = (anySd, key) => (anySd && !FIGURES[key].same && !FIGURES[key].plainMean ? h("span", { class: "sd" }) : null);

function stateCell(runs) {
  const kinds = [...new Set(runs.map((run) => run.state))];
  const reason = runs.length === 1 ? runs[0].reason : null;
  return h("td", { class: "state" }, h("span", { class: `mark ${kinds.length === 1 ? kinds[0] : "mixed"}` }),
    h("span", { class: kinds.length === 1 && kinds[0] === "failed" ? "failed-word" : null }, stateWords(runs)), reason && h("span", { class: "reason" }, reason));
}

const dash = () => h("span", { class: "none" }, "–");
const none = () => h("span", { class: "none" }, "none");
function row(kind, runs, figures, runCell, anySd) {
  const run = runs.reduce((a, b) => (accuracy(b) > accuracy(a) ? b : a));
  const label = runs.length > 1 ? `Compare the best of ${plural(runs.length, "run")} of ${run.model}: ${run.name}` : `Compare ${run.name}`;
  const tick = h("input", { type: "checkbox", "aria-label": label, title: runs.length > 1 ? "the best run of the group" : null, onchange: (event) => choose(run.index, event.target.checked) });
  tick.checked = view.chosen.has(run.index);
  const cells = COLUMNS.map(({ key }) => {
    if (key === "name") return runCell;
    if (key === "state") return stateCell(runs);
    if (key in FIGURES) return figureCell(key, figures[key], kind === "group", anySd);
    if (key === "words") return h("td", { class: "key words" }, otherWords(run) || dash());
    if (key.startsWith("=")) return h("td", { class: "key" }, said(run, key.slice(1)) ?? dash());
    return h("td", {}, run[key] || (key === "swapped" ? none() : dash()));
  });
  return h("tr", { class: `${kind}${tick.checked ? " chosen" : ""}`, "data-run": run.index }, h("td", { class: "tick" }, tick), cells);
}

const runLink = (run) => h("button", { type: "button", class: "link", title: "show details", onclick: () => showRun(run.index, true) }, run.name);
const single = (run) => Object.fromEntries(Object.keys(FIGURES).map((key) => [key, { mean: run[key], sd: null }]));

function showBoard() {
  const runs = shownRuns();
  const groups = ordered(groupsOf(runs));
  const anySd = groups.some((group) => group.figures.val.sd !== null || group.figures.test.sd !== null);
  const rows = [];
  for (const group of groups) {
    if (group.members.length === 1) {
      const [run] = group.members;
      rows.push(row("single", [run], single(run), h("td", { class: "run" }, runLink(run), run.seed !== null && GROUP_SIZES.get(run.group) > 1 ? h("span", { class: "reason" }, `seed ${run.seed}`) : null), anySd));
      continue;
    }
    const isOpen = view.everySeed || view.open.has(group.id);
    const seeds = [...new Set(group.members.map((run) => run.seed).filter((seed) => seed !== null))].join(", ");
    const n = group.counted === group.members.length ? `n = ${group.counted}` : `n = ${group.counted} of ${group.members.length}`;
    const fold = h("button", { type: "button", class: "fold", "aria-expanded": String(isOpen), "aria-label": `Runs of ${group.best.model}, seeds ${seeds}`, "data-group": group.id, onclick: () => { view.open.has(group.id) ? view.open.delete(group.id) : view.open.add(group.id); showBoard(); document.querySelector(`[data-group="${group.id}"]`).focus(); } });
    const common = commonPart(group.members.map((run) => run.name));
    rows.push(row("group", group.members, group.figures, h("td", { class: "run" }, fold, `${common}seeds ${seeds} `, h("span", { class: "count" }, n)), anySd));
    if (isOpen) for (const run of group.members) rows.push(row("member", [run], single(run), h("td", { class: "run" }, runLink(run), h("span", { class: "reason" }, `seed ${run.seed ?? "–"}`)), anySd));
  }
  $("board").tBodies[0].replaceChildren(...rows);
  for (const cell of $("board").tHead.querySelectorAll("th[data-key]")) {
    if (cell.dataset.key === view.key) cell.setAttribute("aria-sort", view.falling ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const part = runs.length === RUNS.length ? plural(runs.length, "run") : `${runs.length} of ${plural(RUNS.length, "run")}`;
  const words = `${part} in ${plural(groups.length, "group")}`;
  if ($("count").textContent !== words) $("count").textContent = words;
}

function commonPart(names) {
  const folders = names.map((name) => name.split("/").slice(0, -1).join("/"));
  return folders[0] && folders.every((folder) => folder === folders[0]) ? `${folders[0]}, ` : "";
}

// --- comparison

function choose(index, isChosen) {
  isChosen ? view.chosen.add(index) : view.chosen.delete(index);
  for (const line of $("board").tBodies[0].rows) {
    const has = view.chosen.has(Number(line.dataset.run));
    line.classList.toggle("chosen", has);
    line.querySelector("input").checked = has;
  }
  showComparison();
  refresh();
}

const hueOf = (run) => { const place = [...view.chosen].indexOf(run.index); return place < 0 ? undefined : place; };

function showComparison() {
  const runs = [...view.chosen].map((index) => RUNS[index]);
  $("tray").hidden = !runs.length;
  $("tray").replaceChildren(`${plural(runs.length, "run")} selected`, runs.length > 1 ? h("a", { href: "#comparison" }, "Compare") : "select another run to compare", h("button", { type: "button", onclick: () => { view.chosen.clear(); showBoard(); showComparison(); refresh(); } }, "Clear"));
  if (runs.length < 2) {
    $("diff").replaceChildren(h("p", { class: "empty" }, "Select two or more runs in the leaderboard. This section then lists the config keys that differ, and the charts highlight the runs."));
    return;
  }
  const configs = runs.map(configOf);
  const keys = [...new Set(configs.flatMap(Object.keys))].filter((key) => new Set(configs.map((config) => config[key] ?? "null")).size > 1).sort(); // a missing key equals null
  const head = h("tr", {}, h("th", { scope: "col" }, "key"), runs.map((run) => h("th", { scope: "col" }, h("span", { class: "mark", style: `background:${HUES[hueOf(run) % HUES.length]}` }), run.name)));
  const outcomes = Object.entries(FIGURES).filter(([key]) => runs.some((run) => run[key] !== null)).map(([key, figure]) => h("tr", {}, h("th", { scope: "row" }, figure.long ? `${figure.long}${figure.title.endsWith(", M") ? ", M" : ""}` : figure.title), runs.map((run) => h("td", { class: "value" }, run[key] === null ? dash() : figure.show(run[key])))));
  const body = keys.map((key) => h("tr", {}, h("th", { scope: "row", class: "key" }, key), configs.map((config) => h("td", { class: "value key" }, config[key] ?? dash()))));
  const mixed = new Set(runs.map((run) => run.resolved)).size > 1;
  $("diff").replaceChildren(
    h("p", { class: "lead" }, keys.length ? `${plural(keys.length, "config key")} differ${keys.length === 1 ? "s" : ""}, without folders and times.` : "The configs are equal, except for folders and times.", mixed ? " Some of these runs have no resolved config, so automatic values, such as the precision, may differ only in notation." : ""),
    h("div", { class: "scroll", role: "region", "aria-label": "Keys that differ", tabindex: "0" }, h("table", { class: "plain-table", id: "diff-table" }, h("caption", { class: "hidden" }, "Config keys that differ, then results"), h("thead", {}, head), h("tbody", {}, body), h("tbody", {}, outcomes))));
}

// --- charts: drawn when they become visible, and redrawn when their data change

const charts = new Map(); // element → {draw, stale, seen}
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target);
    if (!chart) continue;
    chart.seen = entry.isIntersecting;
    if (chart.seen) update(entry.target, chart);
  }
}, { rootMargin: "200px" });

function update(element, chart) {
  if (!chart.stale) return;
  chart.stale = false;
  const words = chart.draw(element);
  const caption = element.parentElement.querySelector("figcaption");
  if (caption && typeof words === "string") caption.textContent = words;
}

function register(element, draw) {
  charts.set(element, { draw, stale: true, seen: false });
  observer.observe(element);
}

function refresh(all = false) {
  for (const [element, chart] of charts) {
    if (!element.isConnected) { observer.unobserve(element); charts.delete(element); continue; }
    chart.stale = true;
    if (chart.seen || all) update(element, chart);
  }
}

function curveLines(metric) {
  const groups = groupsOf(shownRuns()).filter((group) => group.members.some((run) => run.curves[metric]));
  groups.sort((a, b) => accuracy(b.best) - accuracy(a.best));
  const best = groups.slice(0, BEST_SHOWN);
  const chosen = [...view.chosen].map((index) => RUNS[index]).filter((run) => run.curves[metric]);
  const line = (run, hue, label) => ({ name: run.name, label, hue, epochs: run.curves[metric][0], values: run.curves[metric][1] });
  const background = best.flatMap((group, place) => group.members.filter((run) => run.curves[metric] && !view.chosen.has(run.index)).map((run) => line(run, chosen.length ? undefined : place, group.members.length > 1 ? `${titleOf(run)} (${plural(group.members.length, "seed")})` : titleOf(run))));
  const lines = [...background, ...chosen.map((run) => line(run, hueOf(run), `${run.name}: ${titleOf(run)}`))];
  const which = groups.length > best.length ? `the best ${best.length} of ${groups.length} groups by val top-1` : groups.length ? `all ${plural(groups.length, "group")}` : "";
  $("curves-note").textContent = chosen.length ? `${plural(chosen.length, "selected run")}, in front of ${which}` : which ? `Shown: ${which}${groups.length > best.length ? "; select runs in the leaderboard to show others" : ""}` : "";
  return lines;
}

function titleOf(run) {
  const words = VARYING.filter((v) => v.values[run.index] !== null && v.key !== "data").slice(0, 3).map((v) => `${v.key.split(".").at(-1)}=${v.values[run.index]}`);
  return [run.model, run.swapped, ...words].filter(Boolean).join(" ");
}

register($("curves-chart"), (element) => {
  const metric = $("metric").value;
  const lines = curveLines(metric);
  const words = drawCurves(element, lines, metric);
  setTable($("curves-chart").parentElement, "The values as a table", () => {
    const shown = lines.some((line) => line.hue !== undefined) ? lines.filter((line) => line.hue !== undefined) : lines;
    const epochs = [...new Set(shown.flatMap((line) => line.epochs))].sort((a, b) => a - b);
    const maps = shown.map((line) => new Map(line.epochs.map((epoch, i) => [epoch, line.values[i]])));
    return plainTable(["epoch", ...shown.map((line) => line.name)], epochs.map((epoch) => [epoch, ...maps.map((map) => { const value = map.get(epoch); return value === undefined || value === null ? null : value.toFixed(4); })]), `${metric} by epoch`);
  });
  return words && `${words.split(". ")[0]}. Runs of one group share a colour. Double-click a name in the legend to show it alone.`;
});

register($("cost-chart"), (element) => {
  const [x, y] = [$("cost-axis").value, $("accuracy").value];
  const points = shownRuns().filter((run) => run[x] !== null && run[y] !== null).map((run) => ({ x: run[x], y: run[y], index: run.index, name: run.name, more: titleOf(run), hue: hueOf(run) }));
  const words = drawCost(element, points, x === "multiply_adds" ? "multiply-adds" : x, FIGURES[y].title, (index) => showRun(index, true));
  return words && `Each point is one of ${plural(points.length, "run")}. The dotted line is the best accuracy at each cost or below. Click a point to open its run. The leaderboard has the same values.`;
});

register($("sweep-chart"), (element) => {
  const runs = shownRuns();
  const keys = [{ key: "model", of: (run) => run.model, numeric: false }, { key: "block changes", of: (run) => run.swapped || "none", numeric: false }, ...VARYING.map((v) => ({ key: v.key, numeric: v.numeric, of: (run) => (v.numeric ? number(v.values[run.index]) : v.values[run.index]) }))]
    .filter(({ of }) => new Set(runs.map(of)).size > 1);
  const axes = keys.slice(0, PARALLEL_AXES - 2).map(({ key, of, numeric }) => ({ title: key, values: runs.map(of), ...(numeric && { format: (v) => String(Number(v.toPrecision(4))) }) }));
  if (axes.length) for (const key of ["test", "val"]) if (runs.some((run) => run[key] !== null)) axes.push({ title: FIGURES[key].title, values: runs.map((run) => run[key]), format: (v) => v.toFixed(3) });
  const words = drawParallel(element, axes, runs.map((run) => ({ name: run.name, hue: hueOf(run) })));
  const cut = keys.length > PARALLEL_AXES - 2 ? ` Only the first ${PARALLEL_AXES - 2} of ${keys.length} keys are shown.` : "";
  return words && `Each line is one run; a stronger line means a higher ${axes.at(-1).title}.${cut} The leaderboard has the same values.`;
});

// --- tables

function plainTable(titles, rows, caption, numericFrom = 1, isLong = false) {
  const cell = (value, i) => h("td", { class: i >= numericFrom ? "number" : null }, value ?? dash());
  return h("div", { class: `scroll${isLong ? " tall" : ""}`, role: "region", "aria-label": caption, tabindex: "0" }, h("table", { class: "plain-table" }, h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, titles.map((title, i) => h("th", { scope: "col", class: i >= numericFrom ? "number" : null }, title)))), h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map(cell))))));
}

function setTable(parent, title, build) {
  let box = parent.querySelector(":scope > details");
  if (!box) { box = h("details", {}, h("summary", {}, title)); parent.append(box); }
  box.ontoggle = () => { if (box.open) box.replaceChildren(box.firstElementChild, build()); };
  box.ontoggle();
}

// Columns: [title, cell → text]; a column is sorted by its values, not by its texts.
function sortableTable(columns, rows, caption) {
  const order = { column: null, falling: true };
  const body = h("tbody");
  const head = h("tr", {}, columns.map(([title], column) => h("th", { scope: "col", class: column ? "number" : null }, h("button", { type: "button", onclick: () => { order.falling = order.column === column ? !order.falling : column > 0; order.column = column; fill(); } }, title))));
  function fill() {
    const sorted = order.column === null ? rows : [...rows].sort((a, b) => {
      const [x, y] = [a[order.column], b[order.column]];
      if (x === null || y === null) return (x === null) - (y === null);
      return (order.falling ? -1 : 1) * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
    });
    body.replaceChildren(...sorted.map((cells) => h("tr", {}, cells.map((value, i) => (i ? h("td", { class: "number" }, value === null ? dash() : columns[i][1](value)) : h("th", { scope: "row" }, value))))));
    [...head.cells].forEach((cell, i) => (i === order.column ? cell.setAttribute("aria-sort", order.falling ? "descending" : "ascending") : cell.removeAttribute("aria-sort")));
  }
  fill();
  return h("div", { class: "scroll tall", role: "region", "aria-label": caption, tabindex: "0" }, h("table", { class: "plain-table" }, h("caption", { class: "hidden" }, caption), h("thead", {}, head), body));
}

// --- run details

function showRun(index, scroll = false) {
  view.run = index;
  $("which").value = String(index);
  const run = RUNS[index];
  const details = run.details ?? {};
  const fact = (title, value, broad) => (value === null || value === undefined || value === "" ? null : h("div", { class: broad ? "broad" : null }, h("dt", {}, title), h("dd", {}, value)));
  const panels = [];
  if (details.card) panels.push(h("div", { class: "full" }, h("h3", {}, "Model card"), h("dl", { class: "facts" }, details.card.map(([title, text]) => fact(title, text, title === "intended use")))));
  const chartPanel = (title, drawing, table, more = {}) => {
    const chart = h("div", { class: "chart" });
    const figure = h("figure", more, h("h3", {}, title), chart, h("figcaption"));
    setTable(figure, table[0], table[1]);
    register(chart, drawing);
    panels.push(figure);
  };
  const pairsTable = (confusion) => plainTable(["true", "predicted", "images", "share of true class"], confusion.pairs.map(([a, b, n, share]) => [a, b, grouped(n, 0), `${(100 * share).toFixed(1)} %`]), "Most confused pairs", 2, true);
  if (details.confusion?.matrix) chartPanel("Confusion", (element) => drawConfusion(element, details.confusion), ["The most confused pairs as a table", () => pairsTable(details.confusion)]);
  else if (details.confusion) panels.push(h("div", {}, h("h3", {}, "Most confused pairs"), h("p", { class: "note" }, `The ${details.confusion.pairs.length} largest off-diagonal entries; a matrix of ${details.confusion.classes} classes is too large to read. The full matrix is in confusion.csv.`), pairsTable(details.confusion)));
  if (details.calibration) chartPanel("Calibration", (element) => drawCalibration(element, details.calibration), ["The bins as a table", () => plainTable(["confidence", "images", "mean confidence", "accuracy"], details.calibration.map(([low, high, n, hit, sure]) => [`${low.toFixed(2)} to ${high.toFixed(2)}`, grouped(n ?? 0, 0), sure?.toFixed(3) ?? null, hit?.toFixed(3) ?? null]), "Calibration")]);
  if (details.subgroups?.length) {
    const figure = (v) => v.toFixed(3);
    panels.push(h("div", { class: "full" }, h("h3", {}, "Subgroups"), h("p", { class: "note" }, "Metrics of the test images of each subgroup, with 95 % intervals; none for fewer than ten images or groups. Rows without a class are of all images. Sort by metric to compare the subgroups."), sortableTable([["column"], ["subgroup", (v) => v], ["metric", (v) => v], ["class", (v) => v], ["images", (v) => grouped(v, 0)], ["value", figure], ["from", figure], ["to", figure]], details.subgroups, "Subgroups")));
  }
  if (details.curves) {
    const { points, classes } = details.curves;
    const names = [...new Set(points.map(([name]) => name))];
    const table = () => plainTable(["class", "threshold", "sensitivity", "specificity", "precision"], points.map(([name, ...values]) => [name, ...values.map((v) => v?.toFixed(3) ?? null)]), "Points of the curves", 1, true);
    const roc = names.flatMap((name) => [[name, 0, 0], ...points.filter((row) => row[0] === name).map((row) => [name, 1 - row[3], row[2]])]);
    chartPanel("ROC curves", (element) => drawRates(element, roc, classes, "1 − specificity", "sensitivity", true), ["The points as a table", table]);
    chartPanel("Precision and recall", (element) => drawRates(element, points.map((row) => [row[0], row[2], row[4]]), classes, "recall (sensitivity)", "precision", false), ["The points as a table", table]);
  }
  if (details.per_class) {
    const share = (v) => v.toFixed(3);
    panels.push(h("div", {}, h("h3", {}, "Classes"), sortableTable([["class"], ["images", (v) => grouped(v, 0)], ["top-1", share], ["top-5", share], ["precision", share], ["F1", share]], details.per_class, "Classes")));
  }
  if (details.decisions) {
    const figure = (v) => v.toFixed(3);
    panels.push(h("div", {}, h("h3", {}, "Metrics with 95 % intervals"), h("p", { class: "note" }, "Of the test images, by bootstrap. A class is compared with all others; rows without a class are means over the classes, or of all images."), sortableTable([["metric"], ["class", (v) => v], ["images", (v) => grouped(v, 0)], ["value", figure], ["from", figure], ["to", figure]], details.decisions, "Intervals")));
  }
  if (details.worst) panels.push(h("div", { class: "full" }, h("h3", {}, "Worst predictions"), h("p", { class: "note" }, "Test images with the highest loss, as the network saw them."), h("ul", { class: "gallery" }, details.worst.map((image) => h("li", {},
    h("img", { src: image.picture, alt: `image of class ${image.label}, predicted as ${image.predicted}`, loading: "lazy", width: 96, height: 96 }),
    h("p", {}, image.label, h("br"), h("span", { class: image.predicted === image.label ? "" : "said" }, image.predicted), " ", h("small", {}, percent(image.probability)), h("br"), h("small", {}, `${image.probability_of_label === null ? "" : `true class ${percent(image.probability_of_label)}, `}loss ${image.loss?.toFixed(2) ?? "–"}`), ...(image.image ? [h("br"), h("small", {}, image.image)] : [])))))));
  if (run.network !== null && run.network !== undefined) panels.push(h("div", { class: "full" }, h("h3", {}, "Network"), pictureOf(run)));
  else if (DATA.distinct > DATA.networks.length) panels.push(h("div", { class: "full" }, h("h3", {}, "Network"), h("p", { class: "note" }, `Not drawn. The page contains ${DATA.networks.length} of ${DATA.distinct} different networks, those of the best groups that could be drawn. “inception-zoo describe … --draw net.svg” draws any network.`)));
  const missing = run.details ? null : `To keep the page small, it contains classes, calibration and images of the best ${RUNS.filter((other) => other.details).length} of ${RUNS.length} runs only. For this run they are in its folder.`;
  $("details").replaceChildren(
    h("dl", { class: "facts" },
      fact("state", h("span", {}, h("span", { class: `mark ${run.state}` }), h("span", { class: run.state === "failed" ? "failed-word" : null }, run.state))), fact("model", run.model), fact("block changes", run.swapped || "none"), fact("seed", run.seed), fact("image size", run.size && `${run.size} px`),
      ...Object.entries(FIGURES).map(([key, figure]) => fact(figure.title, run[key] === null ? null : figure.show(run[key]))), fact("started", run.started?.replace("T", " ").slice(0, 16)),
      fact("reason", run.reason, true), fact("command line", h("code", {}, Object.entries(run.overrides).map(([key, value]) => `${key}=${value}`).join(" ") || "–"), true), fact("folder", h("code", {}, run.folder), true)),
    ...(missing ? [h("p", { class: "note" }, missing)] : []), h("div", { class: "panels" }, panels));
  refresh();
  if (scroll) { $("run").scrollIntoView(); $("which").focus({ preventScroll: true }); }
}

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);

function pictureOf(run) {
  const box = h("details", {}, h("summary", {}, `Draw ${run.model}${run.swapped ? `, ${run.swapped}` : ""}`));
  box.addEventListener("toggle", () => {
    if (box.open && box.childElementCount === 1) box.append(h("div", { class: "scroll", role: "region", "aria-label": "Picture of the network", tabindex: "0" }, h("img", { class: "network", alt: `Network ${run.model}${run.swapped ? ` with ${run.swapped}; changed blocks are marked` : ""}, from the input at the bottom to the classifier`, src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(DATA.networks[run.network])}` })));
  });
  return h("div", {}, box, DATA.distinct > DATA.networks.length ? h("p", { class: "note" }, `The page contains ${DATA.networks.length} of ${DATA.distinct} different networks, those of the best groups.`) : null);
}

// --- the page

function summary() {
  const best = RUNS.reduce((a, b) => (accuracy(b) > accuracy(a) ? b : a));
  const minutes = RUNS.reduce((sum, run) => sum + (run.minutes ?? 0), 0);
  const unfinished = [...new Set(RUNS.map((run) => run.state))].filter((state) => state !== "finished").map((state) => `${RUNS.filter((run) => run.state === state).length} ${state}`);
  const groups = GROUP_SIZES.size;
  const entry = (title, value, more) => h("div", {}, h("dt", {}, title), h("dd", {}, value, h("small", {}, more)));
  $("summary").append(...[
    entry(plural(RUNS.length, "run").split(" ")[1], RUNS.length.toLocaleString("en-US"), [`in ${plural(groups, "group")}`, ...unfinished].join(", ")),
    accuracy(best) >= 0 && entry(`best ${FIGURES[["val", "test", "ap", "recall"].find((key) => best[key] !== null)].title}`, accuracy(best).toFixed(4), `run ${best.name}`),
    best.val !== null && best.test !== null && entry("test top-1 of this run", best.test.toFixed(4), [best.model, best.swapped].filter(Boolean).join(", ")),
    entry("time", minutes < 90 ? `${grouped(minutes, 1)} min` : `${grouped(minutes / 60, 1)} h`, "sum over all runs"),
  ].filter(Boolean));
  return best;
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : systemDark.matches);
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(isDark()));
  refresh();
}
$("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
systemDark.addEventListener("change", () => setTheme());
let beforePrint;
addEventListener("beforeprint", () => { // charts are drawn for the width of the paper
  beforePrint = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  document.body.dataset.paper = "yes";
  refresh(true);
});
addEventListener("afterprint", () => {
  if (beforePrint) document.documentElement.dataset.theme = beforePrint;
  else delete document.documentElement.dataset.theme;
  delete document.body.dataset.paper;
  refresh();
});

function filterChanged() {
  view.words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  view.state = $("state").value;
  showBoard();
  refresh();
}
let waiting;
$("text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filterChanged, 120); });
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
$("state").addEventListener("change", filterChanged);
$("unfold").addEventListener("click", () => { view.everySeed = !view.everySeed; $("unfold").setAttribute("aria-pressed", String(view.everySeed)); showBoard(); });
for (const id of ["metric", "accuracy", "cost-axis"]) $(id).addEventListener("change", () => refresh());
$("which").addEventListener("change", (event) => showRun(Number(event.target.value)));

$("state").append(h("option", { value: "" }, "any"), ...["finished", "running", "failed", "interrupted", "pruned"].map((state) => h("option", { value: state }, `${state} (${RUNS.filter((run) => run.state === state).length})`)));
$("metric").append(...["val/top1", "val/ap", "val/recall1", "train/loss", "val/loss"].filter((name) => RUNS.some((run) => run.curves[name])).map((name) => h("option", { value: name }, name)));
$("which").append(...RUNS.map((run) => h("option", { value: run.index }, `${run.name}  ${run.model}${run.swapped ? ` ${run.swapped}` : ""}`)));
if (!RUNS.some((run) => run.val !== null)) { view.key = "test"; $("accuracy").value = "test"; }
$("unfold").hidden = [...GROUP_SIZES.values()].every((size) => size === 1);
const best = summary();
boardHead();
showBoard();
showComparison();
showRun(best.index);
setTheme();
