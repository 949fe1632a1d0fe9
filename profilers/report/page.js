"use strict";
/* Draws a report's sections from the JSON in #report: an interactive chart, and sorting for the table. Where everything
   in a chart stands was laid out before (chart.py); nothing is placed here. Text reaches the page as textContent only,
   never as markup. */

const report = JSON.parse(document.getElementById("report").textContent);
const SHAPES = { o: circle, s: square, "^": triangle, D: diamond, v: wedge, P: plus };
const SIZES = ["wide", "column", "narrow"];
const STRETCH = 1.4; // how much larger than laid out a chart may be drawn
const LINE = 15; // pixels from one line of a text to the next
const REACH = 18; // pixels from which a pointer picks a point

const FILTERS = report.figures.filter; // [key, title] of the figures that filters choose by
const STATISTICS = report.figures.target; // [key, title] of the figures that a latency target may be set for
const STEPS = 400; // of the latency slider, logarithmic

for (const part of document.querySelectorAll(".part")) show(part, report.sections[Number(part.dataset.index)]);
theme(document.getElementById("theme"));
paperTables();
overallTables();
addEventListener("beforeprint", () => document.querySelectorAll("details.method").forEach((details) => (details.open = true)));

function show(part, section) {
  const state = {
    slate: section.slates[0], paper: "off", limit: null, statistic: "p50_ms",
    shown: Object.fromEntries(FILTERS.map(([field]) => [field, new Set(section.points.map((point) => point[field]))])),
  };
  const board = part.querySelector(".board");
  const chart = element("div", { class: "chart" });
  const draw = (size = fitting(section, state, chart.clientWidth)) => drawChart(chart, part, section, state, size);
  const target = slider(section, state, () => update());
  const update = () => {
    target.refresh();
    draw();
    const points = new Map(section.points.map((point) => [point.id, point]));
    for (const row of part.querySelectorAll("tbody tr")) {
      const point = points.get(row.dataset.point);
      row.hidden = point.slate !== state.slate || !passes(point, state);
      row.classList.toggle("late", late(point, state));
    }
  };
  board.append(controls(section, state, update), target.box, legend(section), chart);
  const keys = "Hover, tap or tab to a point for its figures; arrow keys go to the next, Enter shows how to measure it again, Escape closes.";
  board.append(element("p", { class: "hint" }, `${keys} The table shows the same points; the front is that of all of them, and a fainter mark is less surely on it.`));
  const table = part.querySelector("table");
  sortable(table);
  opens(table, "tbody tr", (row) => pointFacts(section, section.points.find((point) => point.id === row.dataset.point)));
  update();
  let width = chart.clientWidth;
  new ResizeObserver(() => {
    if (chart.clientWidth !== width) {
      width = chart.clientWidth;
      draw();
    }
  }).observe(chart);
  addEventListener("beforeprint", () => draw("column"));
  addEventListener("afterprint", () => draw());
}

function passes(point, state) {
  return FILTERS.every(([field]) => state.shown[field].has(point[field]));
}

/* Whether a point does not meet the latency target; a percentile that is not certified does not. */
function late(point, state) {
  return state.limit !== null && !(point[state.statistic] !== null && point[state.statistic] <= state.limit);
}

/* ---- Controls ---- */

function controls(section, state, update) {
  const box = element("div", { class: "controls" });
  box.append(choice(section, section.slate_name === "k" ? "Items asked for (k)" : "Slate", "radio", section.slates.map((n) => [n, String(n)]), (n) => n === state.slate, (n) => {
    state.slate = n;
    update();
  }));
  for (const [field, title] of FILTERS) {
    const values = [...state.shown[field]].sort();
    if (values.length < 2) continue;
    box.append(choice(section, title, "checkbox", values.map((v) => [v, v.replaceAll("_", " ")]), () => true, (v, on) => {
      on ? state.shown[field].add(v) : state.shown[field].delete(v);
      update();
    }));
  }
  if (printed(section).length) {
    const layers = [["off", "off"], ["mine", "these models"], ["all", "every row"]];
    box.append(choice(section, "Paper’s figures", "radio", layers, (v) => v === state.paper, (v) => {
      state.paper = v;
      update();
    }));
  }
  return box;
}

