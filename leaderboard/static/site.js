// What the pages add where scripts run: sorting, filters and comparisons. Every figure and query stands in the page
// without it. Nothing is loaded, and no text is ever read as HTML.
"use strict";

document.documentElement.classList.add("js");

const byId = (id) => document.getElementById(id);

function onChange(id, act) {
  const element = byId(id);
  if (element) element.addEventListener("input", () => act(element.value));
}

function sortable(table) {
  const numbers = [];
  table.querySelectorAll("tbody tr:first-child > *").forEach((cell, column) => {
    if (cell.hasAttribute("data-order") && cell.tagName === "TD") numbers.push(column);
  });
  const ranks = [...table.querySelectorAll("tbody tr:first-child > .rank")].map((cell) => cell.cellIndex);
  return new DataTable(table, {
    paging: false,
    info: false,
    order: [],
    autoWidth: false,
    titleRow: table.classList.contains("models") ? 1 : 0,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    language: { emptyTable: "No figures", zeroRecords: "No model of that name" },
    columnDefs: [{ targets: ranks, orderSequence: ["asc", "desc", ""] }, { targets: numbers, type: "num", orderSequence: ["desc", "asc", ""] }],
  });
}

function setUpBoards() {
  const boards = [...document.querySelectorAll(".board")].map((section) => ({
    section,
    table: sortable(section.querySelector("table")),
  }));
  onChange("filter-model", (value) => {
    for (const { table } of boards) table.column(0).search(value, { regex: false, smart: true }).draw();
  });
  onChange("filter-block", (value) => {
    for (const { section } of boards) section.hidden = value !== "" && section.dataset.block !== value;
  });
  onChange("filter-kind", (value) => {
    for (const { table } of boards) {
      table.columns().every(function () {
        const { kind } = this.header().dataset;
        if (kind) this.visible(value === "" || kind === value);
      });
    }
  });
  for (const box of document.querySelectorAll("[data-toggle]")) {
    box.addEventListener("change", () => {
      for (const { table } of boards) {
        table.columns().every(function () {
          if (this.header().dataset.column === box.dataset.toggle) this.visible(box.checked);
        });
      }
    });
  }
  setUpTraining(boards);
}

// Figures of tasks that a model was trained on are taken out of their cells, and the best are found among the others.
function setUpTraining(boards) {
  const select = byId("filter-trained");
  if (!select) return;
  const tables = boards.map(({ section, table }) => ({
    table,
    items: [...section.querySelectorAll("tbody tr[data-trained]")],
    rows: [...section.querySelectorAll("table.models tbody tr")].map((row) => ({
      row,
      cells: [...row.querySelectorAll("td[data-trained], td.mean")].map((cell) => ({
        cell,
        column: cell.cellIndex,
        nodes: [...cell.childNodes],
        order: cell.dataset.order,
        best: cell.classList.contains("best"),
      })),
    })),
  }));
  select.addEventListener("input", () => {
    const out = new Set(select.value.split(" ").filter(Boolean));
    for (const { table, items, rows } of tables) {
      for (const row of items) row.hidden = out.has(row.dataset.trained);
      for (const { row, cells } of rows) {
        const figures = cells.filter(({ cell }) => cell.dataset.trained);
        const some = figures.some(({ cell }) => out.has(cell.dataset.trained));
        row.hidden = some && figures.every(({ cell }) => out.has(cell.dataset.trained));
        for (const part of cells) {
          const { dataset, classList } = part.cell;
          // A rank is one among all figures, a mean one of all tasks.
          show(part, !(dataset.trained ? out.has(dataset.trained) : some || (classList.contains("rank") && out.size)));
        }
      }
      markBest(rows, out.size > 0);
      table.rows().invalidate("dom").draw();
    }
    document.documentElement.classList.toggle("training-filtered", out.size > 0);
    const compare = byId("compare");
    if (compare) compare.dispatchEvent(new Event("input"));
  });
}

function show({ cell, nodes, order }, shown) {
  if (cell.classList.contains("left-out") !== shown) return;
  cell.classList.toggle("left-out", !shown);
  if (shown) cell.replaceChildren(...nodes);
  else cell.replaceChildren("–");
  cell.dataset.order = shown ? order : cell.classList.contains("rank") ? 9999 : -1;
}

