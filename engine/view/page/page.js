// The live page: figures of the stream, one user's window, list and interests, and the shopper mode.

import { ItemMap, histogram, interval, sparkline } from "./drawing.js";
import { ask, follow, setKey, whenKeyIsWanted } from "./stream.js";

const ROTATE_MS = 12_000;
const WINDOW_SHOWN = 14;
const LIST_SHOWN = 10;
const HISTORY = 60;
const LOOKS = 20;
const LOOK_AGAIN_MS = 25;
const TRENDING_MS = 2_000;
const TRENDING_SHOWN = 5;

const $ = (id) => document.getElementById(id);
const map = new ItemMap($("map"));
const labels = new Map();
const state = { user: null, end: () => {}, rates: [], release: null, shopper: null, pending: null, listed: [], turn: 0 };

function node(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const plain = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const named = (item) => (labels.get(item) ? `${item} (${labels.get(item)})` : item);

// ---- figures

function showStatus(text, good) {
  $("status").className = good ? "ok" : "bad";
  $("status-text").textContent = text;
}

function takeFigures(figures) {
  const good = figures.status === "ok";
  showStatus(good ? "live" : figures.status, good);
  $("release").textContent = figures.release ?? "none yet";
  $("clicks-rate").textContent = plain(figures.clicks_per_s);
  $("clicks").textContent = plain(figures.clicks);
  $("lists-rate").textContent = plain(figures.lists_per_s);
  $("users").textContent = plain(figures.users);
  for (const [id, value] of [["p50", figures.freshness_p50_ms], ["p99", figures.freshness_p99_ms]]) {
    $(id).textContent = value === null ? "–" : plain(value);
  }
  state.rates = [...state.rates, figures.clicks_per_s].slice(-HISTORY);
  sparkline($("clicks-line"), state.rates);
  histogram($("freshness"), figures.freshness_counts);
  showNextClicks(figures.next_clicks);
  showLosses(figures);
  $("recent").replaceChildren(...figures.recent_users.map((user) => Object.assign(node("option"), { value: user })));
  $("shop").hidden = !figures.can_click;
  if (figures.release !== state.release) { state.release = figures.release; loadMap(); }
  if (state.user === null && figures.recent_users.length) showUser(figures.recent_users[0]);
  state.recent = figures.recent_users;
}

function showNextClicks(judged) {
  if (!judged.length) return;
  const end = Math.min(1, Math.max(0.1, ...judged.map((counts) => counts.high)) * 1.15);
  $("next-clicks").replaceChildren(...judged.map((counts) => {
    const row = node("div", undefined, "judged");
    const words = node("p");
    words.append(node("strong", percent(counts.rate)), node("span", `${percent(counts.low)} to ${percent(counts.high)} of ${plain(counts.clicks)}`));
    row.append(words, interval(counts.low, counts.high, counts.rate, end));
    if (judged.length > 1) row.append(node("p", counts.release, "note"));
    return row;
  }));
}

function showLosses(figures) {
  const reasons = Object.entries(figures.dead_letters);
  $("dead").textContent = plain(reasons.reduce((sum, [, count]) => sum + count, 0));
  $("dead-reasons").textContent = reasons.map(([reason, count]) => `${reason}: ${plain(count)}`).join(", ");
  $("releases").textContent = figures.releases.slice(0, 3).map(({ version, state: stage }) => `${version}: ${stage}`).join(", ");
}

async function loadTrending() {
  const answer = await ask(`/v1/trending?count=${TRENDING_SHOWN}`).catch(() => null);
  if (!answer) return;
  const shown = node("dl");
  shown.append(...answer.items.map(({ item, score }) => {
    const row = node("div");
    row.append(node("dt", named(item)), node("dd", `× ${plain(score)}`));
    return row;
  }));
  $("trending").replaceChildren(answer.items.length ? shown : node("p", "nothing has risen in the last hour", "empty"));
}

async function loadMap() {
  const answer = await ask("/v1/map").catch(() => null);
  if (!answer) { state.release = null; return; }
  answer.items.forEach((item, index) => labels.set(item, answer.labels[index] ?? ""));
  map.setItems(answer);
}

// ---- one user

function showUser(user) {
  state.end();
  Object.assign(state, { user, listed: [], turn: state.turn + 1 });
  if (document.activeElement !== $("user")) $("user").value = user;
  const turn = state.turn;
  state.end = follow(`/v1/events?user=${encodeURIComponent(user)}`, (_, list) => takeList(list, turn), () => {});
  if (user === state.shopper) begin(user, turn);
}

async function begin(user, turn) {
  const list = await ask("/v1/lists", { user }).catch(() => null);
  if (list && turn === state.turn && !state.listed.length) takeList(list, turn);
}

async function takeList(list, turn) {
  if (!list || turn !== state.turn) return;
  const before = new Set(state.listed);
  state.listed = list.items.map((entry) => entry.item);
  renderList(list, before);
  const changed = state.listed.filter((item) => !before.has(item)).length;
  answerClick({ event_ms: list.event_ms, at: performance.now(), changed });
  await showWindow(list, turn);
}

/** Window and interests, once the server knows the click that the list knows. */
async function showWindow(list, turn) {
  for (let look = 0; look < LOOKS && turn === state.turn; look += 1) {
    const user = await ask(`/v1/map/user?user=${encodeURIComponent(state.user)}`).catch(() => null);
    if (turn !== state.turn) return;
    if (user && (user.event_ms >= list.event_ms || look === LOOKS - 1)) { renderWindow(user); return; }
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
}

function renderList(list, before) {
  const shopping = state.user === state.shopper;
  $("list-title").textContent = shopping ? "Your list: click an item" : "List";
  $("list-note").textContent = `first ${Math.min(LIST_SHOWN, list.items.length)} of ${list.items.length}, by ${list.release}`;
  $("list").replaceChildren(...list.items.slice(0, LIST_SHOWN).map((entry, index) => {
    const fresh = before.size && !before.has(entry.item);
    const row = node("li", undefined, fresh ? "fresh" : "");
    row.append(node("span", index + 1, "rank"), shopping ? itemButton(entry.item) : itemText(entry.item));
    row.append(node("span", entry.source === "popular" ? "popular" : entry.score.toFixed(2), "score"), reason(entry, list, fresh));
    return row;
  }));
}

function itemText(item) {
  const text = node("span", item);
  if (labels.get(item)) text.append(node("span", ` ${labels.get(item)}`, "label"));
  return text;
}

function itemButton(item) {
  const button = node("button", named(item));
  button.type = "button";
  button.addEventListener("click", () => clickOn(item));
  return button;
}

function reason(entry, list, fresh) {
  const why = node("span", undefined, "why");
  if (fresh) why.append(node("span", "new", "new"));
  if (entry.source === "popular") return why;
  const clicks = list.interests[entry.interest] ?? [];
  if (entry.interest !== undefined) why.append(node("span", undefined, `tag i${entry.interest % 6}`));
  const because = clicks.slice(0, 1).map((click) => `${named(click.item)} ${Math.round(100 * click.share)} %`).join(", ");
  why.append(entry.neighbour_of ? `others clicked it near ${named(entry.neighbour_of)}` : `because of ${because || "all clicks together"}`);
  return why;
}

function renderWindow(user) {
  const events = [...user.window].reverse();
  $("window").replaceChildren(...events.slice(0, WINDOW_SHOWN).map((event) => {
    const row = node("li");
    row.append(itemText(event.kind === "search" ? `“${event.item}”` : event.item), node("span", event.action, "label"));
    return row;
  }));
  map.setUser(state.listed, events.map((event) => event.item), user.interests);
  $("map").setAttribute("aria-label",
    `Map of the items with ${user.interests.length} interests of ${user.user}, ${events.length} events of the window and ${state.listed.length} items of the list`);
}

// ---- shopper mode

function note(text) { $("shop-note").textContent = text; }

async function clickOn(item) {
  const pending = { item, at: performance.now(), time_ms: null, early: null };
  state.pending = pending;
  try {
    pending.time_ms = (await ask("/v1/clicks", { user: state.shopper, item })).time_ms;
    if (pending.early) answerClick(pending.early);
  } catch (error) {
    note(error.message);
  }
}

/** Say how long the newest click took, once a list knows it; the list may be here before the answer to the click. */
function answerClick(arrived) {
  const pending = state.pending;
  if (!pending) return;
  if (pending.time_ms === null) { pending.early = arrived; return; }
  if (arrived.event_ms < pending.time_ms) return;
  state.pending = null;
  note(`Your list changed ${Math.round(arrived.at - pending.at)} ms after the click on ${named(pending.item)}: ${arrived.changed} of ${state.listed.length} items are new.`);
}

function toggleShopper() {
  const shopping = state.shopper === null;
  $("shop").setAttribute("aria-pressed", String(shopping));
  $("shop").textContent = shopping ? "Leave the shop" : "Be a shopper";
  $("shop-note").hidden = !shopping;
  $("rotate").checked = !shopping;
  state.shopper = shopping ? `visitor-${crypto.getRandomValues(new Uint16Array(1))[0].toString(16)}` : null;
  state.pending = null;
  if (shopping) {
    note(`You are ${state.shopper}. Click an item: it goes to the topic of clicks, and your list follows.`);
    showUser(state.shopper);
  } else if (state.recent?.length) showUser(state.recent[0]);
}

// ---- wiring

whenKeyIsWanted(() => { $("key-form").hidden = false; showStatus("a key is wanted", false); });
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); setKey($("key").value); location.reload(); });
$("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("user").value) return;
  $("rotate").checked = false;
  showUser($("user").value);
});
$("shop").addEventListener("click", toggleShopper);
setInterval(() => {
  const next = state.recent?.[0];
  if ($("rotate").checked && next && next !== state.user && document.activeElement !== $("user")) showUser(next);
}, ROTATE_MS);
setInterval(loadTrending, TRENDING_MS);
follow("/v1/figures", (_, figures) => takeFigures(figures), (error) => showStatus(`no connection: ${error.message}`, false));
