"use strict";
/* Draws a report's sections from the JSON in #report: an interactive chart, and sorting for the table.
   Text reaches the page as textContent only, never as markup. */

const report = JSON.parse(document.getElementById("report").textContent);
const LONGEST_LINE = 26;
const SHAPES = { o: circle, s: square, "^": triangle, D: diamond, v: wedge, P: plus };
const PAD = { left: 66, top: 16, bottom: 46 };
const PAPER_WIDTH = 700; // of a portrait page, so that print is as large as the text around it
const REACH = 18; // pixels from which a pointer picks a point

const FILTERS = report.figures.filter; // [key, title] of the figures that filters choose by
const STATISTICS = report.figures.target; // [key, title] of the figures that a latency target may be set for
const STEPS = 400; // of the latency slider, logarithmic

for (const part of document.querySelectorAll(".part")) show(part, report.sections[Number(part.dataset.index)]);
theme(document.getElementById("theme"));
paperTables();
overallTables();
addEventListener("beforeprint", () => document.querySelectorAll("details.method").forEach((one) => (one.open = true)));

function show(part, section) {
  const state = {
    slate: section.slates[0], paper: "off", limit: null, statistic: "p50_ms",
    shown: Object.fromEntries(FILTERS.map(([field]) => [field, new Set(section.points.map((point) => point[field]))])),
  };
  const board = part.querySelector(".board");
  const chart = element("div", { class: "chart" });
  const draw = (width = chart.clientWidth) => drawChart(chart, part, section, state, width);
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
  opens(table, "tbody tr", (row) => pointFacts(section, section.points.find((one) => one.id === row.dataset.point)));
  update();
  let width = chart.clientWidth;
  new ResizeObserver(() => {
    if (chart.clientWidth !== width) {
      width = chart.clientWidth;
      draw();
    }
  }).observe(chart);
  addEventListener("beforeprint", () => draw(PAPER_WIDTH));
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
  const box = element("div", { class: "target" });
  const id = `${section.id}-target`;
  const input = element("input", { type: "range", id, min: 0, max: STEPS, value: STEPS, step: 1 });
  const select = element("select", { "aria-label": "Statistic of the latency target" });
  for (const [field, name] of STATISTICS) select.append(element("option", { value: field }, name));
  const said = element("output", { for: id });
  const verdict = element("p", { class: "verdict", role: "status" });
  const known = () => section.points.filter((one) => one.slate === state.slate).map((one) => one[state.statistic]).filter((one) => one !== null);
  const ends = () => [Math.min(...known()) / 1.05, Math.max(...known()) * 1.05];
  const change = () => {
    const [low, high] = ends();
    state.limit = Number(input.value) >= STEPS || !known().length ? null : low * (high / low) ** (Number(input.value) / STEPS);
    update();
  };
  input.addEventListener("input", change);
  select.addEventListener("change", () => {
    state.statistic = select.value;
    change();
  });
  box.append(element("label", { for: id }, "Latency target"), select, input, said, verdict);
  const refresh = () => {
    const [low, high] = ends();
    if (state.limit !== null && known().length) input.value = Math.max(0, Math.min(STEPS - 1, Math.round((Math.log(state.limit / low) / Math.log(high / low)) * STEPS)));
    input.disabled = !known().length;
    const name = STATISTICS.find(([field]) => field === state.statistic)[1];
    said.textContent = state.limit === null ? "none" : `${name} ≤ ${ms(state.limit)} ms`;
    input.setAttribute("aria-valuetext", said.textContent);
    verdict.textContent = answer(section, state, name, known().length);
  };
  return { box, refresh };
}