/* The latency target: a logarithmic slider, and in words the most accurate point that meets it. */
function slider(section, state, update) {
  const id = `${section.id}-target`;
  const input = element("input", { type: "range", id, min: 0, max: STEPS, value: STEPS, step: 1 });
  const select = element("select", { "aria-label": "Statistic of the latency target" });
  for (const [field, name] of STATISTICS) select.append(element("option", { value: field }, name));
  const limit = element("output", { for: id });
  const verdict = element("p", { class: "verdict", role: "status" });
  const change = () => {
    state.statistic = select.value;
    state.limit = Number(input.value) < STEPS ? limitAt(reach(section, state), Number(input.value)) : null;
    update();
  };
  for (const control of [input, select]) control.addEventListener("input", change);
  const box = element("div", { class: "target" });
  box.append(element("label", { for: id }, "Latency target"), select, input, limit, verdict);
  const refresh = () => {
    const ends = reach(section, state);
    const name = STATISTICS.find(([field]) => field === state.statistic)[1];
    if (state.limit !== null && ends) input.value = stepOf(ends, state.limit);
    input.disabled = !ends;
    limit.textContent = state.limit === null ? "none" : `${name} ≤ ${ms(state.limit)} ms`;
    input.setAttribute("aria-valuetext", limit.textContent);
    verdict.textContent = ends ? answer(section, state, name) : `No point of ${section.slate_name} ${state.slate} has the calls that certify its ${name}.`;
  };
  return { box, refresh };
}

/* The latencies that the slider goes from and to, null where none is certified. */
function reach(section, state) {
  const known = section.points.filter((point) => point.slate === state.slate && point[state.statistic] !== null).map((point) => point[state.statistic]);
  return known.length ? [Math.min(...known) / 1.05, Math.max(...known) * 1.05] : null;
}

function limitAt(ends, step) {
  return ends && ends[0] * (ends[1] / ends[0]) ** (step / STEPS);
}

function stepOf([low, high], limit) {
  return Math.max(0, Math.min(STEPS - 1, Math.round((Math.log(limit / low) / Math.log(high / low)) * STEPS)));
}

/* The most accurate point that meets the target, as a sentence. */
function answer(section, state, name) {
  if (state.limit === null) return "";
  const metric = section.metric;
  const candidates = section.points.filter((point) => point.slate === state.slate && passes(point, state) && !late(point, state));
  const judged = candidates.filter((point) => accuracy(section, point) !== null && !point.aside);
  if (!judged.length) return `Nothing shown here with a known accuracy meets ${name} ≤ ${ms(state.limit)} ms.`;
  const printed = (point) => Number(point.accuracy[metric].toFixed(4));
  // Of accuracies that are printed alike the fastest wins, as on the front.
  const best = judged.reduce((a, b) => (printed(b) > printed(a) || (printed(b) === printed(a) && b[state.statistic] < a[state.statistic]) ? b : a));
  const models = new Set(judged.map((point) => point.name));
  const which = models.size > 1 ? `Most accurate within it, of ${models.size} models` : "The only model within it";
  return `${which}: ${best.name} ${best.variant}${marks(best)}, ${section.metric_titles[metric]} ${best.accuracy[metric].toFixed(4)}, ${name} ${ms(best[state.statistic])} ms.${beaten(section, best)} How sure that is: rbserve recommend --slo '${name}<${ms(state.limit).replaceAll(",", "")}ms' --slate ${state.slate} --dataset ${section.dataset}.`;
}

