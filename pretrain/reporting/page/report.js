"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const boxes = [...document.querySelectorAll("[data-chart]")];
const axis = document.getElementById("axis");
const log = document.getElementById("log");
const smooth = document.getElementById("smooth");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const colors = ["#3b78d8", "#d9822b", "#2ca02c", "#c4314b", "#8a63d2", "#8c6d31", "#c85a9e", "#6b7280", "#9a9a1a", "#17a2b8"];
const kept = "resonance-report:" + location.pathname;

function smoothed(values, weight) {
  let mean = null, total = 0;
  return values.map((value) => {
    if (value === null || typeof value !== "number") return value;
    mean = (mean === null ? 0 : mean) * weight + (1 - weight) * value;
    total = total * weight + (1 - weight);
    return mean / total;
  });
}

function traces(chart) {
  const weight = Number(smooth.value);
  let shown = chart.traces;
  if (chart.layout.choose && chart.choice) shown = shown.filter((t) => t.figure === chart.choice);
  return shown.map((trace, index) => {
    const color = colors[(trace.color ?? index) % colors.length];
    const copy = { ...trace, marker: { color, size: 6, ...trace.marker }, line: { color, width: 1.5, dash: trace.dash } };
    if (trace.tokens && axis.value === "tokens") copy.x = trace.tokens;
    if (weight > 0 && trace.mode === "lines") copy.y = smoothed(trace.y, weight);
    if (trace.type === "heatmap") { delete copy.line; delete copy.marker; }
    for (const key of ["tokens", "color", "figure", "dash"]) delete copy[key];
    return copy;
  });
}

function layout(chart) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim(), line = style.getPropertyValue("--line").trim();
  const own = chart.layout;
  const shared = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const bottom = own.x ?? (chart.tokens ? axis.value : own.stack ? "" : own.category ? "step" : "");
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 },
    margin: { l: 56, r: 12, t: 8, b: 40 }, hovermode: chart.tokens ? "x" : "closest", dragmode: "zoom",
    barmode: own.stack ? "stack" : undefined, showlegend: chart.traces.length > 1,
    legend: { orientation: "h", y: -0.25 },
    xaxis: { ...shared, title: { text: bottom }, type: own.xlog ? "log" : undefined },
    yaxis: { ...shared, title: { text: own.category ? "" : own.y ?? chart.unit },
      type: own.category ? "category" : (log.checked && chart.tokens) || own.ylog ? "log" : undefined,
      rangemode: own.zero ? "tozero" : undefined, scaleanchor: own.square ? "x" : undefined },
    shapes: own.shapes,
  };
}

function draw() {
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  for (const box of boxes) {
    const chart = data.charts[Number(box.dataset.chart)];
    Plotly.react(box, traces(chart), layout(chart), settings);
  }
}

function choices() {
  for (const box of boxes) {
    const chart = data.charts[Number(box.dataset.chart)];
    if (!chart.layout.choose) continue;
    const select = document.createElement("select");
    select.setAttribute("aria-label", "Figure of " + chart.title);
    for (const name of new Set(chart.traces.map((t) => t.figure))) select.add(new Option(name, name));
    chart.choice = select.value;
    select.addEventListener("change", () => { chart.choice = select.value; draw(); });
    box.before(select);
  }
}

function press(event) {
  const box = event.currentTarget;
  const range = box._fullLayout?.xaxis?.range;
  if (!range || event.ctrlKey || event.metaKey || event.altKey) return;
  const [low, high] = range.map(Number), width = high - low, middle = (low + high) / 2;
  const moves = {
    "+": [middle - width / 4, middle + width / 4], "-": [middle - width, middle + width],
    "ArrowLeft": [low - width / 5, high - width / 5], "ArrowRight": [low + width / 5, high + width / 5],
  };
  const to = moves[event.key === "=" ? "+" : event.key];
  if (to) Plotly.relayout(box, { "xaxis.range": to });
  else if (event.key === "0") Plotly.relayout(box, { "xaxis.autorange": true, "yaxis.autorange": true });
  else return;
  event.preventDefault();
}

function keep() {
  try {
    sessionStorage.setItem(kept, JSON.stringify([axis.value, log.checked, smooth.value, window.scrollY]));
  } catch { /* a page without storage forgets its options */ }
}

function restore() {
  try {
    const [by, logarithmic, weight, y] = JSON.parse(sessionStorage.getItem(kept));
    axis.value = by; log.checked = logarithmic; smooth.value = weight;
    return y;
  } catch { return null; }
}

const scroll = data.refresh_s ? restore() : null;
choices();
draw();
if (scroll !== null) window.scrollTo(0, scroll);
for (const control of [axis, log, smooth]) control.addEventListener("input", () => { draw(); keep(); });
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
for (const box of boxes) box.addEventListener("keydown", press);
dark.addEventListener("change", draw);
window.addEventListener("beforeprint", () => { for (const box of boxes) Plotly.Plots.resize(box); });
if (data.refresh_s) setTimeout(() => { keep(); location.reload(); }, 1000 * data.refresh_s);
document.documentElement.dataset.ready = "true";
