"use strict";
// Sorting, filtering and copying of tables; without it the page shows the same.
const cells = row => [...row.cells].map(cell => cell.textContent.trim());
const value = text => {
  const number = parseFloat(text.replace(/^[<>]=?\s*/, "").replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
const latex = text => text.replace(/[&%$#_{}]/g, "\\$&").replaceAll("~", "\\textasciitilde{}").replaceAll("†", "\\dag{}");
const formats = {
  CSV: rows => rows.map(row => row.map(cell => /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell).join(",")).join("\n"),
  Markdown: rows => {
    const lines = rows.map(row => `| ${row.map(cell => cell.replaceAll("|", "\\|")).join(" | ")} |`);
    return [lines[0], `|${" --- |".repeat(rows[0].length)}`, ...lines.slice(1)].join("\n");
  },
  LaTeX: rows => {
    const lines = rows.map(row => `${row.map(latex).join(" & ")} \\\\`);
    return [`\\begin{tabular}{${"l".repeat(rows[0].length)}}`, "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n");
  },
};
function sortBy(table, position) {
  const header = table.tHead.rows[0].cells[position];
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(cells(a)[position]), value(cells(b)[position])) * (descending ? -1 : 1));
  table.tBodies[0].append(...rows);
}
function button(words, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  made.addEventListener("click", () => action(made));
  return made;
}
async function copy(table, format, pressed) {
  const rows = [table.tHead.rows[0], ...table.tBodies[0].rows].filter(row => !row.hidden).map(cells);
  await navigator.clipboard.writeText(formats[format](rows));
  const words = pressed.textContent;
  pressed.textContent = "copied";
  setTimeout(() => { pressed.textContent = words; }, 1500);
}
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((header, position) => {
    const words = header.textContent;
    header.textContent = "";
    header.append(button(words, () => sortBy(table, position)));
  });
  const tools = document.createElement("div");
  tools.className = "tools";
  const filter = document.createElement("input");
  filter.type = "search";
  filter.placeholder = "filter rows";
  filter.setAttribute("aria-label", "Filter the rows of the next table");
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  tools.append(filter, ...Object.keys(formats).map(name => button(`copy ${name}`, pressed => copy(table, name, pressed))));
  table.closest(".scroll").before(tools);
}
