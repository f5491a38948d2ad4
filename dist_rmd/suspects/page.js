"use strict";
// What the page is made of stands in inert elements: #data, JSON; #sheet0, #sheet1, ...: pictures, tiled, as base64.
const data = JSON.parse(document.getElementById("data").textContent);
const { classes, files, given, proposed, probable, score, p_given, neighbours, sets, twins, rest } = data;
const KEEP = "keep", RELABEL = "relabel", DROP = "drop";
const CARD = { width: 140, height: 202 }; // with the gap
const MOST_SHEETS = 200; // that are decoded at a time
const list = document.getElementById("list"), space = document.getElementById("space");
const $ = (id) => document.getElementById(id);

// Decisions: image -> {action, label}; they outlive the tab where the browser lets them.
const store = `dist_rmd suspects ${data.digest}`;
const decisions = new Map();
try {
  for (const [image, decision] of JSON.parse(localStorage.getItem(store) ?? "[]")) decisions.set(image, decision);
} catch { /* a browser that keeps nothing */ }
function remember() {
  try {
    localStorage.setItem(store, JSON.stringify([...decisions]));
  } catch { /* it is full, or keeps nothing */ }
}

// Elements.  Names of files and classes are text, never markup.
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Pictures: a sheet is decoded when one of its images comes into sight.
const sheets = new Map(); // number -> URL, the one used last at the end
function sheet(number) {
  let url = sheets.get(number);
  if (url) {
    sheets.delete(number);
  } else {
    const bytes = Uint8Array.from(atob($(`sheet${number}`).textContent), (letter) => letter.charCodeAt(0));
    url = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  }
  sheets.set(number, url);
  if (sheets.size > MOST_SHEETS) {
    const [oldest, gone] = sheets.entries().next().value;
    sheets.delete(oldest);
    URL.revokeObjectURL(gone);
  }
  return url;
}
function show(element, image, size) {
  const place = image % data.tiles, across = data.across;
  element.style.backgroundImage = `url(${sheet(Math.floor(image / data.tiles))})`;
  element.style.backgroundSize = `${across * size}px auto`;
  element.style.backgroundPosition = `-${(place % across) * size}px -${Math.floor(place / across) * size}px`;
}

// Which images are listed.
let shown = [], focus = 0; // images; a place in shown
const FILTERS = {
  all: () => true,
  open: (image) => !decisions.has(image),
  decided: (image) => decisions.has(image),
  twins: (image) => twins[image] >= 0,
  clean: (image) => sets[image] === "clean",
  closed: (image) => sets[image] === "closed",
  "open set": (image) => sets[image] === "open",
};
function filter() {
  const is = FILTERS[$("show").value];
  const wanted = $("given").value, other = $("proposed").value;
  shown = [];
  for (let image = 0; image < files.length; image++) {
    if ((wanted === "" || given[image] === +wanted) && (other === "" || proposed[image] === +other) && is(image))
      shown.push(image);
  }
  if ($("show").value === "twins") shown.sort((a, b) => twins[a] - twins[b] || a - b);
  focus = 0;
  list.scrollTop = 0;
  draw();
}

// The list: only cards in sight are in the document.  One that is as before stays: the mouse may be down on it.
let cards = new Map(); // what a card shows, as text -> its element
const columns = () => Math.max(1, Math.floor((list.clientWidth - 16) / CARD.width));
function draw() {
  const across = columns(), rows = Math.ceil(shown.length / across);
  space.style.height = `${rows * CARD.height}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / CARD.height) - 1);
  const last = Math.min(rows, Math.ceil((list.scrollTop + list.clientHeight) / CARD.height) + 1);
  const now = new Map();
  for (let place = first * across; place < Math.min(last * across, shown.length); place++) {
    const left = ((place % across) * (list.clientWidth - 16)) / across, top = Math.floor(place / across) * CARD.height;
    const state = JSON.stringify([shown[place], place, left, decisions.get(shown[place]), place === focus]);
    now.set(state, cards.get(state) ?? card(place, left, top));
  }
  for (const [state, element] of cards) if (!now.has(state)) element.remove();
  for (const [state, element] of now) if (!cards.has(state)) space.append(element);
  cards = now;
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${files.length.toLocaleString("en")} images`;
  describe();
  tally();
}
function card(place, left, top) {
  const image = shown[place], action = decisions.get(image)?.action;
  const element = make("div", `card ${action ?? ""} ${place === focus ? "focus" : ""}`);
  element.style.left = `${left}px`;
  element.style.top = `${top}px`;
  element.title = files[image];
  element.dataset.image = image;
  const picture = make("div", "picture"), names = make("div", "names");
  show(picture, image, 120);
  const target = action === RELABEL ? decisions.get(image).label : proposed[image];
  const other = make("div");
  other.append("→ ", make("b", "", classes[target]), ` ${percent(score[image])}`);
  names.append(make("div", "given", classes[given[image]]), other);
  element.append(picture, names, buttons(image));
  element.addEventListener("click", () => { focus = place; draw(); });
  return element;
}
function buttons(image, words = false) {
  const row = make("div", "decide"), action = decisions.get(image)?.action;
  for (const [which, sign, help] of [[KEEP, "✓", "keep the given label"], [RELABEL, "→", "take the proposed class"],
    [DROP, "✕", "drop the image"]]) {
    const button = make("button", `${which} ${action === which ? "on" : ""}`, words ? `${sign} ${which}` : sign);
    button.title = help;
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      focus = shown.indexOf(image);
      decide(image, which);
      draw();
    });
    row.append(button);
  }
  return row;
}