/* What is said beside a name: that its point has warnings, and that its time settles nothing. */
function marks(point) {
  const unsettled = point.processes === 1 || point.warnings.some((warning) => warning.startsWith("INCONCLUSIVE"));
  return (point.warnings.length ? " ⚠" : "") + (unsettled ? " INCONCLUSIVE" : "");
}

/* The baselines that a point does not beat, as a sentence. */
function beaten(section, point) {
  const better = Object.entries(section.baselines).filter(([, figures]) => figures[section.metric] >= point.accuracy[section.metric]);
  const named = better.map(([name, figures]) => `${section.baseline_titles[name]}, ${figures[section.metric].toFixed(4)}`);
  return named.length ? ` No better than the baseline ${named.join(" and ")}.` : "";
}

function legend(section) {
  const box = element("ul", { class: "legend", "aria-label": "Marks" });
  for (const variant of new Set(section.points.map((point) => point.variant))) {
    const entry = element("li");
    entry.append(swatch(variant), variant);
    box.append(entry);
  }
  return box;
}

/* Light, dark, or as the system has it; print is always light. */
function theme(box) {
  const set = (value) => (value === "auto" ? delete document.documentElement.dataset.theme : (document.documentElement.dataset.theme = value));
  box.className = "controls";
  box.append(choice({ id: "page" }, "Colours", "radio", [["auto", "auto"], ["light", "light"], ["dark", "dark"]], (v) => v === "auto", set));
}

function choice(section, title, type, options, checked, change) {
  const set = element("fieldset");
  set.append(element("legend", {}, title));
  for (const [value, text] of options) {
    const input = element("input", { type, name: `${section.id} ${title}` });
    input.checked = checked(value);
    input.addEventListener("change", () => change(value, input.checked));
    const label = element("label");
    label.append(input, text);
    set.append(label);
  }
  return set;
}

function swatch(variant) {
  const svg = shape("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" });
  const mark = marker(variant, 6);
  mark.style.fill = color(variant);
  svg.append(mark);
  return svg;
}

/* ---- Chart ---- */

/* The largest layout that the width has room for. */
function fitting(section, state, width) {
  const layouts = report.charts[section.id][state.slate].plain;
  return SIZES.find((size) => layouts[size].width <= width) || SIZES.at(-1);
}

function drawChart(chart, part, section, state, size) {
  const layout = report.charts[section.id][state.slate][state.paper === "off" ? "plain" : "paper"][size];
  const points = section.points
    .filter((point) => point.slate === state.slate && passes(point, state))
    .sort((a, b) => a.p50_ms - b.p50_ms || (a.id < b.id ? -1 : 1));
  const view = { chart, part, section, state, layout, points, size, paper: state.paper === "off" ? [] : printed(section).filter((row) => row.mine || state.paper === "all") };
  const svg = shape("svg", { viewBox: `0 0 ${layout.width} ${layout.height}`, role: "group" });
  svg.style.maxWidth = `${layout.width * STRETCH}px`;
  svg.setAttribute("aria-label", `${section.metric_titles[section.metric]} against p50 latency, ${section.slate_name} ${state.slate}`);
  view.svg = svg;
  drawPlot(view);
  drawStrip(view);
  drawTarget(view);
  const marks = points.map((point) => drawPoint(view, point));
  for (const [index, mark] of marks.entries()) listen(mark, index, marks, points, view);
  follow(marks, view);
  drawNames(view);
  chart.replaceChildren(svg, ...notes(view).map((note) => element("p", { class: "hint" }, note)));
}

function notes({ section, points, paper, layout }) {
  const lines = [...layout.notes];
  if (!points.length && !paper.length) lines.unshift("Nothing to show: every point is filtered out.");
  if (paper.length) lines.push(`Hollow grey rings. ${section.paper_title}. ${section.paper_cautions.join(" ")}`);
  return lines;
}

/* Where a value of an axis stands. */
function pixel(axis, value) {
  const along = axis.log ? Math.log : Number;
  return axis.start + ((along(value) - along(axis.low)) / (along(axis.high) - along(axis.low))) * (axis.end - axis.start);
}

