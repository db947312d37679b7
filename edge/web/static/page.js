"use strict";
// The page asks for one picture after another; a slow page skips pictures. Age runs on this browser's own clocks, so that a
// picture also becomes STALE when nothing comes any more.

const COLOURS = { positive: "#e69f00", normal: "#a0a0a0", other: "#0072b2" }; // as in edge.overlay
const MARKS = { positive: "M10 2 19 18H1Z", normal: "M10 3a7 7 0 1 0 .01 0Z", other: "M3 3H17V17H3Z" };
const NO_LESION = ["no lesion", "normal"];
const WORDS = { waiting: "WAITING", live: "LIVE", stale: "STALE", frozen: "FROZEN", rejected: "NOT ANALYSED", held: "HELD" };
const REQUEST_MS = 4000;
const HOT_C = 80;

const viewer = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

let live = null; // the newest picture: {bitmap, frame, ageMs, at}
let held = null; // the picture on hold
let outlined = true;
let state = null;
let stateKey = "";
let switches = 0; // how often this page switched the recording
let staleMs = 1000;
let contact = moment(); // when the server answered last
let refusal = ""; // what it said when it refused
let mode = "";

// Time: both clocks are asked. One stops while a computer sleeps, the other can be set; the larger difference is the safe one.

function moment() {
  return { steady: performance.now(), wall: Date.now() };
}
function since(then) {
  return Math.max(performance.now() - then.steady, Date.now() - then.wall);
}
function age(picture) {
  return picture.ageMs + since(picture.at);
}
function span(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

// Pictures come in

async function poll() {
  let key = "";
  for (;;) {
    if (document.hidden) await new Promise((shown) => document.addEventListener("visibilitychange", shown, { once: true }));
    try {
      const sent = moment();
      const switchesThen = switches;
      const address = `frame?viewer=${viewer}&after=${encodeURIComponent(key)}&state=${encodeURIComponent(stateKey)}`;
      const response = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(REQUEST_MS) });
      if (!response.ok) {
        refusal = (await response.text()).trim() || `the server answers ${response.status}`;
        await pause(1000);
        continue;
      }
      const body = await response.arrayBuffer();
      const took = since(sent);
      const came = moment();
      const length = new DataView(body).getUint32(0);
      const told = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
      contact = came;
      refusal = "";
      // An answer from before the page switched the recording tells what was, not what is.
      if (told.state && switchesThen === switches) {
        state = told.state;
        stateKey = told.state_key;
        staleMs = state.stale_ms;
        showState();
      }
      if (told.frame) {
        const bitmap = await createImageBitmap(new Blob([new Uint8Array(body, 4 + length)], { type: "image/jpeg" }));
        // What the server did not spend was spent on the way, in part on the way back: counted as age.
        const ageMs = told.age_ms + Math.max(0, took - told.handled_ms);
        if (live && live !== held) live.bitmap.close();
        live = { bitmap, frame: told.frame, ageMs, at: came };
        key = told.key;
        if (!held) {
          showFinding(live);
          paint();
        }
      }
      tick();
    } catch (error) {
      console.warn(error); // no connection, or an answer cut short; the age says the rest
      await pause(300);
    }
  }
}

// Drawing

function call(finding) {
  if (finding.positive !== null && finding.decision === finding.positive) return "positive";
  return NO_LESION.includes(finding.decision) ? "normal" : "other";
}

function drawPicture(context, picture, x, y, scale) {
  const { frame, bitmap } = picture;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, frame.width * scale, frame.height * scale);
}

