// The page: it is told how the federation stands as server-sent events, and fetches the rounds that it does not have yet.

import { heatmap, lines, short } from "/static/charts.js";

const PATIENCE_S = 5; // what a round waits for is not worth a line before

const RETRY_MS = 2000;
const at = (id) => document.getElementById(id);
const state = { overview: null, rounds: [], cycles: [], device: null, busy: false, again: false };

// -- asking ------------------------------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function order(name, about = {}) {
  const answer = await fetch(`/api/orders/${name}`, {
    method: "POST", headers: { "X-Lamina": "1", "Content-Type": "application/json" }, body: JSON.stringify(about),
  });
  const said = await answer.text();
  if (!answer.ok) return trouble(said);
  trouble("");
  show(JSON.parse(said));
}

function confirmed(question, fields = []) {
  at("confirm-text").textContent = question;
  for (const name of ["round", "canary", "int8"]) at(`field-${name}`).hidden = !fields.includes(name);
  const dialog = at("confirm");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

const GONE = "The coordinator does not answer. This page goes on when it is back.";

function trouble(text) {
  at("trouble").hidden = !text;
  at("trouble").textContent = text;
}

// -- what has come -----------------------------------------------------------------------------------------------------

async function show(overview) {
  const before = state.overview;
  state.overview = overview;
  head(overview);
  layerTable(overview);
  deviceTable(overview);
  model(overview);
  if (state.device) deviceFacts(overview);
  if (before && before.round > overview.round) { state.rounds = []; state.cycles = []; }
  if (!before) charts();
  await catchUp();
}

// One at a time; what comes meanwhile is fetched after it.
async function catchUp() {
  if (state.busy) { state.again = true; return; }
  state.busy = true;
  try {
    do {
      state.again = false;
      const rounds = await ask(`/api/rounds?after=${reread()}`);
      if (rounds.length) {
        state.rounds = [...state.rounds.filter((record) => record.round < rounds[0].round), ...rounds];
        const cycles = await ask(`/api/cycles?after=${state.cycles.length}`);
        state.cycles.push(...cycles);
        charts();
      }
      logLines(at("log"), await ask("/api/log"));
    } while (state.again);
  } catch (error) {
    trouble(error instanceof TypeError ? GONE : String(error.message ?? error)); // a fetch that nobody answers
  } finally {
    state.busy = false;
  }
}

// A round's accuracy comes in its record, so no round needs to be read twice; the first ask gets all.
function reread() {
  return state.rounds.length ? state.rounds[state.rounds.length - 1].round + 1 : 0;
}

// -- in brief ----------------------------------------------------------------------------------------------------------

const NAMES = { waiting: "Waiting for devices", training: "Training", paused: "Paused", finished: "Finished", stopped: "Stopped" };

function head(o) {
  document.title = `${o.federation} · ${o.round}/${o.rounds} · Lamina`;
  at("federation").textContent = o.federation;
  at("state").textContent = o.live || o.state === "finished" ? NAMES[o.state] : "No coordinator runs";
  at("state").dataset.state = o.state;
  at("pause").hidden = !o.live || o.state === "paused" || o.state === "finished";
  at("resume").hidden = !o.live || o.state !== "paused";
  at("waiting").hidden = !o.waiting || (o.state === "training" && Date.now() / 1000 - o.waiting_since < PATIENCE_S);
  const since = o.waiting_since ? ` (since ${clock(o.waiting_since)})` : "";
  at("waiting").textContent = o.waiting ? o.waiting + since : "";
  at("tile-round").textContent = `${o.round} / ${o.rounds}`;
  at("tile-left").textContent = o.left_s === null ? "" : `about ${duration(o.left_s)} to go`;
  const { judge } = o, format = formatOf(judge);
  at("tile-judge").textContent = at("h-judge").textContent = title(judge);
  at("tile-figure").textContent = judge.last === null ? "–" : format(judge.last);
  at("tile-best").textContent = judge.best_round === null ? "not evaluated" : `best ${format(judge.best)} after ${judge.best_round}`;
  const own = judge.on_devices;
  at("tile-devices").textContent = own ? `${format(own.mean)} on ${own.devices} devices, worst tenth ${format(own.worst)}` : "";
  at("tile-c").textContent = o.fedavg_uplink_bytes ? o.c_ratio.toFixed(3) : "–";
  at("tile-up").textContent = size(o.uplink_bytes);
  at("tile-share").textContent = o.fedavg_uplink_bytes ? `${percent(o.uplink_bytes / o.fedavg_uplink_bytes)} of FedAvg's ${size(o.fedavg_uplink_bytes)}` : "";
  at("tile-down").textContent = size(o.downlink_bytes);
  at("tile-time").textContent = o.wall_s ? `in ${duration(o.wall_s)}` : "";
}

// The figure that the model is judged by: shares are percentages, all else is a number.
function formatOf(judge) {
  return !judge.lower_is_better && (judge.last ?? 0) >= 0 && (judge.best ?? 0) <= 1 ? percent : short;
}

function title(judge) {
  const name = judge.name.replaceAll("_", " ");
  return name.charAt(0).toUpperCase() + name.slice(1);
}

// -- charts ------------------------------------------------------------------------------------------------------------

function put(id, svg, empty, legend = []) {
  const place = at(id);
  if (!svg) {
    place.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: empty }));
    return;
  }
  place.replaceChildren(svg);
  if (legend.length) {
    const list = Object.assign(document.createElement("ul"), { className: "legend" });
    legend.forEach((name, index) => {
      const item = document.createElement("li");
      item.append(Object.assign(document.createElement("span"), { className: index ? "two" : "one" }), name);
      list.append(item);
    });
    place.append(list);
  }
}