function accuracy(section, point) {
  const value = point.accuracy[section.metric];
  return typeof value === "number" ? value : null;
}

/* Where a point stands; one without an accuracy in its row of the strip. */
function spot({ section, layout }, point) {
  const value = accuracy(section, point);
  if (value === null) return [pixel(layout.strip.x, point.p50_ms), layout.strip.rows[point.name]];
  return [pixel(layout.x, point.p50_ms), pixel(layout.y, value)];
}

function drawPlot(view) {
  const { svg, layout } = view;
  if (!layout.x) return;
  for (const [value, tick] of layout.y.ticks) {
    const y = pixel(layout.y, value);
    svg.append(line(layout.x.start, y, layout.x.end, y, "grid"), words(layout.x.start - 8, y, [tick], { "text-anchor": "end" }));
  }
  drawLatencies(view, layout.x, layout.y.end, layout.y.start);
  const turned = `translate(8 ${(layout.y.start + layout.y.end) / 2}) rotate(-90)`;
  svg.append(words(0, 0, [layout.y_title], { "text-anchor": "middle", transform: turned }));
  drawBaselines(view);
  drawModels(view);
  if (layout.front.length) svg.append(shape("polyline", { class: "step", points: layout.front.join(" ") }));
  drawPaper(view);
}

/* A latency axis at `bottom`, its grid up to `top`. */
function drawLatencies({ svg, layout }, axis, top, bottom) {
  for (const [value, tick] of axis.ticks) {
    const x = pixel(axis, value);
    svg.append(line(x, top, x, bottom, "grid"), words(x, bottom + 14, [tick], { "text-anchor": "middle" }));
  }
  svg.append(line(axis.start, bottom, axis.end, bottom, "axis"));
  svg.append(words((axis.start + axis.end) / 2, bottom + 32, [layout.x_title], { "text-anchor": "middle" }));
}

function drawBaselines({ svg, layout }) {
  for (const [level, lines, y] of layout.baselines) {
    if (level !== null) svg.append(line(layout.x.start, level, layout.x.end, level, "baseline"));
    svg.append(words(layout.x.end + 8, y, lines, {}));
  }
}

/* A faint line through the variants of each model. */
function drawModels(view) {
  const judged = view.points.filter((point) => accuracy(view.section, point) !== null);
  for (const name of new Set(judged.map((point) => point.name))) {
    const own = judged.filter((point) => point.name === name).map((point) => spot(view, point));
    view.svg.append(shape("polyline", { class: "same", points: own.join(" ") }));
  }
}

/* The models that were timed and not judged, a row each. */
function drawStrip(view) {
  const { svg, points, layout: { strip } } = view;
  if (!strip) return;
  svg.append(words(8, strip.title_y, [strip.title], { class: "label front" }));
  drawLatencies(view, strip.x, strip.top, strip.bottom);
  for (const [name, y] of Object.entries(strip.rows)) {
    if (!points.some((point) => point.name === name)) continue;
    const lines = strip.names[name];
    svg.append(words(strip.x.start - 12, y - (LINE * (lines.length - 1)) / 2, lines, { class: "label dim", "text-anchor": "end" }));
  }
}

/* What is too slow for the latency target is shaded. */
function drawTarget({ svg, layout, state }) {
  if (state.limit === null || state.statistic !== "p50_ms") return;
  const shade = (axis, top, bottom) => {
    const x = Math.max(axis.start, Math.min(axis.end, pixel(axis, state.limit)));
    svg.append(shape("rect", { class: "beyond", x, y: top, width: axis.end - x, height: bottom - top }), line(x, top, x, bottom, "limit"));
  };
  if (layout.x) shade(layout.x, layout.y.end, layout.y.start);
  if (layout.strip) shade(layout.strip.x, layout.strip.top, layout.strip.bottom);
}