function markBest(rows, filtered) {
  const groups = new Map();
  for (const { row, cells } of rows) {
    for (const part of cells) {
      part.cell.classList.toggle("best", part.best && !filtered);
      if (!part.cell.dataset.trained || part.cell.matches(".left-out") || row.matches(".unranked")) continue;
      const key = `${part.column} ${part.cell.dataset.pool || ""}`;
      groups.set(key, [...(groups.get(key) || []), part]);
    }
  }
  if (!filtered) return;
  for (const parts of groups.values()) {
    const most = Math.max(...parts.map(({ order }) => Number(order)));
    for (const { cell, order } of parts) cell.classList.toggle("best", parts.length > 1 && Number(order) === most);
  }
}

function setUpComparison() {
  const select = byId("compare");
  if (!select) return;
  const found = JSON.parse(byId("significance").textContent);
  const models = new Map();
  for (const row of document.querySelectorAll("tr[data-model]")) {
    models.set(row.dataset.model, row.querySelector(".who a").textContent);
  }
  const compared = new Set(Object.values(found).flatMap((pairs) => pairs.models));
  for (const [slug, name] of models) {
    if (compared.has(slug)) select.append(new Option(name, slug));
  }
  const drawn = [...document.querySelectorAll("td[data-pool]")].map((cell) => ({
    cell,
    usual: cell.querySelector(".tied"),
    value: Number(cell.dataset.order),
    slug: cell.closest("tr").dataset.model,
    key: `${cell.dataset.pool} ${cell.dataset.metric}`,
  }));
  select.addEventListener("input", () => {
    const reference = select.value;
    document.documentElement.classList.toggle("compared", reference !== "");
    for (const row of document.querySelectorAll("tr[data-model]")) {
      row.classList.toggle("reference", row.dataset.model === reference);
    }
    for (const { cell, usual, value, slug, key } of drawn) {
      if (cell.classList.contains("left-out")) continue;
      cell.querySelectorAll(".tied, .better, .worse").forEach((mark) => mark.remove());
      let mark = reference === "" ? usual : null;
      const p = reference === "" ? null : pValue(found[key], slug, reference);
      if (p !== null) {
        const other = drawn.find((one) => one.key === key && one.slug === reference);
        mark = verdict(p, value - (other ? other.value : value));
      }
      if (mark) cell.insertBefore(mark, cell.querySelector(".interval"));
    }
  });
}

function pValue(pairs, first, second) {
  if (!pairs) return null;
  const a = pairs.models.indexOf(first);
  const b = pairs.models.indexOf(second);
  if (a < 0 || b < 0 || a === b) return null;
  return pairs.p[Math.max(a, b)][Math.min(a, b)];
}

function verdict(p, apart) {
  const mark = document.createElement("span");
  const significant = p < 0.05;
  mark.className = !significant ? "tied" : apart > 0 ? "better" : "worse";
  mark.textContent = !significant ? "≈" : apart > 0 ? "▲" : "▼";
  mark.title = `${apart > 0 ? "+" : ""}${apart.toFixed(1)} points, p = ${p < 0.001 ? "< 0.001" : p.toFixed(3)}`;
  return mark;
}

function setUpQueries() {
  const queries = [...document.querySelectorAll(".query")];
  let state = "";
  let text = "";
  const apply = () => {
    let shown = 0;
    for (const query of queries) {
      query.hidden =
        (state !== "" && query.dataset.state !== state) || !query.textContent.toLowerCase().includes(text);
      if (!query.hidden) shown += 1;
    }
    byId("nothing").hidden = shown > 0;
  };
  onChange("filter-queries", (value) => { state = value; apply(); });
  onChange("filter-text", (value) => { text = value.toLowerCase(); apply(); });
}

document.querySelectorAll("form.filters").forEach((form) => {
  form.addEventListener("submit", (event) => event.preventDefault());
});
if (document.querySelector(".board")) {
  setUpBoards();
  setUpComparison();
}
if (document.querySelector(".queries")) setUpQueries();