function drawMarks(context, picture, x, y, scale, unit) {
  const { frame } = picture;
  context.save();
  context.lineJoin = "round";
  context.font = `600 ${14 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  if (frame.spacing_mm) drawRuler(context, frame, x, y, scale, unit);
  if (outlined && frame.finding) {
    const called = call(frame.finding);
    // A contour runs through pixel centres.
    const place = ([px, py]) => [x + (px - frame.left + 0.5) * scale, y + (py - frame.top + 0.5) * scale];
    for (const lesion of frame.finding.lesions) drawLesion(context, lesion, called, place, unit);
  }
  context.restore();
}

function drawLesion(context, lesion, called, place, unit) {
  const points = lesion.contour_px.map(place);
  if (!points.length) return;
  const outline = new Path2D();
  points.forEach(([px, py]) => outline.lineTo(px, py));
  outline.closePath();
  const calipers = new Path2D();
  for (const [px, py] of lesion.diameter_ends_px.map(place)) {
    calipers.moveTo(px - 6 * unit, py);
    calipers.lineTo(px + 6 * unit, py);
    calipers.moveTo(px, py - 6 * unit);
    calipers.lineTo(px, py + 6 * unit);
  }
  context.setLineDash([]);
  context.strokeStyle = called === "other" ? "rgb(255 255 255 / 0.8)" : "rgb(0 0 0 / 0.7)";
  context.lineWidth = 4.5 * unit;
  context.stroke(outline);
  context.strokeStyle = COLOURS[called];
  context.lineWidth = 2.25 * unit;
  context.setLineDash(called === "positive" ? [] : [9 * unit, 5 * unit]);
  context.stroke(outline);
  context.setLineDash([]);
  context.strokeStyle = "#000";
  context.lineWidth = 3 * unit;
  context.stroke(calipers);
  context.strokeStyle = "#fff";
  context.lineWidth = 1.25 * unit;
  context.stroke(calipers);
  const [right, top] = points.reduce((a, b) => (b[0] - b[1] > a[0] - a[1] ? b : a));
  label(context, String(lesion.track), right + 6 * unit, top - 8 * unit, unit);
}

function drawRuler(context, frame, x, y, scale, unit) {
  const length = (10 / frame.spacing_mm[1]) * scale;
  if (length < 16 * unit || length > frame.width * scale * 0.6) return;
  const [left, bottom] = [x + 14 * unit, y + frame.height * scale - 14 * unit];
  const bar = new Path2D(`M${left} ${bottom - 5 * unit}v${5 * unit}h${length}v${-5 * unit}`);
  context.strokeStyle = "#000";
  context.lineWidth = 4 * unit;
  context.stroke(bar);
  context.strokeStyle = "#fff";
  context.lineWidth = 1.5 * unit;
  context.stroke(bar);
  label(context, "10 mm", left + length + 8 * unit, bottom - 2 * unit, unit);
}

function label(context, text, x, y, unit) {
  context.strokeStyle = "#000";
  context.lineWidth = 3 * unit;
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

function paint() {
  const picture = held ?? live;
  const canvas = $("picture");
  const unit = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * unit), Math.round(canvas.clientHeight * unit)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!picture) return;
  const scale = Math.min(width / picture.frame.width, height / picture.frame.height);
  const x = (width - picture.frame.width * scale) / 2;
  const y = (height - picture.frame.height * scale) / 2;
  drawPicture(context, picture, x, y, scale);
  drawMarks(context, picture, x, y, scale, unit);
}

// Words

function percent(value) {
  return value === null || value === undefined ? "–" : value.toFixed(2);
}

function put(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

function showFinding(picture) {
  const finding = picture.frame.finding;
  const called = finding ? call(finding) : "none";
  $("answer").dataset.call = called;
  $("mark-path").setAttribute("d", MARKS[called] ?? "M3 9H17V11H3Z");
  put("decision-word", finding ? finding.decision : "No answer");
  const malignancy = finding ? finding.malignancy : null;
  $("positive-bar").hidden = malignancy === null;
  if (malignancy !== null) {
    put("positive-name", `Probability of ${finding.positive}`);
    put("positive-value", percent(malignancy));
    $("positive-fill").setAttribute("width", 100 * malignancy);
    $("threshold-tick").setAttribute("x", finding.threshold === null ? -2 : 100 * finding.threshold - 0.4);
    put("threshold", finding.threshold === null ? "" : `Called ${finding.positive} from ${percent(finding.threshold)}`);
  }
  const presence = finding ? finding.presence : null;
  $("presence-bar").hidden = presence === null;
  if (presence !== null) {
    put("presence-value", percent(presence));
    $("presence-fill").setAttribute("width", 100 * presence);
  }
  const lesions = finding ? finding.lesions : [];
  $("lesions").hidden = !lesions.length;
  const rows = lesions.map((lesion) => [
    String(lesion.track),
    lesion.diameter_mm === null ? `${Math.round(lesion.diameter_px)} px` : `${lesion.diameter_mm.toFixed(1)} mm`,
    lesion.area_mm2 === null ? `${lesion.area_px} px` : `${(lesion.area_mm2 / 100).toFixed(2)} cm²`,
  ]);
  const body = $("lesions").tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) for (let cell = body.insertRow(), n = 0; n < 3; n++) cell.insertCell();
  rows.forEach((cells, row) => cells.forEach((text, n) => (body.rows[row].cells[n].textContent = text)));
  const marks = lesions.length && outlined ? `, outlined ${lesions.length === 1 ? "once" : `${lesions.length} times`}` : "";
  const said = `Ultrasound picture: ${finding ? finding.decision : "not analysed"}${marks}`;
  if ($("picture").getAttribute("aria-label") !== said) $("picture").setAttribute("aria-label", said);
}

function showGraph(name, values, unit) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(1, ...known);
  const step = 10 ** Math.floor(Math.log10(most));
  const top = [1, 2, 5, 10].map((n) => n * step).find((n) => n >= most);
  let path = "";
  values.forEach((value, n) => {
    const broken = n === 0 || values[n - 1] === null;
    if (value !== null) path += `${broken ? "M" : "L"}${60 - values.length + n + 1} ${(19.5 - (19 * value) / top).toFixed(2)}`;
  });
  document.querySelector(`#${name}-graph .line`).setAttribute("d", path);
  const last = values.at(-1);
  const text = last === undefined || last === null ? "–" : `${last.toFixed(last < 100 ? 1 : 0)} ${unit}`;
  put(name, text);
  put(`${name}-top`, `60 s, 0 to ${top} ${unit}`);
  $(`${name}-graph`).setAttribute("aria-label", `${name} over the last minute, now ${text}`);
}