function drawPoint(view, point) {
  const { svg, section } = view;
  const judged = accuracy(section, point) !== null;
  const kinds = ["point", ...(point.on_front ? ["front"] : []), ...(judged ? [] : ["unjudged"]), ...(point.aside ? ["aside"] : []), ...(late(point, view.state) ? ["late"] : [])];
  const group = shape("g", { class: kinds.join(" "), tabindex: -1, role: "button" });
  group.style.color = color(point.variant);
  group.setAttribute("aria-label", details(point).map((pair) => pair.join(" ")).join(", "));
  group.append(...bars(view, point), place(view, point));
  svg.insertBefore(group, point.on_front ? null : svg.querySelector(".point.front"));
  return group;
}

/* A point's intervals. */
function bars(view, point) {
  const { section, layout } = view;
  const [x, y] = spot(view, point);
  const judged = accuracy(section, point) !== null;
  const [fast, slow] = point.p50_ci95_ms.map((end) => pixel(judged ? layout.x : layout.strip.x, end));
  const interval = judged && point.accuracy[`${section.metric}_ci95`];
  const [low, high] = interval ? interval.map((end) => pixel(layout.y, end)) : [y, y];
  return [line(fast, y, slow, y, "bar"), line(x, low, x, high, "bar")];
}

/* A point's mark, with room around it for a pointer. */
function place(view, point) {
  const mark = marker(point.variant, point.on_front ? 7 : 5.2);
  mark.setAttribute("class", "mark");
  if (!point.on_front && point.front_probability !== null) mark.style.opacity = 0.35 + 0.65 * point.front_probability;
  const group = shape("g", { transform: `translate(${spot(view, point)})` });
  group.append(shape("circle", { class: "hit", r: 13 }), shape("circle", { class: "halo", r: 12 }), mark);
  return group;
}

/* Names that are laid out; that of a hidden point goes with it. */
function drawNames({ svg, layout, points, paper }) {
  const shown = new Set([...points.map((point) => point.id), ...paper.map((row) => row.model)]);
  for (const [owner, kind, lines, x, y, leader] of layout.names) {
    if (!shown.has(owner)) continue;
    if (leader) svg.insertBefore(line(...leader, "leader"), svg.querySelector(".point"));
    svg.append(words(x, y, lines, { class: `label ${kind}`, "text-anchor": "middle" }));
  }
}

/* ---- The paper ---- */

/* The paper's rows that have a latency; `mine` are those of models that were measured here. */
function printed(section) {
  const models = new Set(section.points.map((point) => point.model));
  return section.paper.filter((row) => row.latency_ms !== null).map((row) => ({ ...row, mine: models.has(row.model) }));
}

function drawPaper({ svg, layout, paper }) {
  for (const row of paper) {
    const ring = shape("circle", { class: row.mine ? "printed-mark mine" : "printed-mark", cx: pixel(layout.x, row.latency_ms), cy: pixel(layout.y, row.accuracy), r: 5 });
    const title = shape("title");
    title.textContent = `paper, ${row.paper_name} (${row.model}): ${row.metric} ${row.accuracy.toFixed(4)}, ${row.latency_ms} ms a sample`;
    ring.append(title);
    svg.append(ring);
  }
}

/* ---- Details of a point ---- */

function listen(mark, index, marks, points, view) {
  const open = () => activate(mark, points[index], view);
  const close = () => deactivate(view);
  mark.addEventListener("focus", open);
  mark.addEventListener("blur", close);
  mark.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") close();
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      openFacts(pointFacts(view.section, points[index]));
    }
    if (!step) return;
    event.preventDefault();
    const next = marks[(index + step + marks.length) % marks.length];
    mark.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
  if (!index) mark.setAttribute("tabindex", 0); // one stop for the whole chart; arrows go on from it
}