// Decisions.
function decide(image, action, label = proposed[image]) {
  const before = decisions.get(image);
  if (before?.action === action && before.label === (action === RELABEL ? label : undefined)) decisions.delete(image);
  else decisions.set(image, action === RELABEL ? { action, label } : { action });
  remember();
}
function tally() {
  const counts = { [KEEP]: 0, [RELABEL]: 0, [DROP]: 0 };
  for (const { action } of decisions.values()) counts[action]++;
  const left = files.length - decisions.size;
  $("tally").textContent = `${counts.keep} kept · ${counts.relabel} relabelled · ${counts.drop} dropped · ` +
    `${left.toLocaleString("en")} not looked at`;
}
let described; // what the pane shows, as text
function describe() {
  const pane = $("detail"), image = shown[focus], state = JSON.stringify([image, decisions.get(image)]);
  if (state === described) return;
  described = state;
  if (image === undefined) return pane.replaceChildren(make("p", "", "No image is like this."));
  const picture = make("div", "picture"), facts = make("dl");
  show(picture, image, 286);
  const add = (name, text) => facts.append(make("dt", "", name), make("dd", "", text));
  add("given", classes[given[image]]);
  add("proposed", classes[proposed[image]]);
  add("suspicion", percent(score[image]));
  add("p(given)", percent(p_given[image]));
  add("neighbours", `${percent(neighbours[image])} have the given label`);
  if (sets[image]) add("set", sets[image]);
  if (twins[image] >= 0) add("twins", `group ${twins[image]}: almost the same picture under other labels`);
  const choice = make("select");
  choice.id = "choice";
  choice.append(new Option("label as another class …", ""), ...classes.map((name, label) => new Option(name, label)));
  const decision = decisions.get(image);
  if (decision?.action === RELABEL) choice.value = decision.label;
  choice.addEventListener("change", () => {
    if (choice.value === "") return;
    decisions.set(image, { action: RELABEL, label: +choice.value });
    remember();
    draw();
    list.focus();
  });
  pane.replaceChildren(picture, make("h2", "", files[image]), facts, buttons(image, true), choice);
}

// Keys.
const MOVES = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: () => columns() };
function move(steps) {
  focus = Math.min(Math.max(0, focus + steps), Math.max(0, shown.length - 1));
  const top = Math.floor(focus / columns()) * CARD.height;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + CARD.height > list.scrollTop + list.clientHeight) list.scrollTop = top + CARD.height - list.clientHeight + 16;
  draw();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const image = shown[focus], actions = { k: KEEP, r: RELABEL, d: DROP };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in MOVES) move(MOVES[key]());
  else if (image !== undefined && key in actions) {
    decide(image, actions[key]);
    move(1);
  } else if (image !== undefined && key === "u") {
    decisions.delete(image);
    remember();
    draw();
  } else return;
  event.preventDefault();
});

// The table that is saved: what noise.kind=file and prepare --labels read.  Dropped images are not listed.
const harmless = (text) => (/^'*[=+\-@\t\r]/.test(text) ? `'${text}` : text);
const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
function table() {
  const names = classes.map((name) => cell(harmless(name))), lines = ["file,label"];
  const others = $("others").value === "probable" ? probable : given;
  const row = (file, label) => lines.push(`${cell(harmless(file))},${names[label]}`);
  files.forEach((file, image) => {
    const { action, label } = decisions.get(image) ?? { action: KEEP, label: others[image] };
    if (action !== DROP) row(file, label ?? given[image]);
  });
  rest.files.forEach((file, i) => row(file, $("others").value === "probable" ? rest.probable[i] : rest.given[i]));
  return `${lines.join("\n")}\n`;
}
// File names that are no UTF-8 have their odd bytes as lone surrogates, as in Python: bytes again in the table.
function* bytes(text) {
  const odd = /(?<![\ud800-\udbff])[\udc80-\udcff]/g;
  let from = 0;
  for (const found of text.matchAll(odd)) {
    yield text.slice(from, found.index);
    yield Uint8Array.of(found[0].charCodeAt(0) - 0xdc00);
    from = found.index + 1;
  }
  yield text.slice(from);
}
$("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([...bytes(table())], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

// Begin.
function options(select, name, column) {
  const counts = new Array(classes.length).fill(0);
  for (const label of column) counts[label]++;
  select.append(new Option(name, ""));
  classes.forEach((text, label) => counts[label] && select.append(new Option(`${text} (${counts[label]})`, label)));
}
options($("given"), "any class", given);
options($("proposed"), "any class", proposed);
$("show").append(new Option("all", "all"), new Option("not looked at", "open"), new Option("decided", "decided"));
if (twins.some((group) => group >= 0)) $("show").append(new Option("twins under different labels", "twins"));
if (sets.some((name) => name)) for (const name of ["clean", "closed", "open set"]) $("show").append(new Option(name, name));
for (const id of ["given", "proposed", "show"]) $(id).addEventListener("change", () => { filter(); list.focus(); });
let waiting = false;
list.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
});
addEventListener("resize", draw);
filter();
list.focus();