function answer(section, state, name, certified) {
  if (!certified) return `No point of ${section.slate_name} ${state.slate} has the calls that certify its ${name}.`;
  if (state.limit === null) return "";
  const metric = section.metric;
  const candidates = section.points.filter((one) => one.slate === state.slate && passes(one, state) && !late(one, state));
  const judged = candidates.filter((one) => typeof one.accuracy[metric] === "number" && !one.aside);
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
    const one = element("li");
    one.append(swatch(variant), variant);
    box.append(one);
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
  for (const [value, text, icon] of options) {
    const input = element("input", { type, name: `${section.id} ${title}` });
    input.checked = checked(value);
    input.addEventListener("change", () => change(value, input.checked));
    const label = element("label");
    label.append(input, ...(icon ? [icon] : []), text);
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

function drawChart(chart, part, section, state, width) {
  const metric = section.metric;
  const value = (point) => point.accuracy[metric];
  const range = (point) => point.accuracy[`${metric}_ci95`] || [value(point), value(point)];
  const points = section.points
    .filter((one) => one.slate === state.slate && passes(one, state))
    .sort((a, b) => a.p50_ms - b.p50_ms || (a.id < b.id ? -1 : 1));
  const judged = points.filter((one) => typeof value(one) === "number");
  const paper = layer(section, state.paper);
  const frame = scales(width, section, points, paper, value, range);
  const svg = shape("svg", { viewBox: `0 0 ${frame.width} ${frame.height}`, height: frame.height, role: "group" });
  svg.setAttribute("aria-label", `${section.metric_titles[metric]} against p50 latency, ${section.slate_name} ${state.slate}`);
  axes(svg, frame, section, state);
  if (!points.length && !paper.length) svg.append(text(frame.width / 2, frame.height / 2, "nothing to show: every point is filtered out", { "text-anchor": "middle" }));
  const lines = [...baselines(svg, frame, section), ...families(svg, frame, judged, value), ...front(svg, frame, judged, value)];
  if (state.limit !== null && state.statistic === "p50_ms") drawTarget(svg, frame, state.limit);
  drawPaper(svg, frame, paper);
  const marks = points.map((point) => drawPoint(svg, frame, section, point, value, range, state));
  const view = { chart, part, section, frame };
  for (const [index, mark] of marks.entries()) listen(mark, index, marks, points, view);
  follow(svg, marks, points, value, view);
  label(svg, frame, points, paper, value, range, lines);
  const notes = [];
  const levels = Object.entries(section.baselines).filter(([, figures]) => metric in figures);
  if (levels.length && frame.narrow)
    notes.push(`Baselines (dashed): ${levels.map(([name, figures]) => `${section.baseline_titles[name]} ${figures[metric].toFixed(4)}`).join(", ")}.`);
  if (judged.length < points.length) notes.push("Marks on the lower edge: latency only, no accuracy was measured (random weights, or not judged).");
  if (judged.some((point) => point.aside)) notes.push("Dashed outline: judged on other test rows than the rest, and no part of the front.");
  if (paper.length) notes.push(`Hollow grey rings. ${section.paper_title}. ${section.paper_cautions.join(" ")}`);
  chart.replaceChildren(svg, ...notes.map((note) => element("p", { class: "hint" }, note)));
}

function scales(width, section, points, paper, value, range) {
  const narrow = width < 600;
  const right = narrow ? 12 : 108;
  const height = Math.max(360, Math.min(540, Math.round(width * 0.52)));
  const xs = [...points.flatMap((p) => p.p50_ci95_ms), ...paper.map((row) => row.latency_ms)];
  const judged = points.filter((p) => typeof value(p) === "number");
  const ys = [...judged.flatMap((p) => [...range(p), value(p)]), ...paper.map((row) => row.accuracy)];
  const [x0, x1] = xs.length ? [Math.min(...xs) / 1.3, Math.max(...xs) * 1.5] : [0.1, 10];
  const [low, high] = ys.length ? [Math.min(...ys), Math.max(...ys)] : [0, 1];
  const margin = 0.06 * (high - low) || 0.01;
  const [y0, y1] = [low - margin, high + margin];
  const inner = { left: PAD.left, right: width - right, top: PAD.top, bottom: height - PAD.bottom };
  const x = (ms) => inner.left + ((Math.log(ms) - Math.log(x0)) / (Math.log(x1) - Math.log(x0))) * (inner.right - inner.left);
  const y = (accuracy) => inner.bottom - ((accuracy - y0) / (y1 - y0)) * (inner.bottom - inner.top);
  return { width, height, narrow, ...inner, x, y, x0, x1, y0, y1 };
}

function axes(svg, frame, section, state) {
  for (const [tick, words] of accuracyTicks(frame)) {
    svg.append(line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid"));
    svg.append(text(frame.left - 8, frame.y(tick) + 4, words, { "text-anchor": "end" }));
  }
  for (const tick of latencyTicks(frame)) {
    svg.append(line(frame.x(tick), frame.top, frame.x(tick), frame.bottom, "grid"));
    svg.append(text(frame.x(tick), frame.bottom + 18, tick.toLocaleString("en"), { "text-anchor": "middle" }));
  }
  svg.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"));
  const unit = frame.narrow ? "p50 ms per call (log)" : "p50 latency per call, ms (log scale; left is faster)";
  svg.append(text((frame.left + frame.right) / 2, frame.bottom + 38, unit, { "text-anchor": "middle" }));
  const middle = (frame.top + frame.bottom) / 2;
  const name = text(0, 0, `${section.metric_titles[section.metric]} (up is better)`, { "text-anchor": "middle" });
  name.setAttribute("transform", `translate(12 ${middle}) rotate(-90)`);
  svg.append(name);
}

function latencyTicks(frame) {
  const ticks = [];
  const decades = Math.log10(frame.x1 / frame.x0);
  for (let power = Math.floor(Math.log10(frame.x0)); power <= Math.log10(frame.x1); power++)
    for (const lead of decades < 1 ? [1, 1.5, 2, 3, 4, 5, 7] : decades < 2.5 ? [1, 2, 5] : [1]) ticks.push(Number(`${lead}e${power}`));
  return ticks.filter((tick) => tick >= frame.x0 && tick <= frame.x1);
}

function accuracyTicks(frame) {
  const rough = (frame.y1 - frame.y0) / 7;
  const power = Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((lead) => Number(`${lead}e${power}`)).find((one) => one >= rough);
  const decimals = Math.max(0, -Math.floor(Math.log10(step)));
  const ticks = [];
  for (let n = Math.ceil(frame.y0 / step); n * step <= frame.y1; n++) ticks.push([n * step, (n * step).toFixed(decimals)]);
  return ticks;
}

function baselines(svg, frame, section) {
  const drawn = [];
  let ceiling = Infinity; // above which the next name goes
  const rows = Object.entries(section.baselines).filter(([, figures]) => section.metric in figures);
  rows.sort((a, b) => a[1][section.metric] - b[1][section.metric]);
  for (const [name, figures] of rows) {
    const value = figures[section.metric];
    const inside = value >= frame.y0 && value <= frame.y1;
    const height = frame.y(Math.min(Math.max(value, frame.y0), frame.y1));
    if (inside) svg.append(line(frame.left, height, frame.right, height, "baseline"));
    const arrow = inside ? "" : value < frame.y0 ? "↓ " : "↑ ";
    const form = section.baseline_forms[name];
    const lines = [arrow + name, ...(form ? [`(${form})`] : []), value.toFixed(4)];
    const bottom = Math.min(height + 12, ceiling - 6);
    ceiling = bottom - 14 * lines.length;
    if (!frame.narrow) lines.forEach((words, index) => svg.append(text(frame.right + 8, ceiling + 14 * (index + 1), words)));
    drawn.push({ left: frame.left, right: frame.right, top: height - 1, bottom: height + 1 });
  }
  return drawn;
}

function families(svg, frame, points, value) {
  return [...new Set(points.map((point) => point.name))].map((model) => {
    const own = points.filter((point) => point.name === model).map((point) => [frame.x(point.p50_ms), frame.y(value(point))]);
    svg.append(shape("polyline", { class: "same", points: own.join(" ") }));
    const [xs, ys] = [own.map((at) => at[0]), own.map((at) => at[1])];
    return { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys) - 1, bottom: Math.max(...ys) + 1 };
  });
}

function front(svg, frame, points, value) {
  const corners = points.filter((point) => point.on_front).map((point) => [frame.x(point.p50_ms), frame.y(value(point))]);
  if (!corners.length) return [];
  corners.push([frame.right, corners.at(-1)[1]]);
  let path = `M${corners[0]}`;
  const pieces = [];
  for (const [index, [x, y]] of corners.entries()) {
    if (!index) continue;
    const [, before] = corners[index - 1];
    path += `H${x}V${y}`;
    pieces.push({ left: corners[index - 1][0], right: x, top: before - 1, bottom: before + 1 });
    pieces.push({ left: x - 1, right: x + 1, top: Math.min(y, before), bottom: Math.max(y, before) });
  }
  svg.append(shape("path", { class: "step", d: path }));
  return pieces;
}

function drawTarget(svg, frame, limit) {
  const x = Math.max(frame.left, Math.min(frame.right, frame.x(limit)));
  svg.append(shape("rect", { class: "beyond", x, y: frame.top, width: frame.right - x, height: frame.bottom - frame.top }), line(x, frame.top, x, frame.bottom, "limit"));
}

/* Where a point stands; one without an accuracy on the lower edge. */
function spot(frame, point, value) {
  return [frame.x(point.p50_ms), typeof value(point) === "number" ? frame.y(value(point)) : frame.bottom];
}

function drawPoint(svg, frame, section, point, value, range, state) {
  const [x, y] = spot(frame, point, value);
  const judged = typeof value(point) === "number";
  const kinds = ["point", ...(point.on_front ? ["front"] : []), ...(judged ? [] : ["unjudged"]), ...(point.aside ? ["aside"] : []), ...(late(point, state) ? ["late"] : [])];
  const group = shape("g", { class: kinds.join(" "), tabindex: -1, role: "button" });
  group.style.color = color(point.variant);
  group.setAttribute("aria-label", details(point).map((pair) => pair.join(" ")).join(", "));
  const [fast, slow] = point.p50_ci95_ms;
  group.append(line(frame.x(fast), y, frame.x(slow), y, "bar"));
  if (judged) {
    const [low, high] = range(point);
    group.append(line(x, frame.y(low), x, frame.y(high), "bar"));
  }
  const mark = marker(point.variant, point.on_front ? 7 : 5.2);
  mark.setAttribute("class", "mark");
  if (!point.on_front && point.front_probability !== null) mark.style.opacity = 0.35 + 0.65 * point.front_probability;
  const place = shape("g", { transform: `translate(${x} ${y})` });
  place.append(shape("circle", { class: "hit", r: 13 }), shape("circle", { class: "halo", r: 12 }), mark);
  group.append(place);
  svg.append(group);
  if (point.on_front) return group;
  svg.insertBefore(group, svg.querySelector(".point.front"));
  return group;
}

/* ---- The paper ---- */

function printed(section) {
  const models = new Set(section.points.map((point) => point.model));
  return section.paper.filter((row) => row.latency_ms !== null).map((row) => ({ ...row, mine: models.has(row.model) }));
}

function layer(section, which) {
  return which === "off" ? [] : printed(section).filter((row) => which === "all" || row.mine);
}

function drawPaper(svg, frame, rows) {
  for (const row of rows) {
    const ring = shape("circle", { class: row.mine ? "printed-mark mine" : "printed-mark", cx: frame.x(row.latency_ms), cy: frame.y(row.accuracy), r: 5 });
    const title = shape("title");
    title.textContent = `paper, ${row.paper_name} (${row.model}): ${row.metric} ${row.accuracy.toFixed(4)}, ${row.latency_ms} ms a sample`;
    ring.append(title);
    svg.append(ring);
  }
}

/* ---- Labels: the nearest spot that covers no marker and no label ---- */

function label(svg, frame, points, paper, value, range, lines) {
  const at = (point) => spot(frame, point, value);
  // Each model once: on the front at its fastest variant there, else at its slowest.
  const fastestLast = [...points].sort((a, b) => b.p50_ms - a.p50_ms);
  const best = new Map(fastestLast.filter((point) => point.on_front).map((point) => [point.name, point]));
  const slowest = new Map(fastestLast.reverse().map((point) => [point.name, point]));
  const others = [...slowest.values()].filter((point) => !best.has(point.name));
  const names = [
    ...[...best.values()].map((point) => [point.name, at(point), "label front", 135]),
    ...others.map((point) => [point.name, at(point), "label dim", typeof value(point) === "number" ? 0 : 90]),
    ...[...paper].sort((a, b) => b.mine - a.mine).map((row) => [row.model, [frame.x(row.latency_ms), frame.y(row.accuracy)], "label printed", 90]),
  ];
  const around = ([x, y]) => ({ left: x - 8, right: x + 8, top: y - 8, bottom: y + 8 });
  const solid = [...points.map((point) => around(at(point))), ...paper.map((row) => around([frame.x(row.latency_ms), frame.y(row.accuracy)]))];
  const bars = points.filter((point) => typeof value(point) === "number").map((point) => {
    const [low, high] = range(point);
    const [x] = at(point);
    return { left: x - 1, right: x + 1, top: frame.y(high), bottom: frame.y(low) };
  });
  for (const [name, [x, y], kind, angle] of names) {
    const front = kind === "label front";
    const note = shape("text", { class: kind, "text-anchor": "middle" });
    const height = front ? 17 : 15;
    note.append(...folded(name).map((words) => Object.assign(shape("tspan"), { textContent: words })));
    svg.append(note);
    const size = [measure(note) + 4, height * note.children.length];
    const spot = bestSpot(x, y, size, angle, solid, [...bars, ...lines], frame, front ? 200 : frame.narrow ? 50 : 150);
    if (!spot) {
      note.remove();
      continue;
    }
    solid.push(spot.box);
    const middle = (spot.box.left + spot.box.right) / 2;
    if (spot.distance > 18) svg.insertBefore(line(x, y, spot.tip[0], spot.tip[1], "leader"), svg.querySelector(".point"));
    [...note.children].forEach((words, place) => {
      words.setAttribute("x", middle);
      words.setAttribute("y", spot.box.top + height * (place + 0.5) + 4);
    });
  }
}

/* An SVG outside the document has no text metrics: a canvas has. */
function measure(note) {
  measure.canvas = measure.canvas || document.createElement("canvas").getContext("2d");
  const weight = note.getAttribute("class") === "label front" ? "700 13px" : "400 12px";
  measure.canvas.font = `${weight} ${getComputedStyle(document.body).fontFamily}`;
  return Math.max(...[...note.children].map((words) => measure.canvas.measureText(words.textContent).width));
}

/* A name on as many lines as it takes, broken behind spaces and hyphens, as in the figures. */
function folded(name) {
  const lines = [];
  for (const word of name.match(/[^\s-]*[\s-]*/g).filter(Boolean)) {
    const last = lines.at(-1);
    if (last !== undefined && (last + word).trimEnd().length <= LONGEST_LINE) lines[lines.length - 1] = last + word;
    else lines.push(word);
  }
  return lines.map((one) => one.trimEnd());
}

function bestSpot(x, y, [width, height], wish, solid, lines, frame, reach) {
  const meets = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  let best = null;
  for (const distance of [12, 17, 23, 30, 39, 50, 64, 82, 104, 132, 166, 200].filter((one) => one <= reach))
    for (let angle = 0; angle < 360; angle += 15) {
      const [dx, dy] = [Math.cos((angle * Math.PI) / 180), -Math.sin((angle * Math.PI) / 180)];
      const left = x + distance * dx - (width * (1 - dx)) / 2;
      const top = y + distance * dy - (height * (1 - dy)) / 2;
      const box = { left, top, right: left + width, bottom: top + height };
      let cost = distance + 8 * (1 - Math.cos(((angle - wish) * Math.PI) / 180));
      if (best && cost >= best.cost) continue;
      if (left < frame.left || box.right > frame.right || top < frame.top || box.bottom > frame.bottom) continue;
      if (solid.some((other) => meets(box, other))) continue;
      const tip = [x + distance * dx, y + distance * dy];
      // A level line strikes words through; an upright one only passes between letters.
      for (const one of lines) if (meets(box, one)) cost += one.bottom - one.top < 4 ? 16 : 6;
      cost += 30 * crossed(x, y, tip, solid, meets);
      if (!best || cost < best.cost) best = { cost, box, distance, tip };
    }
  return best;
}

function crossed(x, y, tip, solid, meets) {
  const dots = [0.2, 0.35, 0.5, 0.65, 0.8, 0.95].map((part) => [x + (tip[0] - x) * part, y + (tip[1] - y) * part]);
  const here = { left: x - 1, right: x + 1, top: y - 1, bottom: y + 1 };
  const away = solid.filter((box) => !meets(box, here));
  return away.filter((box) => dots.some(([a, b]) => a > box.left && a < box.right && b > box.top && b < box.bottom)).length;
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
function follow(svg, marks, points, value, view) {
  const nearest = (event) => {
    const area = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    const away = points.map((point) => Math.hypot(spot(view.frame, point, value)[0] - x, spot(view.frame, point, value)[1] - y));
    const closest = Math.min(...away);
    return closest <= REACH ? away.indexOf(closest) : -1;
  };
  const show = (index) => {
    if (index < 0) deactivate(view);
    else if (!marks[index].classList.contains("active")) activate(marks[index], points[index], view);
  };
  const rest = () => show(marks.indexOf(document.activeElement));
  svg.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const index = nearest(event);
    svg.classList.toggle("near", index >= 0);
    index < 0 ? rest() : show(index);
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("click", (event) => {
    const index = nearest(event);
    if (index < 0) return;
    if (marks[index] === document.activeElement && event.detail) openFacts(pointFacts(view.section, points[index]));
    marks[index].focus({ preventScroll: true });
    show(index);
  });
}

function activate(mark, point, view) {
  deactivate(view);
  mark.classList.add("active");
  for (const row of view.part.querySelectorAll("tbody tr")) row.classList.toggle("active", row.dataset.point === point.id);
  const metric = view.section.metric;
  const tip = element("div", { class: "tip", role: "status" });
  const [[, name], ...facts] = details(point);
  tip.append(element("strong", {}, name));
  const list = element("dl");
  for (const [term, fact] of facts) list.append(element("dt", {}, term), element("dd", {}, fact));
  tip.append(list);
  view.chart.append(tip);
  const [x, y] = spot(view.frame, point, (one) => one.accuracy[metric]);
  const left = x + 18 + tip.offsetWidth < view.frame.width ? x + 18 : x - 18 - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(left, view.frame.width - tip.offsetWidth))}px`;
  tip.style.top = `${view.frame.narrow ? view.frame.height : Math.max(0, y - tip.offsetHeight / 2)}px`;
}

function deactivate(view) {
  view.chart.querySelector(".tip")?.remove();
  for (const one of view.part.querySelectorAll(".active")) one.classList.remove("active");
}

function details(point) {
  return [["", `${point.name} ${point.variant}`], ...point.facts];
}

function share(value) {
  return value < 0.01 ? "< 0.01" : value > 0.99 ? "> 0.99" : value.toFixed(2);
}

/* ---- Where a figure comes from: a dialog with n, interval, key and command ---- */

function pointFacts(section, point) {
  const source = section.sources.find((one) => one.run === point.run);
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
  for (const one of cell.also) say(one, "also");
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
    const section = report.sections.find((one) => one.dataset === dataset && one.scope === table.scope && one.threads === table.threads && one.exclude_seen === table.exclude_seen && one.task === table.task && one.points.some((other) => other.id === point.parts[index]));
    const own = section.points.find((one) => one.id === point.parts[index]);
    return { dataset, section, own, source: section.sources.find((one) => one.run === own.run) };
  });
  const facts = parts.map(({ dataset, section, own }) => [dataset, `${section.metric_titles[section.metric]} ${own.accuracy[section.metric].toFixed(4)}, p50 ${ms(own.p50_ms)} ms, n ${own.runs.toLocaleString("en")}, key ${section.comparability_key}`]);
  if (point.front_probability !== null) facts.push(["P(front)", share(point.front_probability)]);
  return { title: `${point.name} ${point.variant}, overall`, facts, commands: parts.map((one) => one.source.command) };
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
  const list = element("dl");
  for (const [term, fact] of facts) list.append(element("dt", {}, term), element("dd", {}, fact));
  const shut = element("button", { type: "button", class: "shut", "aria-label": "Close" }, "×");
  shut.addEventListener("click", () => box.close());
  box.replaceChildren(shut, element("h2", { id: "facts-title" }, title), list);
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
      for (const one of heads) one.removeAttribute("aria-sort");
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

function color(variant) {
  return variant in report.styles ? `var(--${variant})` : "var(--other)";
}

function marker(variant, size) {
  return (SHAPES[report.styles[variant]] || plus)(size);
}

function circle(r) { return shape("circle", { r }); }
function square(r) { return shape("rect", { x: -r * 0.9, y: -r * 0.9, width: r * 1.8, height: r * 1.8 }); }
function triangle(r) { return shape("path", { d: `M0 ${-r * 1.15}L${r * 1.1} ${r * 0.8}H${-r * 1.1}Z` }); }
function wedge(r) { return shape("path", { d: `M0 ${r * 1.15}L${r * 1.1} ${-r * 0.8}H${-r * 1.1}Z` }); }
function diamond(r) { return shape("path", { d: `M0 ${-r * 1.2}L${r * 1.2} 0L0 ${r * 1.2}L${-r * 1.2} 0Z` }); }
function plus(r) { const t = r * 0.4; return shape("path", { d: `M${-t} ${-r}H${t}V${-t}H${r}V${t}H${t}V${r}H${-t}V${t}H${-r}V${-t}H${-t}Z` }); }

function line(x1, y1, x2, y2, kind) { return shape("line", { x1, y1, x2, y2, class: kind }); }

function text(x, y, content, attributes = {}) {
  const node = shape("text", { x, y, ...attributes });
  node.textContent = content;
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