/* The pointer picks the nearest point: where points crowd, one lies beneath another. */
function follow(marks, view) {
  const { svg, points } = view;
  const show = (index) => {
    if (index < 0) deactivate(view);
    else if (!marks[index].classList.contains("active")) activate(marks[index], points[index], view);
  };
  const rest = () => show(marks.indexOf(document.activeElement));
  svg.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const index = nearest(view, event);
    svg.classList.toggle("near", index >= 0);
    index < 0 ? rest() : show(index);
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("click", (event) => {
    const index = nearest(view, event);
    if (index < 0) return;
    if (marks[index] === document.activeElement && event.detail) openFacts(pointFacts(view.section, points[index]));
    marks[index].focus({ preventScroll: true });
    show(index);
  });
}

/* The number of the point that is nearest to a pointer, -1 where none is near. */
function nearest(view, event) {
  const area = view.svg.getBoundingClientRect();
  const [x, y] = [event.clientX - area.left, event.clientY - area.top].map((at) => at / scale(view));
  const away = view.points.map((point) => Math.hypot(spot(view, point)[0] - x, spot(view, point)[1] - y));
  const closest = Math.min(...away);
  return closest <= REACH ? away.indexOf(closest) : -1;
}

/* How much larger than laid out the chart is drawn. */
function scale({ svg, layout }) {
  return svg.getBoundingClientRect().width / layout.width;
}