function showState() {
  showGraph("rate", state.rates, "/s");
  showGraph("latency", state.latencies_ms, "ms");
  const warm = state.temperature_c;
  put("temperature", warm === null ? "not known" : `${warm.toFixed(0)} °C${warm >= HOT_C ? " – hot" : ""}`);
  const troubles = [];
  if (state.error) troubles.push(`The run ended: ${state.error}`);
  if (state.trouble) troubles.push(`Source: ${state.trouble}`);
  if (state.failure) troubles.push(`Analysis failed: ${state.failure}`);
  for (const sink of state.sinks ?? []) {
    if (sink.error) troubles.push(`${sink.name}: ${sink.error}`);
    else if (sink.lost) troubles.push(`${sink.name}: ${sink.lost} ${sink.lost === 1 ? "result was" : "results were"} lost`);
  }
  $("troubles").hidden = !troubles.length;
  $("troubles").replaceChildren(...troubles.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  const { source = "", ...rest } = state.info;
  put("source", source);
  if (state.ledger) {
    const { captured, processed, dropped, rejected, failed, lost_before_capture: missed } = state.ledger;
    const said = `${captured} frames: ${processed} analysed, ${rejected} rejected, ${dropped} skipped, ${failed} failed`;
    put("ledger", missed ? `${said}; ${missed} more missed by the source` : said);
  }
  $("info").replaceChildren(
    ...Object.entries(rest).map(([name, value]) => {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      row.firstChild.textContent = name.charAt(0).toUpperCase() + name.slice(1);
      row.lastChild.textContent = value;
      return row;
    }),
  );
  showRecording();
}

function showRecording() {
  $("record").hidden = state.recording === null;
  $("recording").hidden = !state.recording;
  putButton("record", state.recording ? "Stop recording" : "Record");
}

function putButton(button, text) {
  const element = $(button).firstElementChild;
  if (element.textContent !== text) element.textContent = text;
}

function why() {
  const silent = since(contact);
  if (refusal) return refusal.charAt(0).toUpperCase() + refusal.slice(1);
  if (silent > 1500) return `No connection to edgekit for ${span(silent)}`;
  if (!state) return "Connecting";
  if (state.error) return `The run ended: ${state.error}`;
  if (state.failure) return `Analysis failed: ${state.failure}`;
  if (state.source === "reconnecting") return `The source is being opened again${state.trouble ? `: ${state.trouble}` : ""}`;
  if (state.source === "ended") return "The source has ended";
  if (state.source === "waiting") return "Waiting for the source's first picture";
  return live ? "No new result" : "Waiting for the first picture";
}

function liveMode() {
  if (!live) return "waiting";
  return age(live) > staleMs ? "stale" : live.frame.outcome;
}

function tick() {
  const now = liveMode();
  const shown = held ? "held" : now;
  document.body.dataset.mode = shown;
  put("word", WORDS[shown]);
  const alone = shown === "stale" || shown === "waiting";
  $("banner").hidden = !alone;
  if (alone) {
    put("banner-word", shown === "stale" ? "STALE" : "No picture yet");
    put("banner-age", shown === "stale" ? `${span(age(live))} old` : "");
    put("banner-why", why());
  }
  const badge = badgeText(shown, now);
  $("badge").hidden = badge === null;
  if (badge !== null) {
    put("badge-word", WORDS[shown]);
    put("badge-text", badge);
  }
  put("answer-note", noteText(shown));
  put("age", live ? span(age(live)) : "–");
  const connected = !refusal && since(contact) <= 1500;
  put("source-state", connected ? (state?.source ?? "–") : "no connection");
  if (!connected) for (const name of ["rate", "latency"]) put(name, "–");
  if (shown !== mode) changed(shown);
}

function findingAge(picture) {
  return span(picture.frame.finding_age_ms + age(picture));
}

function badgeText(shown, now) {
  if (shown === "held") return `${span(age(held))} old · ${now === "live" ? "live view goes on" : `live view: ${WORDS[now]}`}`;
  if (shown === "frozen") return `finding ${findingAge(live)} old`;
  return shown === "rejected" ? live.frame.reason : null;
}

function noteText(shown) {
  if (shown === "waiting") return "";
  if (shown === "stale") return `Last result, ${span(age(live))} old`;
  const { frame } = held ?? live;
  const parts = [];
  if (held) parts.push("Of the held picture.");
  if (frame.outcome === "frozen") parts.push(`Finding ${findingAge(held ?? live)} old: ${frame.reason}`);
  if (frame.outcome === "rejected") parts.push(frame.reason);
  if (frame.finding && call(frame.finding) !== "normal" && !frame.finding.lesions.length) parts.push("No outline");
  return parts.join(" ");
}

let speaking = 0;
function changed(shown) {
  mode = shown;
  $("snapshot").disabled = shown === "waiting";
  document.title = shown === "live" ? "edgekit" : `${WORDS[shown]} – edgekit`;
  clearTimeout(speaking); // a state of a moment is not read out
  speaking = setTimeout(() => {
    const more = shown === "stale" ? why() : shown === "rejected" ? live.frame.reason : "";
    put("spoken", `${WORDS[shown].toLowerCase()}${more ? `: ${more}` : ""}`);
  }, 700);
}

// What the buttons do

function hold() {
  if (held) {
    if (held !== live) held.bitmap.close();
    held = null;
  } else if (live && liveMode() !== "stale") {
    held = live;
  } else {
    say("There is no fresh picture to freeze");
    return;
  }
  putButton("hold", held ? "Back to live" : "Freeze view");
  if (live) showFinding(held ?? live);
  paint();
  tick();
}

function toggleOutline() {
  outlined = !outlined;
  $("outline").setAttribute("aria-pressed", String(outlined));
  putButton("outline", outlined ? "Outline on" : "Outline off");
  paint();
}

async function snapshot() {
  const picture = held ?? live;
  if (!picture) return;
  const { frame } = picture;
  const shown = held ? "held" : liveMode();
  const scale = Math.max(1, Math.ceil(640 / frame.width));
  const [width, height] = [frame.width * scale, frame.height * scale];
  const canvas = Object.assign(document.createElement("canvas"), { width, height: height + 84 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, width / 960);
  drawPicture(context, picture, 0, 0, scale);
  drawMarks(context, picture, 0, 0, scale, unit);
  if (shown === "stale") {
    context.fillStyle = "rgb(0 0 0 / 0.7)";
    context.fillRect(0, 0, width, height);
    context.fillStyle = "#fff";
    context.textAlign = "center";
    context.font = `700 ${width / 8}px system-ui, sans-serif`;
    context.fillText("STALE", width / 2, height / 2);
    context.textAlign = "left";
  }
  const finding = frame.finding;
  const words = [shown === "live" ? "" : `${WORDS[shown]}, ${span(age(picture))} old.`];
  if (frame.reason) words.push(`${frame.reason}.`);
  if (finding) words.push(finding.decision);
  if (finding && finding.malignancy !== null) words.push(`p(${finding.positive}) ${percent(finding.malignancy)}`);
  if (finding && finding.presence !== null) words.push(`p(lesion) ${percent(finding.presence)}`);
  const when = new Date(Date.now() - age(picture));
  const local = new Date(when - when.getTimezoneOffset() * 60000).toISOString();
  context.fillStyle = "#fff";
  context.font = "600 16px system-ui, sans-serif";
  context.fillText(words.filter(Boolean).join("  "), 10, height + 24, width - 20);
  context.font = "14px system-ui, sans-serif";
  context.fillText(`${local.slice(0, 19).replace("T", " ")}  frame ${frame.number}  ${state?.info.network ?? ""}`, 10, height + 48, width - 20);
  context.fillText($("disclaimer").textContent, 10, height + 72, width - 20);
  const file = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `edgekit-${local.slice(0, 19).replace(/[-:]/g, "").replace("T", "-")}-frame${frame.number}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`Snapshot of frame ${frame.number} was downloaded`);
}

async function record() {
  $("record").disabled = true;
  try {
    const wanted = !state.recording;
    const body = JSON.stringify({ recording: wanted });
    const headers = { "content-type": "application/json" };
    const response = await fetch("record", { method: "POST", headers, body, signal: AbortSignal.timeout(REQUEST_MS) });
    if (!response.ok) throw new Error((await response.text()).trim());
    switches += 1;
    state.recording = (await response.json()).recording;
    showRecording();
    say(wanted ? "Recording started" : "Recording stopped");
  } catch (error) {
    say(`The recording could not be ${state.recording ? "stopped" : "started"}: ${error.message}`);
  } finally {
    $("record").disabled = false;
  }
}

function say(text) {
  $("notice").textContent = text;
}

const KEYS = { f: "hold", o: "outline", s: "snapshot", r: "record" };

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !$("keys").checked) return;
  const button = $(KEYS[event.key.toLowerCase()] ?? "");
  if (button && !button.hidden && !button.disabled) {
    event.preventDefault();
    button.click();
  }
}

if (location.search) history.replaceState(null, "", location.pathname); // the token is in the cookie by now
$("hold").addEventListener("click", hold);
$("outline").addEventListener("click", toggleOutline);
$("snapshot").addEventListener("click", snapshot);
$("record").addEventListener("click", record);
$("keys").addEventListener("change", () => document.body.classList.toggle("no-keys", !$("keys").checked));
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", tick);
window.addEventListener("pageshow", tick);
new ResizeObserver(paint).observe($("stage"));
setInterval(tick, 100);
tick();
poll();