function charts() {
  const { rounds, cycles, overview } = state;
  const wide = (id) => Math.max(at(id).clientWidth, 240);
  const series = (name, kind = "first") => ({ kind, points: rounds.filter((r) => r[name] !== null).map((r) => [r.round + 1, r[name]]) });
  const { judge } = overview, format = formatOf(judge);
  const held = { kind: "first", points: rounds.filter((r) => judge.name in r.figures).map((r) => [r.round + 1, r.figures[judge.name]]) };
  const training = judge.name === "accuracy" ? [series("train_accuracy", "second")] : [];
  put("chart-judge", lines([held, ...training], {
    width: wide("chart-judge"), format, label: `${title(judge)} by round, the last one ${last(held, format)}`,
  }), "It was not evaluated yet.", training.length ? ["held-out data", "devices' own samples"] : [`held-out data, ${judge.lower_is_better ? "lower" : "higher"} is better`]);
  put("chart-loss", lines([series("loss")], {
    width: wide("chart-loss"), label: `Training loss by round, the last one ${last(series("loss"), short)}`,
  }), "No round is done yet.");
  const names = overview.layers.map((layer) => layer.name);
  put("chart-intervals", heatmap(names, cycles.map((cycle) => cycle.intervals), {
    width: wide("chart-intervals"), label: `Intervals of ${names.length} layers over ${cycles.length} cycles; the table below has the present ones`,
    describe: (name, cycle, value) => `${name}, after cycle ${cycle + 1}: every ${value} steps`,
  }), "Intervals are adjusted at the end of a cycle; with phi = 1 they never are.");
  const cycle = cycles[cycles.length - 1];
  put("chart-curves", cycle ? lines([
    { kind: "first", points: cycle.d_curve.map((value, index) => [index + 1, value]) },
    { kind: "second", points: cycle.s_curve.map((value, index) => [index + 1, 1 - value]) },
  ], {
    width: wide("chart-curves"), from: 0, to: 1, mark: cycle.crossing + 0.5, xName: "layers",
    label: `Discrepancy against communication: ${cycle.crossing} of ${cycle.order.length} layers are relaxed`,
  }) : null, "No cycle is done yet.", ["D: discrepancy so far", "1 − S: communication left"]);
  put("chart-bytes", lines([series("uplink_bytes"), series("fedavg_uplink_bytes", "second")], {
    width: wide("chart-bytes"), from: 0, format: size, label: `Bytes sent up: ${size(overview.uplink_bytes)}, FedAvg ${size(overview.fedavg_uplink_bytes)}`,
  }), "No round is done yet.", ["this run", "FedAvg, float32"]);
}

function last({ points }, format) {
  return points.length ? format(points[points.length - 1][1]) : "unknown";
}

// -- tables ------------------------------------------------------------------------------------------------------------

function table(id, columns, rows) {
  const place = at(id), head = document.createElement("tr");
  for (const [name, , kind] of columns) head.append(Object.assign(document.createElement("th"), { textContent: name, className: kind ?? "", scope: "col" }));
  const body = document.createElement("tbody");
  for (const row of rows) {
    const line = document.createElement("tr");
    for (const [, value, kind] of columns) {
      const cell = Object.assign(document.createElement("td"), { className: kind ?? "" });
      cell.append(value(row) ?? "–");
      line.append(cell);
    }
    body.append(line);
  }
  const thead = document.createElement("thead");
  thead.append(head);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  place.replaceChildren(thead, body);
  if (focused) place.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
}