function activate(mark, point, view) {
  deactivate(view);
  mark.classList.add("active");
  for (const row of view.part.querySelectorAll("tbody tr")) row.classList.toggle("active", row.dataset.point === point.id);
  const tip = element("div", { class: "tip", role: "status" });
  const [[, name], ...facts] = details(point);
  tip.append(element("strong", {}, name), terms(facts));
  view.chart.append(tip);
  const [x, y] = spot(view, point).map((at) => at * scale(view));
  const width = view.chart.clientWidth;
  const left = x + 18 + tip.offsetWidth < width ? x + 18 : x - 18 - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(left, width - tip.offsetWidth))}px`;
  tip.style.top = `${view.size === "narrow" ? view.layout.height * scale(view) : Math.max(0, y - tip.offsetHeight / 2)}px`;
}

function deactivate(view) {
  view.chart.querySelector(".tip")?.remove();
  for (const marked of view.part.querySelectorAll(".active")) marked.classList.remove("active");
}

function details(point) {
  return [["", `${point.name} ${point.variant}`], ...point.facts];
}

function share(value) {
  return value < 0.01 ? "< 0.01" : value > 0.99 ? "> 0.99" : value.toFixed(2);
}

/* ---- Where a figure comes from: a dialog with n, interval, key and command ---- */

function pointFacts(section, point) {
  const source = section.sources.find((source) => source.run === point.run);
  const [[, title], ...facts] = details(point);
  facts.push(["test rows", `${point.users.toLocaleString("en")} users`], ["run", `${point.run}, made ${source.created}`]);
  facts.push(["measured on", `${section.environment.cpu}, scope ${section.scope}, threads: ${section.threads}`]);
  facts.push(["comparability key", section.comparability_key]);
  return { title: `${title} on ${section.dataset}`, facts, commands: [source.command] };
}

function cellFacts(table, row, cell) {
  const facts = [];
  const commands = [];
  const say = (ours, name) => {
    const interval = ours.ci95 ? ` [${ours.ci95.map((end) => end.toFixed(4)).join(", ")}]` : "";
    const changes = Object.entries(ours.changed).map((pair) => pair.join("=")).join(", ");
    facts.push([name, `${table.metric} ${ours.accuracy.toFixed(4)}${interval}, ${ours.variant}`]);
    facts.push(["n", `${ours.rows.toLocaleString("en")} test rows of ${ours.users.toLocaleString("en")} users${ours.test_users ? ", drawn at random" : ""}`]);
    facts.push(["config", changes ? `changed: ${changes}` : ours.config_known ? "the row’s own" : "not in the run file: taken to be the row’s own"]);
    facts.push(["run", `${ours.run}, made ${ours.created}`], ["comparability key", ours.comparability_key]);
    commands.push(ours.command);
  };
  if (cell.ours) say(cell.ours, "ours");
  else {
    facts.push(["ours", `absent: ${cell.absent}`]);
    if (cell.command) commands.push(cell.command);
  }
  facts.push(["paper", cell.paper === null ? "prints none" : cell.paper.toFixed(4)]);
  if (cell.difference !== null) facts.push(["difference", `${cell.difference > 0 ? "+" : ""}${cell.difference.toFixed(4)}`]);
  for (const ours of cell.also) say(ours, "also");
  return { title: `${row.model} on ${cell.dataset}`, facts, commands };
}

function speedFacts(row) {
  const speed = row.speed;
  if (!speed) return { title: `${row.model}: latency`, facts: [["ours", "not measured at this size of call"]], commands: [] };
  const facts = [["fastest", `${speed.fastest}, p50 ${ms(speed.fastest_ms)} ms [${ms(speed.ci95_ms[0])}, ${ms(speed.ci95_ms[1])}]`]];
  if (speed.reference_ms !== null) facts.push(["torch-fp32", `p50 ${ms(speed.reference_ms)} ms`]);
  facts.push(["n", `${speed.n.toLocaleString("en")} calls, slate or k ${speed.slate}`], ["measured on", `${speed.cpu}, scope ${speed.scope}, threads: ${speed.threads}`]);
  facts.push(["run", speed.run], ["comparability key", speed.comparability_key]);
  return { title: `${row.model} on ${speed.dataset}: latency`, facts, commands: [speed.command] };
}

function overallFacts(table, point) {
  const parts = table.datasets.map((dataset, index) => {
    const alike = (section) => section.dataset === dataset && ["task", "scope", "threads", "exclude_seen"].every((key) => section[key] === table[key]);
    const section = report.sections.find((section) => alike(section) && section.points.some((other) => other.id === point.parts[index]));
    const own = section.points.find((other) => other.id === point.parts[index]);
    return { dataset, section, own, source: section.sources.find((source) => source.run === own.run) };
  });
  const facts = parts.map(({ dataset, section, own }) => [dataset, `${section.metric_titles[section.metric]} ${own.accuracy[section.metric].toFixed(4)}, p50 ${ms(own.p50_ms)} ms, n ${own.runs.toLocaleString("en")}, key ${section.comparability_key}`]);
  if (point.front_probability !== null) facts.push(["P(front)", share(point.front_probability)]);
  return { title: `${point.name} ${point.variant}, overall`, facts, commands: parts.map((part) => part.source.command) };
}

function paperTables() {
  for (const cell of document.querySelectorAll("#paper [data-cell]")) {
    const [t, r, c] = cell.dataset.cell.split(".");
    const [table, row] = [report.paper_tables[t], report.paper_tables[t].rows[r]];
    button(cell, () => (c === "speed" ? speedFacts(row) : cellFacts(table, row, row.cells[c])));
  }
  for (const table of document.querySelectorAll("#paper table")) {
    const bare = table.querySelectorAll("tr.bare").length;
    if (!bare || bare === table.querySelectorAll("tbody tr:not(:has(.group))").length) continue;
    const id = `bare-${table.querySelector("[data-cell]").dataset.cell}`;
    const box = element("div", { class: "controls" });
    box.append(choice({ id }, "Rows", "radio", [["measured", "measured here"], ["all", `all (${bare} not measured)`]], (v) => v === "measured", (v) => table.classList.toggle("measured", v === "measured")));
    table.classList.add("measured");
    table.parentElement.before(box);
  }
}

function overallTables() {
  for (const table of document.querySelectorAll("#overall table"))
    opens(table, "tbody tr", (row) => {
      const [t, n] = row.dataset.overall.split(".");
      return overallFacts(report.overall[t], report.overall[t].points[n]);
    });
}

/* Every cell of a row opens its facts to a pointer, its head to a keyboard too. */
function opens(table, rows, facts) {
  for (const row of table.querySelectorAll(rows)) {
    button(row.cells[0], () => facts(row));
    row.addEventListener("click", (event) => {
      if (!event.target.closest("button") && !String(getSelection())) openFacts(facts(row));
    });
  }
}

function button(cell, facts) {
  const inner = element("button", { type: "button", class: "cell", "aria-haspopup": "dialog" });
  inner.append(...cell.childNodes);
  cell.replaceChildren(inner);
  inner.addEventListener("click", () => openFacts(facts()));
}

function openFacts({ title, facts, commands }) {
  const box = document.getElementById("facts");
  const shut = element("button", { type: "button", class: "shut", "aria-label": "Close" }, "×");
  shut.addEventListener("click", () => box.close());
  box.replaceChildren(shut, element("h2", { id: "facts-title" }, title), terms(facts));
  if (commands.length) box.append(element("h3", {}, "Measured again by"));
  for (const command of commands) {
    const copy = element("button", { type: "button", class: "copy" }, "Copy");
    copy.addEventListener("click", () => navigator.clipboard?.writeText(command).then(() => (copy.textContent = "Copied"), () => {}));
    const line = element("div", { class: "command" });
    line.append(element("pre", { tabindex: 0 }, command), copy);
    box.append(line);
  }
  box.onclick = (event) => event.target === box && box.close();
  box.showModal();
}

function terms(facts) {
  const list = element("dl");
  for (const [term, fact] of facts) list.append(element("dt", {}, term), element("dd", {}, fact));
  return list;
}

/* ---- Table ---- */

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = [...table.tBodies[0].rows];
  for (const [index, head] of heads.entries()) {
    if ("once" in head.dataset && body.every((row) => row.cells[index].textContent === body[0].cells[index].textContent))
      for (const row of [table.tHead.rows[0], ...body]) row.cells[index].classList.add("constant");
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[index].dataset.sort, b.cells[index].dataset.sort, up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  }
}

/* What is absent comes last, whichever way. */
function compare(a, b, sign) {
  if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
  const [x, y] = [Number(a), Number(b)];
  return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
}

/* ---- Drawing ---- */

function ms(value) {
  return value.toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: value < 1000 ? 3 : 6 });
}

function color(variant) { return report.styles[variant].color; }
function marker(variant, size) { return (SHAPES[report.styles[variant].marker] || plus)(size); }
function circle(r) { return shape("circle", { r }); }
function square(r) { return shape("rect", { x: -r * 0.9, y: -r * 0.9, width: r * 1.8, height: r * 1.8 }); }
function triangle(r) { return shape("path", { d: `M0 ${-r * 1.15}L${r * 1.1} ${r * 0.8}H${-r * 1.1}Z` }); }
function wedge(r) { return shape("path", { d: `M0 ${r * 1.15}L${r * 1.1} ${-r * 0.8}H${-r * 1.1}Z` }); }
function diamond(r) { return shape("path", { d: `M0 ${-r * 1.2}L${r * 1.2} 0L0 ${r * 1.2}L${-r * 1.2} 0Z` }); }
function plus(r) { const t = r * 0.4; return shape("path", { d: `M${-t} ${-r}H${t}V${-t}H${r}V${t}H${t}V${r}H${-t}V${t}H${-r}V${-t}H${-t}Z` }); }

function line(x1, y1, x2, y2, kind) { return shape("line", { x1, y1, x2, y2, class: kind }); }

/* Lines of text, the middle of the first one at `y`. */
function words(x, y, lines, attributes) {
  const node = shape("text", attributes);
  node.append(...lines.map((content, number) => Object.assign(shape("tspan", { x, y: y + LINE * number + 4 }), { textContent: content })));
  return node;
}

function shape(tag, attributes = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function element(tag, attributes = {}, content = "") {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (content) node.textContent = content;
  return node;
}
