"use strict";
(() => {
  const views = [];
  let kept = "";
  let pointed = "";
  let asked = false;
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  // ------------------------------------------------------------------ one run, followed through the whole page
  const rows = new Map();
  for (const element of document.querySelectorAll("[data-run]")) {
    const run = element.dataset.run;
    if (!rows.has(run)) rows.set(run, []);
    rows.get(run).push(element);
  }
  let marked = [];
  const show = () => {
    asked = false;
    const run = pointed || kept;
    for (const element of marked) element.classList.remove("followed", "kept");
    marked = rows.get(run) || [];
    for (const element of marked) {
      element.classList.add("followed");
      if (run === kept) element.classList.add("kept");
    }
    document.documentElement.dataset.followed = run;
    for (const { view, runs } of views) {
      const own = runs.has(run) ? run : "";
      if (view.signal("followed") !== own) view.signal("followed", own).runAsync();
    }
  };
  const later = () => {
    if (!asked) { asked = true; requestAnimationFrame(show); }
  };
  const point = (run) => { if (pointed !== run) { pointed = run; later(); } };
  const keep = (run) => { kept = kept === run ? "" : run; later(); };
  const runOf = (target) => {
    const element = target instanceof Element ? target.closest("[data-run]") : null;
    return element && element.dataset.run !== "experiment" ? element.dataset.run : "";
  };
  document.addEventListener("mouseover", (event) => {
    if (!(event.target instanceof Element && event.target.closest(".plot"))) point(runOf(event.target));
  });
  document.addEventListener("click", (event) => {
    const target = event.target;
    if (!(target instanceof Element) || target.closest("a, button, select, input, summary, .plot, .item")) return;
    const run = runOf(target);
    if (run && !String(getSelection())) keep(run);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { kept = ""; pointed = ""; later(); }
  });

  // ------------------------------------------------------------------ figures
  const tip = byId("tip");
  const tell = (handler, event, item, value) => {
    if (value === null || value === undefined || value === "") { tip.hidden = true; return; }
    tip.replaceChildren();
    const entries = typeof value === "object" ? Object.entries(value) : [["", value]];
    for (const [name, text] of entries) {
      const line = make("div");
      line.append(make("span", name), make("b", String(text)));
      tip.append(line);
    }
    tip.hidden = false;
    const room = 14;
    const left = event.clientX + room + tip.offsetWidth > innerWidth
      ? event.clientX - room - tip.offsetWidth : event.clientX + room;
    const top = Math.min(event.clientY + room, innerHeight - tip.offsetHeight - room);
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };
  const itemRun = (item) => (item && item.datum && typeof item.datum.run === "string" ? item.datum.run : "");
  const draw = async (place) => {
    const spec = JSON.parse(byId(place.dataset.spec).textContent);
    const runs = new Set();
    for (const data of Object.values(spec.datasets || {})) {
      for (const row of data) if (typeof row.run === "string") runs.add(row.run);
    }
    const options = { ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: tell, loader: { load: () => Promise.reject(new Error("nothing is loaded")) } };
    const { view } = await window.vegaEmbed(place, spec, options);
    views.push({ view, runs });
    view.addEventListener("mouseover", (event, item) => point(itemRun(item)));
    view.addEventListener("mouseout", () => point(""));
    view.addEventListener("click", (event, item) => {
      const run = itemRun(item);
      if (run) keep(run);
    });
    place.dataset.drawn = "yes";
  };
  // A figure takes the width of its place, which it has once its section is open.
  const drawAll = async () => {
    if (!window.vegaEmbed) return;
    for (const place of document.querySelectorAll(".plot:not([data-drawn])")) {
      if (!place.clientWidth) continue;
      place.dataset.drawn = "at work";
      try {
        await draw(place);
      } catch (error) {
        place.append(make("p", `This figure could not be drawn: ${error}`, "none"));
        place.dataset.drawn = "no";
      }
    }
    document.documentElement.dataset.figures = "drawn";
    later();
  };
  for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", drawAll);

  // ------------------------------------------------------------------ tables
  const value = (row, index) => {
    const cell = row.cells[index];
    const text = cell.dataset.v === undefined ? cell.textContent : cell.dataset.v;
    const number = Number(text);
    return { missing: text === "" || cell.textContent.startsWith("n/a"), text, number: text !== "" && !Number.isNaN(number) ? number : null };
  };
  const compare = (a, b, sign) => {
    if (a.missing !== b.missing) return a.missing ? 1 : -1;
    if (a.number !== null && b.number !== null) return sign * (a.number - b.number);
    if ((a.number === null) !== (b.number === null)) return sign * (a.number === null ? 1 : -1);
    return sign * a.text.localeCompare(b.text, "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const first = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      head.querySelector("button").addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        for (const other of heads) other.removeAttribute("aria-sort");
        if (before === "descending") { body.append(...first); return; }
        const sign = before === "ascending" ? -1 : 1;
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const keyed = first.map((row) => [row, value(row, index)]);
        body.append(...keyed.sort((a, b) => compare(a[1], b[1], sign)).map(([row]) => row));
      });
    });
  }

  // ------------------------------------------------------------------ samples
  const SHOWN = innerWidth < 640 ? 5 : 12;
  const BRIEF = 280;
  const RIGHT = 0.5;
  const browse = (data) => {
    const place = byId("browser");
    const answersOf = (item) => {
      const known = new Set(item[3].flatMap((group) => group[2] || []));
      const answers = new Map();
      item[3].forEach(([text, score, runs], group) => {
        const own = runs || data.runs.map((_, run) => run).filter((run) => !known.has(run));
        for (const run of own) answers.set(run, { text, score, group });
      });
      return answers;
    };
    const items = data.items.map((item) => ({ id: item[0], question: item[1], target: item[2], groups: item[3], answers: answersOf(item) }));
    const kinds = {
      gained: ["gained against the control", (own, other) => own && other && own.score > other.score],
      lost: ["lost against the control", (own, other) => own && other && own.score < other.score],
      wrong: ["missed", (own) => own && own.score < RIGHT],
      all: ["missed by all", (own, other, item) => [...item.answers.values()].every((answer) => answer.score < RIGHT)],
      any: ["all shown here", () => true],
    };
    const bar = make("div", undefined, "controls");
    const choice = (label, options, chosen) => {
      const box = make("select");
      box.setAttribute("aria-label", label);
      for (const [key, text] of options) {
        const option = make("option", text);
        option.value = key;
        box.append(option);
      }
      box.value = chosen;
      const wrap = make("label", `${label} `);
      wrap.append(box);
      bar.append(wrap);
      return box;
    };
    const run = choice("Run", data.runs.map((name, index) => [String(index), name]), String(data.first));
    const kind = choice("Items", Object.entries(kinds).map(([key, [text]]) => [key, text]), "gained");
    const find = make("input");
    find.type = "search";
    find.placeholder = "find in questions and answers";
    find.setAttribute("aria-label", "Find in questions and answers");
    const count = make("span", "", "small");
    bar.append(find, count);
    const wrap = make("div", undefined, "scroll");
    const more = make("button", "Show more", "more");
    more.type = "button";
    place.append(bar, wrap, more);
    const own = data.first;
    if (!items.some((item) => kinds.gained[1](item.answers.get(own), item.answers.get(data.controls[own])))) kind.value = "any";
    let limit = SHOWN;
    const shownAnswer = (answer) => {
      const cell = make("td", answer ? answer.text || "(empty)" : "no answer");
      if (answer) cell.className = answer.score >= RIGHT ? "right" : "wrong";
      return cell;
    };
    const open = (row, item, own) => {
      const next = row.nextElementSibling;
      if (next && next.classList.contains("all")) { next.remove(); return; }
      const list = make("ul");
      item.groups.forEach(([text, score], group) => {
        const own = [...item.answers].filter(([, answer]) => answer.group === group).map(([index]) => data.runs[index]);
        const line = make("li", text || "(empty)", score >= RIGHT ? "right" : "wrong");
        const names = own.length > 24 ? `${own.slice(0, 24).join(", ")} and ${own.length - 24} more` : own.join(", ");
        line.append(make("div", `${own.length} of ${item.answers.size} runs: ${names}`, "who"));
        list.append(line);
      });
      const cell = make("td");
      cell.colSpan = row.cells.length;
      cell.append(make("div", "Answers", "who"), list);
      const all = make("tr", undefined, "all");
      all.append(cell);
      row.after(all);
    };
    const brief = (text) => (text.length > BRIEF ? `${text.slice(0, BRIEF)}…` : text);
    const render = () => {
      const own = Number(run.value);
      const control = data.controls[own];
      const words = find.value.toLowerCase();
      const test = kinds[kind.value][1];
      const found = items.filter((item) => test(item.answers.get(own), item.answers.get(control), item)
        && (!words || [item.id, item.question, item.target, ...item.groups.map((group) => group[0])].some((text) => text.toLowerCase().includes(words))));
      const table = make("table", undefined, "samples");
      const head = make("tr");
      const titles = ["Item", "Question", "Expected", control === null ? "" : `Control ${data.runs[control]}`, data.runs[own]];
      const heads = titles.filter((text) => text);
      for (const title of heads) head.append(make("th", title));
      const body = make("tbody");
      for (const item of found.slice(0, limit)) {
        const row = make("tr", undefined, "item");
        row.tabIndex = 0;
        row.title = "Prompt and all answers";
        row.append(make("td", item.id), make("td", brief(item.question) || "n/a"), make("td", item.target));
        if (control !== null) row.append(shownAnswer(item.answers.get(control)));
        row.append(shownAnswer(item.answers.get(own)));
        [...row.cells].forEach((cell, index) => { cell.dataset.label = heads[index]; });
        row.addEventListener("click", () => { if (!String(getSelection())) open(row, item, own); });
        row.addEventListener("keydown", (event) => { if (event.key === "Enter") open(row, item, own); });
        body.append(row);
      }
      const top = make("thead");
      top.append(head);
      table.append(top, body);
      wrap.replaceChildren(table);
      count.textContent = `${found.length} item${found.length === 1 ? "" : "s"}`;
      more.hidden = found.length <= limit;
    };
    const again = () => { limit = SHOWN; render(); };
    run.addEventListener("change", again);
    kind.addEventListener("change", again);
    find.addEventListener("input", again);
    more.addEventListener("click", () => { limit += 200; render(); });
    render();
  };
  const samples = byId("samples-data");
  if (samples) browse(JSON.parse(samples.textContent));

  // ------------------------------------------------------------------ print: what is folded opens, where it is short
  const PRINTED_ROWS = 60;
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details:not([open])")) {
      if (fold.querySelectorAll("tr").length > PRINTED_ROWS || fold.querySelector(".plot:not([data-drawn])")) continue;
      fold.open = true;
      fold.dataset.opened = "yes";
    }
  });
  addEventListener("afterprint", () => {
    for (const fold of document.querySelectorAll("details[data-opened]")) {
      fold.open = false;
      delete fold.dataset.opened;
    }
  });

  // ------------------------------------------------------------------ light and dark; the place after a refresh
  const memory = (act) => { try { return act(sessionStorage); } catch { return null; } };
  const theme = byId("theme");
  const dark = () => {
    const set = document.documentElement.dataset.theme;
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  const remembered = memory((store) => store.getItem("theme"));
  if (remembered) document.documentElement.dataset.theme = remembered;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    memory((store) => store.setItem("theme", document.documentElement.dataset.theme));
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
  if (document.querySelector("meta[http-equiv=refresh]")) {
    addEventListener("pagehide", () => memory((store) => store.setItem("top", String(scrollY))));
    const top = Number(memory((store) => store.getItem("top")));
    if (top) drawAll().then(() => scrollTo({ top, behavior: "instant" })); else drawAll();
  } else {
    drawAll();
  }
})();