function layerTable(o) {
  const total = o.layers.reduce((sum, layer) => sum + layer.parameters * layer.aggregations, 0) || 1;
  table("layers", [
    ["Layer", (l) => l.name],
    ["Parameters", (l) => l.parameters.toLocaleString("en"), "number"],
    ["Interval", (l) => `${l.interval} steps`, "number"],
    ["Averaged", (l) => `${l.aggregations} ×`, "number"],
    ["Discrepancy", (l) => short(l.discrepancy), "number"],
    ["Sent", (l) => (l.uplink_bytes === null ? null : size(l.uplink_bytes)), "number"],
    ["Share of what was communicated", (l) => bar((l.parameters * l.aggregations) / total)],
  ], o.layers);
}

function bar(share) {
  const whole = document.createElement("span");
  whole.append(Object.assign(document.createElement("span"), { className: "bar" }), percent(share));
  whole.firstChild.style.width = `${(8 * share).toFixed(2)}rem`;
  return whole;
}

function deviceTable(o) {
  table("devices", [
    ["Device", (d) => nameButton(d)],
    ["State", (d) => standing(d)],
    ["Trains from", (d) => (d.cut === null ? null : `${d.cut} ${d.layer}`)],
    ["Budget", (d) => `${d.budget_mib.toFixed(0)} MiB`, "number"],
    ["Peak", (d) => (d.peak_mib === null ? null : `${d.peak_mib.toFixed(1)} MiB`), "number"],
    ["Step", (d) => (d.step_s === null ? null : `${(1000 * d.step_s).toFixed(1)} ms`), "number"],
    ["Rounds", (d) => String(d.rounds_done), "number"],
    ["Sent", (d) => (d.uplink_bytes === null ? null : size(d.uplink_bytes)), "number"],
    ["Last seen", (d) => (d.seen_at === null ? null : clock(d.seen_at))],
    ...(o.devices.some((d) => d.certificate_until !== null) ? [["Certificate", certificate]] : []),
    ["Why", (d) => d.reason, "reason"],
  ], o.devices);
}

function certificate(d) {
  if (d.certificate_until === null) return null;
  const days = Math.floor((d.certificate_until - Date.now() / 1000) / 86400);
  const text = days < 0 ? "ended" : `ends in ${days} days`;
  return Object.assign(document.createElement("span"), { textContent: text, className: days < 30 ? "refused" : "" });
}

// -- the model ---------------------------------------------------------------------------------------------------------

function model(o) {
  const d = o.deployment;
  const deployed = d && d.in_force ? `On the devices: ${d.in_force}.` : "No model is on the devices.";
  at("model-state").textContent = d && d.rollout ? `${deployed} ${upper(d.rollout)}${d.reason ? `: ${d.reason}` : ""}.` : deployed;
  at("model-notice").hidden = !o.notice;
  at("model-notice").textContent = o.notice;
  at("export").hidden = at("deploy").hidden = at("roll-back").hidden = !o.live;
  at("export").disabled = at("deploy").disabled = at("roll-back").disabled = !o.kept.length;
  at("deploy").disabled ||= Boolean(d && d.under_way);
  at("undo-deployment").hidden = !o.live || !d || !(d.in_force || d.under_way);
  const rows = d ? [...Object.entries(d.answers), ...d.silent.map((name) => [name, "has not answered yet"])] : [];
  at("answers").hidden = !rows.length;
  if (rows.length) table("answers", [["Device", ([name]) => name], ["What it made of the model", ([, said]) => said, "reason"]], rows);
}

const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function rounds(withWords) {
  const options = withWords ? [["last", "after the last round"], ["best", "the best one by evaluation"]] : [];
  for (const round of [...state.overview.kept].reverse()) options.push([String(round), `after round ${round}`]);
  at("round").replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
}

function chosen() {
  const value = at("round").value;
  return value === "last" ? {} : value === "best" ? { best: true } : { round: Number(value) };
}

function standing(d) {
  const word = d.state === "online" && d.owes ? "owes" : d.state;
  return Object.assign(document.createElement("span"), { className: word, textContent: word === "owes" ? "training" : word });
}

function nameButton(d) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "link", textContent: d.id });
  button.dataset.name = d.id;
  button.addEventListener("click", () => openDevice(d.id));
  return button;
}

