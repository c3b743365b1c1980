"""What the lineage page does, and its style: choose, find, "what used this?", "what changed between these two?".

Decision: 150 lines without a library. Two answers to "what used this?" are kept apart, because they are not the same: what
*holds the text* (data steps of that folder; phases whose mixture reads it, and all that starts from them) is filled and
marked ●; what only *descends* from it (by the tokenizer, the gate, the counts) is outlined and marked ○; the rest is dim.
"""
# ruff: noqa: E501 (CSS and JavaScript keep lines of their own length)

STYLE = """
.canvas{width:calc(100vw - 48px);margin-inline:calc(50% - 50vw + 24px)!important;overflow:auto;max-height:62vh;border:1px solid var(--rule);border-radius:8px;margin:12px 0}.canvas svg{display:block}
.bar{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center;margin:10px 0}select{font:inherit;padding:4px;max-width:22em;
background:var(--bg);color:var(--ink);border:1px solid var(--rule);border-radius:6px}
.edge{fill:none;stroke:var(--soft);stroke-opacity:.45;stroke-width:1.3}.box{fill:var(--tint);stroke:var(--rule);stroke-width:1.5}
.node{cursor:pointer}.node .step{font-weight:600}.node:focus{outline:none}.node:focus-visible .box,.node:hover .box{stroke:var(--ink);stroke-width:2}
.root .box{stroke:var(--soft)}.on .box{stroke:var(--c0);stroke-width:3.5}.node.holds .box{stroke:var(--c1);stroke-width:3}
.node.far .box{stroke:var(--c0);stroke-width:2;stroke-dasharray:5 3}.used .node:not(.holds):not(.far):not(.on),.near .node:not(.on):not(.kin){opacity:.38}
.used .edge:not(.lit),.near .edge:not(.lit){stroke-opacity:.12}.edge.side{stroke-opacity:.1}.edge.lit{stroke:var(--c1);stroke-opacity:1;stroke-width:2}.near .edge.lit{stroke:var(--c0)}
.edge.via{stroke:var(--c0);stroke-opacity:.8;stroke-dasharray:5 3}
#hits{display:flex;flex-direction:column;align-items:flex-start;gap:2px;max-height:34vh;overflow:auto}
#hits button,.go{font:inherit;text-align:left;background:none;color:var(--c0);border:0;padding:2px 6px;cursor:pointer;border-radius:4px}
#hits button:hover,#hits button:focus-visible{background:var(--tint)}#hits small{margin-left:8px}
#panel h2{margin-top:.8em}#panel pre{max-height:46vh;white-space:pre-wrap;overflow-wrap:anywhere}#panel td{white-space:normal;overflow-wrap:break-word}#panel td code{display:inline-block;min-width:16ch}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}#said{margin:4px 0;min-height:1.5em}
"""
SCRIPT = r"""
"use strict";
const D = JSON.parse(document.getElementById("data").textContent), N = {...D.nodes, ...D.others};
const at = id => document.getElementById(id), graph = at("graph"), panel = at("panel"), said = at("said");
const boxes = Object.fromEntries([...graph.querySelectorAll(".node")].map(g => [g.dataset.d, g]));
const edges = [...graph.querySelectorAll(".edge")], children = {};
for (const [d, n] of Object.entries(N)) for (const p of n.parents) (children[p.digest] ??= []).push(d);
function el(name, attributes, ...body) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes || {})) k === "onclick" ? e.onclick = v : e.setAttribute(k, v);
  e.append(...body.flat().filter(b => b !== null && b !== undefined));
  return e;
}
function reach(start, next) {
  const seen = new Set([start]), queue = [start];
  while (queue.length) for (const d of next(queue.pop())) if (!seen.has(d)) { seen.add(d); queue.push(d); }
  return seen;
}
const up = d => N[d].parents.map(p => p.digest).filter(p => N[p]), down = d => children[d] || [];
function clear() {
  graph.classList.remove("used", "near");
  for (const g of Object.values(boxes)) {
    g.classList.remove("on", "holds", "far", "kin"); g.querySelector(".sign").textContent = ""; g.setAttribute("aria-pressed", "false");
  }
  for (const e of edges) e.classList.remove("lit", "via");
  said.textContent = "";
}
function table(head, rows) {
  return el("div", {class: "wrap"}, el("table", {}, head.join("") && el("thead", {}, el("tr", {}, head.map(h => el("th", {scope: "col"}, h)))),
    el("tbody", {}, rows.map(r => el("tr", {}, r.map(c => el("td", {dir: "auto"}, c)))))));
}
function fold(title, body, open) { return el("details", open ? {open: ""} : {}, el("summary", {}, title), body); }
function link(d, text) { return el("button", {class: "go", type: "button", onclick: () => choose(d, true)}, text || N[d].label); }
function yaml(value, pad = "") {
  if (value === null || typeof value !== "object") return " " + (typeof value === "string" ? value || '""' : JSON.stringify(value)) + "\n";
  const plain = x => x === null || typeof x !== "object";
  if (Array.isArray(value)) return value.every(plain) ? " [" + value.join(", ") + "]\n" : "\n" + value.map(v => pad + "-" + yaml(v, pad + "  ")).join("");
  const keys = Object.keys(value);
  return keys.length ? "\n" + keys.map(k => pad + k + ":" + yaml(value[k], pad + "  ")).join("") : " {}\n";
}
function list(what, values, count, d) {
  const keys = Object.keys(values);
  if (!keys.length) return null;
  const rows = keys.map(k => {
    const v = values[k], folder = k.split("/").find(part => D.languages.includes(part));
    const name = folder ? el("button", {class: "go", type: "button", onclick: () => used(d, k, folder)}, k) : k;
    return [name, v.uri ? el("code", {}, v.sha256 + " ", v.uri) : el("code", {}, String(v))];
  });
  return fold(`${count} ${what}`, table(["path", "sha256 or version"], rows));
}
function choose(d, move) {
  clear();
  const n = N[d], above = reach(d, up), below = reach(d, down), box = boxes[d];
  if (box) {
    graph.classList.add("near"); box.classList.add("on"); box.setAttribute("aria-pressed", "true");
    for (const k of new Set([...above, ...below])) if (boxes[k]) boxes[k].classList.add("kin");
    for (const e of edges) if ((!e.classList.contains("side") || e.dataset.a === d || e.dataset.b === d) && ((above.has(e.dataset.a) && above.has(e.dataset.b)) || (below.has(e.dataset.a) && below.has(e.dataset.b)))) e.classList.add("lit");
    if (move) { box.scrollIntoView({block: "nearest", inline: "center"}); box.focus({preventScroll: true}); }
    at("left").value = d;
  }
  said.textContent = `${n.label}: ${above.size - 1} ancestors, ${below.size - 1} descendants` + (D.others[d] ? " (of the other artifact, not in the graph)" : "") + ".";
  const parents = n.parents.map(p => [p.role, N[p.digest] ? link(p.digest) : "not in this lineage", el("code", {}, p.digest.slice(0, 16))]);
  const reads = n.reads.length ? fold(`text of ${n.reads.length} folders`, el("p", {}, n.reads.map(t => el("button", {class: "go", type: "button", onclick: () => used(d, t, t)}, t)))) : null;
  const raw = n.step === "ingest" ? fold(`${D.all_sources} raw files`, table(["path", "sha256", "documents", "bytes", "licence"], D.sources.filter(s => s[0] === d).map(s =>
    [el("button", {class: "go", type: "button", onclick: () => used(d, s[1], s[2])}, s[1]), el("code", {}, s[3].slice(0, 16)), String(s[4]), String(s[5]), s[6]]))) : null;
  panel.replaceChildren(...[el("h2", {}, n.label), table(["", ""], [["digest (what was asked for)", el("code", {}, d)], ["content (what came out)", el("code", {}, n.content)],
    ["version of the step", String(n.version)]]), parents.length ? fold(`${parents.length} parents`, table(["role", "artifact", "digest"], parents), true) : null,
    fold("config", el("pre", {tabindex: 0}, yaml(n.config).trim()), true), fold("facts", el("pre", {tabindex: 0}, yaml(n.facts).trim())), reads, raw,
    list("inputs", n.inputs, n.counts.inputs, d), list("files", n.files, n.counts.files, d), list("external shards", n.external, n.counts.external, d)].filter(Boolean));
}
const DATA = ["ingest", "clean", "validate", "tokenizer", "tokenize"];
function used(start, path, folder) {
  clear();
  const below = reach(start, down), holds = new Set(), far = new Set();
  const order = [...below].sort((a, b) => reach(a, up).size - reach(b, up).size);
  for (const d of order) {
    const n = N[d], by = role => n.parents.filter(p => role(p.role) && holds.has(p.digest)).length > 0;
    const direct = d === start || (DATA.includes(n.step) && by(r => ["raw", "clean"].includes(r)) && n.step !== "validate") || (n.step === "mixture" && n.reads.includes(folder)) ||
      (n.step === "train" && by(r => r === "mixture" || r === "init") && n.parents.some(p => holds.has(p.digest) && ["train", "mixture"].includes(N[p.digest].step))) ||
      (n.step === "merge" && by(r => r === "base" || r.startsWith("branch:"))) || (["release", "evaluate"].includes(n.step) && by(r => r === "model"));
    (direct ? holds : far).add(d);
  }
  graph.classList.add("used");
  for (const d of below) if (boxes[d]) { boxes[d].classList.add(holds.has(d) ? "holds" : "far"); boxes[d].querySelector(".sign").textContent = holds.has(d) ? "●" : "○"; }
  for (const e of edges) if (below.has(e.dataset.a) && !e.classList.contains("side")) e.classList.add(holds.has(e.dataset.a) && holds.has(e.dataset.b) ? "lit" : "via");
  if (boxes[start]) boxes[start].scrollIntoView({block: "nearest", inline: "nearest"});
  const models = [...holds].filter(d => ["train", "merge", "release"].includes(N[d].step));
  said.textContent = `${path}: ● ${holds.size} artifacts come from text of ${folder}, ${models.length} of them models; ○ ${far.size} only descend from it.`;
  const way = d => { const path = [d]; while (path[0] !== start) path.unshift(up(path[0]).filter(p => below.has(p)).sort((a, b) => holds.has(b) - holds.has(a))[0]); return path; };
  const row = d => [holds.has(d) ? "● text of it" : "○ descends", link(d), way(d).map(x => N[x].label).join(" → ")];
  panel.replaceChildren(el("h2", {}, `What used ${path}`), el("p", {}, `An artifact knows the folder (${folder}) of a shard, not each document: ` +
    "a phase marked ● reads that folder, or starts from a model that did. Whether it read one document is answered by: mmenc forget ID."),
    table(["", "artifact", "one way from there"], [...order].map(row)));
}
function leaves(value, path, out) {
  if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) for (const k in value) leaves(value[k], path ? path + "." + k : k, out);
  else out[path] = JSON.stringify(value);
  return out;
}
function config(n) { return leaves(Object.fromEntries(Object.entries(n.config).map(([k, v]) => [k === "phases." + n.name ? "phases.*" : k, v])), "", {}); }
function inputs(n, d) { return n.step === "ingest" ? Object.fromEntries(D.sources.filter(s => s[0] === d).map(s => [s[1], s[3]])) : n.inputs; }
function compare() {
  const rows = [], seen = new Set(), told = new Set();
  const walk = (a, b) => {
    if (seen.has(a + b) || a === b || !N[a] || !N[b]) return;
    seen.add(a + b);
    const x = N[a], y = N[b], name = x.label === y.label ? x.label : x.label + " / " + y.label, add = (what, l, r) => rows.push([name, what, l, r]);
    if (x.step !== y.step) { add("step", x.step, y.step); return; }
    const p = Object.fromEntries(x.parents.map(r => [r.role, r.digest])), q = Object.fromEntries(y.parents.map(r => [r.role, r.digest]));
    for (const role of new Set([...Object.keys(p), ...Object.keys(q)])) if (p[role] && q[role]) walk(p[role], q[role]);
      else add("parent " + role, p[role] ? N[p[role]].label : "–", q[role] ? N[q[role]].label : "–");
    if (x.version !== y.version) add("version of the step", String(x.version), String(y.version));
    const c = config(x), e = config(y);
    for (const k of [...new Set([...Object.keys(c), ...Object.keys(e)])].sort()) if (c[k] !== e[k]) {
      // Steps below declare the same settings again: each is said once, where it acts first.
      const once = [k.startsWith("phases.") ? x.name : "", k, c[k], e[k]].join("|");
      if (!told.has(once)) { told.add(once); add(k, c[k] ?? "–", e[k] ?? "–"); }
    }
    const i = inputs(x, a), j = inputs(y, b), keys = new Set([...Object.keys(i), ...Object.keys(j)]), changed = [...keys].filter(k => i[k] !== j[k]);
    if (changed.length) add(`${changed.length} inputs`, changed.filter(k => i[k]).slice(0, 5).join(", ") || "–", changed.filter(k => j[k]).slice(0, 5).join(", ") || "–");
  };
  const a = at("left").value, b = at("right").value;
  if (!a || !b) return;
  clear();
  for (const d of [a, b]) if (boxes[d]) { boxes[d].classList.add("on"); boxes[d].querySelector(".sign").textContent = d === a ? "A" : "B"; }
  walk(a, b);
  said.textContent = a === b ? "Both are the same artifact." : rows.length ? "" : "Nothing that was asked for differs.";
  panel.replaceChildren(el("h2", {}, `${N[a].label} (A) against ${N[b].label} (B)`), rows.length ? table(["where", "what", "A", "B"], rows) : "");
}
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean), hits = [], more = (t, note, go) => hits.push([t, note, go]);
  const match = t => words.every(w => t.toLowerCase().includes(w));
  if (!words.length) { at("hits").replaceChildren(); return; }
  const home = Object.keys(D.nodes).find(d => N[d].step === "ingest");
  for (const [d, n] of Object.entries(N)) if (match(`${n.label} ${d} ${n.content}`)) more(n.label, d.slice(0, 12), () => choose(d, true));
  for (const t of D.languages) if (home && match(t)) more(t, "all text of this folder: what used it?", () => used(home, t, t));
  for (const [d, n] of Object.entries(N)) for (const [k, v] of Object.entries(leaves(n.config, "", {}))) if (match(k)) more(`${k}: ${v}`, n.label, () => choose(d, true));
  for (const s of D.sources) if (match(`${s[1]} ${s[3]}`)) more(s[1], "raw file: what used it?", () => used(s[0], s[1], s[2]));
  for (const [d, n] of Object.entries(N)) for (const part of [n.files, n.external]) for (const [k, v] of Object.entries(part)) if (match(`${k} ${v.sha256 || v}`)) {
    const folder = k.split("/").find(x => D.languages.includes(x));
    more(k, `file of ${n.label}` + (folder ? ": what used it?" : ""), () => folder ? used(d, k, folder) : choose(d, true));
  }
  at("hits").replaceChildren(...hits.slice(0, 40).map(([t, note, go]) => el("button", {type: "button", onclick: go}, t, el("small", {}, note))),
    el("small", {}, hits.length ? hits.length > 40 ? `${hits.length} found, 40 shown` : `${hits.length} found` : "nothing found"));
}
for (const [d, g] of Object.entries(boxes)) {
  g.onclick = () => choose(d);
  g.onkeydown = e => {
    const near = e.key === "ArrowLeft" ? up(d)[0] : e.key === "ArrowRight" ? down(d)[0] : null;
    if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(d); } else if (near && boxes[near]) { e.preventDefault(); choose(near, true); }
  };
}
for (const [id, first] of [["left", D.root], ["right", D.other]]) {
  const option = d => el("option", {value: d}, (D.others[d] ? "other: " : "") + N[d].label + " " + d.slice(0, 8));
  at(id).append(...(first ? [] : [el("option", {value: ""}, "choose an artifact")]), ...Object.keys(N).sort((a, b) => !!D.others[a] - !!D.others[b] || N[a].label.localeCompare(N[b].label)).map(option));
  at(id).value = first; at(id).onchange = compare;
}
at("find").addEventListener("input", e => { e.stopImmediatePropagation(); find(e.target.value); }, true);
at("find").onkeydown = e => { if (e.key === "Escape") { e.target.value = ""; find(""); clear(); } else if (e.key === "ArrowDown") { const b = at("hits").querySelector("button"); if (b) { e.preventDefault(); b.focus(); } } };
at("hits").onkeydown = e => { const go = {ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling"}[e.key]; if (go) { e.preventDefault(); (document.activeElement[go] || at("find")).focus(); } };
D.other ? compare() : choose(D.root, true);
"""
