"use strict";
const SECONDS = 60;
const byId = id => document.getElementById(id);
const cards = new Map();

/** What a limit says, as one would: "20 per 10 s". */
function limitText(limit) {
  if (limit.calendar !== undefined) {
    const from = limit.week_starts !== undefined ? ` from ${limit.week_starts}`
      : limit.starts_on !== undefined ? ` from day ${limit.starts_on}` : "";
    return `${limit.count} per calendar ${limit.calendar}${from} · ${limit.zone}`;
  }
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [.001, "ms"], [.000001, "µs"]];
  const [size, unit] = units.find(([size]) => limit.per >= size && Math.abs(limit.per / size % 1) < 1e-9) ?? [1, "s"];
  const per = Math.round(limit.per / size);
  const burst = limit.burst === undefined ? "" : `, burst ${limit.burst}`;
  return `${limit.count} per ${per === 1 ? "" : per + " "}${unit}${burst} · ${limit.algorithm.replace("_", " ")}`;
}

/** The most permits that one call could take. */
const capacity = limiter => Math.min(...limiter.limits.map(limit => limit.burst ?? limit.count));

function makeCard(limiter) {
  const section = byId("card").content.firstElementChild.cloneNode(true);
  const find = selector => section.querySelector(selector);
  const pattern = `denied-${cards.size}`;
  section.dataset.limiter = limiter.name;
  find("h2").textContent = limiter.name;
  find("h2").id = `title-${cards.size}`;
  section.setAttribute("aria-labelledby", find("h2").id);
  find("pattern").id = pattern;
  byId("limiters").append(section);
  byId("limiter").append(new Option(limiter.name, limiter.name));
  return { section, find, pattern, last: limiter, seconds: new Map() };
}

function show(limiter) {
  const isNew = !cards.has(limiter.name);
  if (isNew) cards.set(limiter.name, makeCard(limiter));
  const card = cards.get(limiter.name);
  const now = Math.floor(Date.now() / 1000);
  const [allowed, denied] = card.seconds.get(now) ?? [0, 0];
  // A server that was started again counts from 0.
  const grown = count => limiter[count] < card.last[count] ? limiter[count] : limiter[count] - card.last[count];
  card.seconds.set(now, [allowed + grown("allowed"), denied + grown("denied")]);
  for (const second of card.seconds.keys()) if (second <= now - SECONDS) card.seconds.delete(second);
  card.last = limiter;

  const { find } = card;
  find(".limits").textContent = limiter.limits.map(limitText).join(", ") || "no limit applies";
  find(".allowed").textContent = limiter.allowed.toLocaleString("en");
  find(".denied").textContent = limiter.denied.toLocaleString("en");
  // Where calls have keys, each has a bucket of its own: the number of these is what there is to say.
  const isKeyed = limiter.remaining === null;
  find(".what").textContent = isKeyed ? "keys" : "remaining";
  find(".remaining").textContent = (isKeyed ? limiter.keys ?? "–" : limiter.remaining).toLocaleString("en");
  // Few limiters have calls that wait.
  find(".queue").hidden = !limiter.waiting && !limiter.abandoned;
  find(".waiting").textContent = (limiter.waiting ?? 0).toLocaleString("en");
  const track = find(".track");
  track.hidden = isKeyed;
  if (!isKeyed) {
    track.setAttribute("aria-valuemax", capacity(limiter));
    track.setAttribute("aria-valuenow", limiter.remaining);
    track.firstElementChild.style.width = `${100 * limiter.remaining / capacity(limiter)}%`;
  }
  draw(card, now);
}

/** A bar for each second, the latest on the right: allowed below, denied on top of them. */
function draw({ find, pattern, seconds }, now) {
  const totals = [...seconds.values()].reduce((sum, [allowed, denied]) => [sum[0] + allowed, sum[1] + denied], [0, 0]);
  const top = niceTop(Math.max(4, ...[...seconds.values()].map(([allowed, denied]) => allowed + denied)));
  let bars = "";
  for (const [second, [allowed, denied]] of seconds) {
    const x = 240 - 4 * (now - second + 1);
    const bar = (from, calls, fill) => calls === 0 ? "" :
      `<rect ${fill} x="${x + .4}" width="3.2" y="${100 - 98 * (from + calls) / top}" height="${98 * calls / top}"/>`;
    bars += bar(0, allowed, 'class="bar-allowed"') + bar(allowed, denied, `class="bar-denied" fill="url(#${pattern})"`);
  }
  find(".bars").innerHTML = bars;
  find(".top").textContent = `${top.toLocaleString("en")} calls a second`;
  find("svg").setAttribute("aria-label", `Calls of the last minute: ${totals[0]} allowed, ${totals[1]} denied`);
}

function niceTop(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 5, 10].map(n => n * power).find(n => n >= most);
}

function connection(state, text) {
  if (byId("connection").dataset.state === state) return;
  byId("connection").dataset.state = state;
  byId("connection").textContent = text;
}

const events = new EventSource("events");
events.onmessage = event => {
  connection("live", "live");
  JSON.parse(event.data).forEach(show);
};
events.onerror = () => connection("lost", "connection lost, trying again");

async function sendBurst() {
  const limiter = byId("limiter").value;
  const calls = byId("calls").valueAsNumber;
  const body = JSON.stringify({ limiter, calls });
  try {
    const response = await fetch("burst", { method: "POST", headers: { "content-type": "application/json" }, body });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const { allowed } = await response.json();
    byId("result").textContent = `${limiter}: ${allowed} allowed, ${calls - allowed} denied`;
  } catch (error) {
    byId("result").textContent = `not sent: ${error.message}`;
  }
}

byId("burst").addEventListener("submit", event => {
  event.preventDefault();
  sendBurst();
});
setInterval(() => { if (byId("repeat").checked && byId("burst").checkValidity()) sendBurst(); }, 1000);

/** Does something to the limiter that is chosen above. The token is sent in a header, and not kept. */
async function act() {
  const [limiter, action, value, key, token] = ["limiter", "action", "value", "key", "token"].map(id => byId(id).value);
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  try {
    const response = await fetch("act", { method: "POST", headers, body: JSON.stringify({ limiter, action, value, key }) });
    byId("done").textContent = await response.text();
  } catch (error) {
    byId("done").textContent = `not sent: ${error.message}`;
  }
}

byId("act").addEventListener("submit", event => {
  event.preventDefault();
  act();
});