function logLines(place, log) {
  const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 30;
  place.replaceChildren(...log.slice(-300).map(([when, level, said]) =>
    Object.assign(document.createElement("li"), { className: level, textContent: `${clock(when)}  ${said}` })));
  if (!log.length) place.replaceChildren(Object.assign(document.createElement("li"), { textContent: "Nothing." }));
  if (atEnd) place.scrollTop = place.scrollHeight;
}

// -- one device --------------------------------------------------------------------------------------------------------

async function openDevice(name) {
  state.device = name;
  at("device-name").textContent = name;
  deviceFacts(state.overview);
  at("device").showModal();
  logLines(at("device-log"), await ask(`/api/log?device=${encodeURIComponent(name)}`));
}

function deviceFacts(o) {
  const d = o.devices.find((each) => each.id === state.device);
  if (!d) return;
  const facts = [
    ["State", d.state], ["Why", d.reason], ["Board", [d.architecture, d.cores && `${d.cores} cores`].filter(Boolean).join(", ")],
    ["Engine", d.engine], ["Memory", `${d.budget_mib.toFixed(1)} MiB for training${d.peak_mib === null ? "" : `, ${d.peak_mib.toFixed(1)} used at most`}`],
    ["Trains", d.cut === null ? "nothing" : `from layer ${d.cut}, ${d.layer} (${d.tier})`],
    ["Samples", d.examples === null ? "" : d.examples.toLocaleString("en")],
    [d.accuracy === null ? "Loss" : "Loss, accuracy", d.loss === null ? "" : `${short(d.loss)}${d.accuracy === null ? "" : `, ${percent(d.accuracy)}`} on its own samples`],
    ["Bytes", d.uplink_bytes === null ? "" : `${size(d.uplink_bytes)} up, ${size(d.downlink_bytes ?? 0)} down`],
    ["Refused updates", String(d.refused)],
  ].filter(([, value]) => value);
  at("device-facts").replaceChildren(...facts.flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }),
  ]));
  const aside = o.aside.includes(d.id);
  at("put-aside").hidden = !o.live || aside;
  at("readmit").hidden = !o.live || !aside;
}

// -- words -------------------------------------------------------------------------------------------------------------

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function size(bytes) {
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (bytes >= scale) return `${(bytes / scale).toFixed(1)} ${unit}`;
  return `${Math.round(bytes)} B`;
}

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB");

// -- begin -------------------------------------------------------------------------------------------------------------

at("pause").addEventListener("click", async () => {
  if (await confirmed("Begin no further round? The open one is finished.")) order("pause");
});
at("resume").addEventListener("click", async () => { if (await confirmed("Go on with the next round?")) order("resume"); });
at("put-aside").addEventListener("click", async () => {
  if (await confirmed(`Put ${state.device} aside? It takes no further part until it is taken back.`)) order("put-aside", { device: state.device });
});
at("readmit").addEventListener("click", async () => { if (await confirmed(`Take ${state.device} back?`)) order("readmit", { device: state.device }); });
at("export").addEventListener("click", async () => {
  rounds(true);
  if (await confirmed("Write a model's files into the federation's folder?", ["round"])) order("export", chosen());
});
at("deploy").addEventListener("click", async () => {
  rounds(true);
  const question = "Have devices predict with this model? Each judges it on its own samples; where too many refuse, all keep the one before.";
  if (!await confirmed(question, ["round", "canary", "int8"])) return;
  order("deploy", { ...chosen(), canary: at("canary").value.trim() || null, quantise: at("int8").checked ? "int8" : "" });
});
at("undo-deployment").addEventListener("click", async () => {
  if (await confirmed("Have all devices go back to the model before?")) order("undo-deployment");
});
at("roll-back").addEventListener("click", async () => {
  rounds(false);
  if (await confirmed("Have training go on after an earlier round? Later rounds are set aside, and devices begin afresh.", ["round"])) order("roll-back", chosen());
});
at("device").addEventListener("close", () => { state.device = null; });
addEventListener("resize", () => { if (state.overview) charts(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state.overview) charts(); });

function listen() {
  const events = new EventSource("/api/events");
  events.onmessage = (event) => {
    if (at("state").dataset.state === "lost") trouble("");
    show(JSON.parse(event.data));
  };
  events.onerror = () => {
    at("state").dataset.state = "lost";
    trouble(GONE);
    events.close(); // a browser gives up for good after some kinds of error
    setTimeout(listen, RETRY_MS);
  };
}

listen();
